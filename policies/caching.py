"""Response cache: cacheable requests, cache keys and lifetimes (policy key `routes[].cache`). Pure.

The key is SHA-256 over what decides an answer: the tenant (or none, where answers are shared), the pool with its
version, the model's name there, the target, and the body in canonical form: names sorted, white space gone, strings by
their meaning, numbers as they stand. Two bodies of one key mean the same to every reader of JSON: one with a name twice
in an object, which readers take differently, has no canonical form. Such a body, one that is no JSON and one over
CANONICAL bytes match byte for byte instead.

Deterministic is what says `temperature: 0` or has a `seed`, and what is read and not generated (embeddings, rerank,
score, classify, tokens). Only `always` takes the rest, such as a `path` route's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final, Literal

from policies.codec import JSONError, Raw, decode, encode_sorted
from policies.config.settings.routes import CacheSettings
from policies.json_object import RefusedBody, members
from policies.request.paths import PathKind

CANONICAL: Final = 64 << 10
"""Bytes of a body that is brought into canonical form: 64 KiB take 6 ms at the worst, and the loop waits for it."""

# Another one where a change here, or in what is kept, makes old answers wrong.
_VERSION: Final = b"1"
_READ_SCOPES: Final = frozenset({"embeddings", "rerank"})
_READ_PATHS: Final = frozenset({"/classify", "/tokenize", "/detokenize", "/v1/messages/count_tokens"})
# Where `temperature` and `seed` stand; in an object inside for /generate.
_SAMPLED: Final[Mapping[str, Sequence[str]]] = {
    "/v1/chat/completions": (),
    "/v1/completions": (),
    "/v1/responses": (),
    "/v1/messages": (),
    "/generate": ("parameters", "sampling_params"),
    "/generate_stream": ("parameters", "sampling_params"),
}
# How an engine ends an answer that it was stopped in, or failed in. Inside of a JSON string the quotes are escaped.
_UNFINISHED: Final = re.compile(rb'"finish_reason"\s*:\s*"(?:abort|error)"|"response\.failed"')

Age = Literal["fresh", "stale"]
Headers = Iterable[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class CacheableRequest:
    """Request with all facts that determine its answer.

    tenant: None where all tenants share answers
    model: the model's name at the engine
    strips: whether the client's stream has no usage though the body asks for it
    """

    kind: PathKind
    method: str
    target: bytes
    content_type: bytes
    body: bytes
    tenant: str | None
    pool: str
    version: str
    model: str | None
    strips: bool = False


def cache_key(asked: CacheableRequest, settings: CacheSettings) -> bytes | None:
    """The key of an answer, 32 bytes; None for what is never answered from the cache."""
    if asked.method != "POST" or asked.kind.model_in == "form":
        # A form has another boundary each time, so nothing would ever be found again.
        return None
    try:
        found: dict[str, Raw] | None = members(asked.body)
    except RefusedBody:
        found = None
    if found is not None and _stateful(found):
        return None
    if settings.mode == "deterministic" and (found is None or not _deterministic(asked.kind, found)):
        return None
    canonical = _canonical(asked.body) if found is not None and len(asked.body) <= CANONICAL else None
    return _digest(
        _VERSION,
        b"" if asked.tenant is None else b"t" + asked.tenant.encode(),
        asked.pool.encode(),
        asked.version.encode(),
        b"" if asked.model is None else b"m" + asked.model.encode(),
        asked.target,
        b"strips" if asked.strips else b"",
        b"raw" + asked.content_type.lower() if canonical is None else b"canonical",
        asked.body if canonical is None else canonical,
    )


def age_of(stored_at: float, now: float, settings: CacheSettings) -> Age | None:
    """Return the age class of an answer by the seconds since it was stored; None once it is too old even for a
    fallback. Clocks of several machines differ: what comes from the future is fresh."""
    age = now - stored_at
    if age < settings.ttl:
        return "fresh"
    return "stale" if age < settings.ttl + settings.stale else None


def lifetime(settings: CacheSettings) -> float:
    """Seconds for which an answer is kept."""
    return settings.ttl + settings.stale


def wanted(headers: bytes) -> tuple[bool, bool]:
    """Return the meaning of a request's Cache-Control (RFC 9111 section 5.2.1): whether it may be answered from the
    cache, and whether its answer may be kept."""
    words = {word.strip().lower() for word in headers.split(b",")}
    keeps = b"no-store" not in words
    return keeps and b"no-cache" not in words, keeps


def shareable(status: int, headers: Headers) -> bool:
    """Return whether an answer with this head may go to other clients, who may not accept its content coding."""
    return status == 200 and not any(
        (name == b"content-encoding" and value.lower() != b"identity")
        or (name == b"cache-control" and b"no-store" in value.lower())
        for name, value in headers
    )


def has_end_marker(kind: PathKind) -> bool:
    """Return whether a complete stream of this path ends with an explicit marker, such as `[DONE]`."""
    return _SAMPLED.get(kind.path) == ()


def whole(body: bytes, *, stream: bool) -> bool:
    """Return whether an answer that ended in order is complete: an engine may send an error with 200, or stop in the
    middle."""
    if _UNFINISHED.search(body):
        return False
    if stream or b'"error"' not in body:
        return True
    try:
        error = members(body).get("error")
    except RefusedBody:
        return True
    return error is None or bytes(error) == b"null"


def _stateful(found: Mapping[str, Raw]) -> bool:
    """Return whether the answer depends on an object that changes: a background job's state, a conversation."""
    return any(
        bytes(found[name]) not in (b"null", b"false") for name in ("background", "conversation") if name in found
    )


def _deterministic(kind: PathKind, found: Mapping[str, Raw]) -> bool:
    if kind.scope in _READ_SCOPES or kind.path in _READ_PATHS:
        return True
    inside = _SAMPLED.get(kind.path)
    if inside is None:
        return False
    return any(map(_is_fixed, [found, *(_object(found[name]) for name in inside if name in found)]))


def _is_fixed(found: Mapping[str, Raw]) -> bool:
    """Return whether the request has temperature 0 or a seed; -1 means a random seed in llama.cpp."""
    temperature, seed = _number(found.get("temperature")), _number(found.get("seed"))
    return temperature == 0 or (seed is not None and seed >= 0)


def _object(raw: Raw) -> Mapping[str, Raw]:
    try:
        return decode(raw, dict[str, Raw])
    except JSONError:
        return {}


def _number(raw: Raw | None) -> float | None:
    if raw is None:
        return None
    try:
        return float(bytes(raw))
    except ValueError:
        return None


def _canonical(body: bytes) -> bytes | None:
    """The same JSON in the one form; None for what readers could read in two ways."""
    try:
        value = _decode(body.decode())
        return encode_sorted(value)
    except (ValueError, RecursionError):
        return None


def _one_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name twice")
    return found


def _no_number(text: str) -> Any:
    raise ValueError(text)


# Python's own decoder is the one that shows each name and each number as they stand.
_decode: Final = json.JSONDecoder(
    object_pairs_hook=_one_each, parse_float=Raw, parse_int=Raw, parse_constant=_no_number
).decode


def _digest(*parts: bytes) -> bytes:
    digest = sha256()
    for part in parts:
        digest.update(b"%d:" % len(part))
        digest.update(part)
    return digest.digest()
