"""The paths that clients may ask for, and what each means: a dictionary, because it stands on every request's way.

The raw path is looked up as it came. Nothing is normalised or decoded on the way, so `//v1/..`, `%2e%2e` and the like
are simply not served (404) and can not mean one thing here and another at the engine. Only a KServe model's name may
be percent-encoded.

**Scopes** (policy key `plans.scopes`): what a path does decides, not how it is called.

| scope | paths |
|---|---|
| `chat` | `/v1/chat/completions`, `/v1/responses` and below, `/v1/messages` and below, `/tokenize`, `/detokenize` |
| `completions` | `/v1/completions`, `/generate`, `/generate_stream` |
| `embeddings` | `/v1/embeddings`, `/pooling` |
| `rerank` | `/v1/rerank`, `/rerank`, `/v2/rerank`, `/v1/score`, `/score` |
| `audio` | `/v1/audio/transcriptions`, `/v1/audio/translations` |
| `predict` | `/classify`, KServe's `/v2...`, whatever a `path` route serves |

**Families** are the shapes of errors: `anthropic` under `/v1/messages`, `triton` under `/v2` (save `/v2/rerank`,
which vLLM and SGLang answer in OpenAI's shape), `tgi` on `/generate` and `/generate_stream`, else `openai`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final, Literal
from urllib.parse import quote, unquote_to_bytes

from policies.request.describe import ModelIn

Family = Literal["openai", "anthropic", "triton", "tgi"]

_POST: tuple[str, ...] = ("POST",)
_GET: tuple[str, ...] = ("GET", "HEAD")


@dataclass(frozen=True, slots=True)
class PathKind:
    """Kind of a path. `path` is the pattern for a path with a name in it: bounded, so it may be a label."""

    path: str
    scope: str = "predict"
    model_in: ModelIn = "body"
    family: Family = "openai"
    methods: tuple[str, ...] = _POST
    streams: bool = False
    """The answer is a stream whatever the body says."""
    named_events: bool = False
    """Streams of this path name their events (`event: error`), so the gateway's events must have names too."""
    model: str | None = None
    """The model that the path names."""
    raw_path: str = ""
    """The path as it came, where it is needed to find a route without a model."""
    route: int | None = None
    """Position in the policy of the `path` route that serves the path."""


class MethodRefused(Exception):
    """The path is served, but not by this method; `allow` is the value of the Allow header (RFC 9110, 15.5.6)."""

    def __init__(self, kind: PathKind) -> None:
        super().__init__(f"use {', '.join(kind.methods)}")
        self.kind = kind
        self.allow = ", ".join(kind.methods)


CONTROL = PathKind("control", model_in="none", methods=_GET)
"""Answered by the gateway itself: /health, /ready, /v1/usage, /v1/models and /v1/models/{id}."""

UNKNOWN = PathKind("unknown", model_in="none", methods=())
"""Served by nobody."""

SERVED: Final = (
    PathKind("/v1/chat/completions", "chat"),
    PathKind("/v1/completions", "completions"),
    PathKind("/v1/embeddings", "embeddings"),
    PathKind("/v1/responses", "chat", named_events=True),
    PathKind("/v1/messages", "chat", family="anthropic", named_events=True),
    PathKind("/v1/messages/count_tokens", "chat", family="anthropic"),
    PathKind("/v1/rerank", "rerank"),
    PathKind("/rerank", "rerank"),
    PathKind("/v2/rerank", "rerank"),
    PathKind("/v1/score", "rerank"),
    PathKind("/score", "rerank"),
    PathKind("/pooling", "embeddings"),
    PathKind("/classify", "predict"),
    PathKind("/v1/audio/transcriptions", "audio", "form"),
    PathKind("/v1/audio/translations", "audio", "form"),
    PathKind("/tokenize", "chat"),
    PathKind("/detokenize", "chat"),
    # TGI serves one model and its clients name none; SGLang has the same path and may be told one.
    PathKind("/generate", "completions", "body_optional", "tgi", raw_path="/generate"),
    PathKind("/generate_stream", "completions", "body_optional", "tgi", streams=True, raw_path="/generate_stream"),
    PathKind("/v2", "predict", "none", "triton", _GET, raw_path="/v2"),
    PathKind("/v2/health/live", "predict", "none", "triton", _GET, raw_path="/v2/health/live"),
    PathKind("/v2/health/ready", "predict", "none", "triton", _GET, raw_path="/v2/health/ready"),
)
"""The paths without a name in them that go to an engine."""
_STATIC: dict[bytes, PathKind] = {kind.path.encode(): kind for kind in SERVED} | {
    path: CONTROL for path in (b"/health", b"/ready", b"/v1/models", b"/v1/usage")
}

_MODEL = re.compile(rb"/v2/models/([^/]+)(?:/versions/[A-Za-z0-9._-]+)?(?:/(infer|generate|generate_stream|ready))?")
_KSERVE = {
    b"": PathKind("/v2/models/{m}", "predict", "path", "triton", _GET),
    b"ready": PathKind("/v2/models/{m}/ready", "predict", "path", "triton", _GET),
    b"infer": PathKind("/v2/models/{m}/infer", "predict", "path", "triton"),
    b"generate": PathKind("/v2/models/{m}/generate", "predict", "path", "triton"),
    b"generate_stream": PathKind("/v2/models/{m}/generate_stream", "predict", "path", "triton", streams=True),
}
_RESPONSE = re.compile(rb"/v1/responses/[A-Za-z0-9_-]{1,256}(/cancel)?")
_RESPONSES = {
    b"": PathKind("/v1/responses/{id}", "chat", "none", methods=_GET, named_events=True),
    b"/cancel": PathKind("/v1/responses/{id}/cancel", "chat", "none"),
}
_OUR_MODEL = b"/v1/models/"

_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})?")
# What an engine could take for structure once it has decoded a path (`.` too: of `%2e%2e`), or can't be in a path at
# all.
_STRUCTURE = frozenset(b"./\\%?#;") | frozenset(range(0x21)) | {0x7F}
_USUAL = re.compile(rb"(?:/[A-Za-z0-9_-][A-Za-z0-9._-]*+)+")
_ALLOWED = re.compile(
    rb"/[!-:<-\[\]-~]*+"
)  # what is printable, save `;` (some servers cut segments there) and the backslash
_DOTS = re.compile(rb"(?:^|/)\.{1,2}(?:/|$)")


def classify(raw_path: bytes, method: str) -> PathKind | None:
    """Return the kind of a raw path (without the query); None for a path that only a `path` route could serve.

    `MethodRefused` for a served path with another method. 0.1 us for the paths of the table.
    """
    kind = _STATIC.get(raw_path) or _with_a_name(raw_path)
    if kind is not None and method not in kind.methods:
        raise MethodRefused(kind)
    return kind


def with_model(raw_path: bytes, model: str) -> bytes:
    """A KServe path with another model's name in it, percent-encoded; the rest as it came."""
    found = _MODEL.fullmatch(raw_path)
    assert found is not None, "only of a path that names a model"
    return b"".join((raw_path[: found.start(1)], quote(model, safe="").encode(), raw_path[found.end(1) :]))


def is_plain(raw_path: bytes) -> bool:
    """Return whether no intermediary can read the path as another one: no dot segments, no empty ones, nothing odd
    escaped."""
    if _USUAL.fullmatch(raw_path):
        return True
    if not _ALLOWED.fullmatch(raw_path) or b"//" in raw_path or _DOTS.search(raw_path):
        return False
    return all(found[1] and int(found[1], 16) not in _STRUCTURE for found in _ESCAPE.finditer(raw_path))


def family_of(path: str) -> Family:
    """The shape of errors on a path that is not in the table."""
    if path == "/v1/messages" or path.startswith("/v1/messages/"):
        return "anthropic"
    if path == "/v2" or path.startswith("/v2/"):
        return "triton"
    return "openai"


def unknown(raw_path: bytes) -> PathKind:
    """`UNKNOWN` in the family of the path: its `path` is "unknown" all the same."""
    return _UNKNOWN[family_of(raw_path.decode("latin-1"))]


_UNKNOWN: dict[Family, PathKind] = {
    "openai": UNKNOWN,
    "anthropic": replace(UNKNOWN, family="anthropic"),
    "triton": replace(UNKNOWN, family="triton"),
}


def _with_a_name(raw_path: bytes) -> PathKind | None:
    """The paths that hold a model's name or an answer's id."""
    if found := _MODEL.fullmatch(raw_path):
        model = _model_name(found[1])
        return None if model is None else replace(_KSERVE[found[2] or b""], model=model)
    if found := _RESPONSE.fullmatch(raw_path):
        return replace(_RESPONSES[found[1] or b""], raw_path=raw_path.decode())
    if raw_path.startswith(_OUR_MODEL) and len(raw_path) > len(_OUR_MODEL):
        return CONTROL
    return None


def _model_name(segment: bytes) -> str | None:
    """A model's name in a path, decoded; None where it could be read in two ways.

    A `/` in a name has to be written `%2F`, which some servers decode before they look for the segment: such a name
    can only be sent in a body. The dot is free here, but a segment of dots alone is none.
    """
    if segment in (b".", b".."):
        return None
    if any(not found[1] or int(found[1], 16) in _STRUCTURE for found in _ESCAPE.finditer(segment)):
        return None
    try:
        name = unquote_to_bytes(segment).decode()
    except UnicodeDecodeError:
        return None
    return name if name.isprintable() and not set(name) & set("\\;?#") else None
