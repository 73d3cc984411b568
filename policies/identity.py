"""Credential -> Principal: the form of our keys, and the check that stands on every request's way.

**A key of ours** is `sk-sluice-` + 33 characters of `[0-9A-Za-z]` from the system's randomness (196 bits) + 6
characters of checksum: the CRC-32 of those 33 in base 62, most significant first, filled up with `0`; 49 characters
in all. The prefix lets secret scanners find a leaked key and the checksum lets them (and us) be sure of it offline,
as GitHub's tokens do; neither is a defence. Only the key's SHA-256 is kept: against 196 random bits no slow hash is
needed.

**Which header counts.** `Authorization` decides alone when it is there; `x-api-key` (Anthropic's clients) is looked
at only without it. So a request never has two principals, and adding a header to a refused request can't widen what
it may do. A header that came twice is handed over joined with `, `, which is no token and is refused.

**Anonymous**, where the policy has it, is a request without a credential, or with a token that is neither a key of
ours nor a JWT ("dummy", "not-needed"). What looks like ours (the prefix in any case, or any prefix before a tail
whose checksum is right) or like a JWT but is not accepted stays refused: somebody believes to be known, and must not
silently be somebody else.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from policies.codec import JSONError, decode
from policies.globs import matches_any

PREFIX = "sk-sluice-"
FORWARDS_USER = "forwards_user"  # a key's label
MAX_TOKEN = 8192  # bytes; the longest JWTs that identity providers hand out stay under it
SCOPES = frozenset({"chat", "completions", "embeddings", "rerank", "audio", "predict", "engine_fields"})
DEFAULT_SCOPES = SCOPES - {"engine_fields"}

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_LETTERS = frozenset(_ALPHABET)
_RANDOM = 33  # log2(62) * 33 = 196 bits
_CHECKSUM = 6  # 62 ** 6 > 2 ** 32
_TAIL = _RANDOM + _CHECKSUM
_MAX_SEEN = 4096  # keys; forgotten all at once when there are more
_MAX_SEEN_BYTES = 8 << 20  # of tokens
# An `Authorization` value of this length on is found by its end: to hash a token of 1 kB costs 0.5 us.
_LONG = 128
_END = 43  # characters: 256 bits of a signature
# One text for all: a thief is not told that what he found was a key once. The operator's metric and list tell.
_INCORRECT = "Incorrect API key provided: it may be mistyped, expired or revoked. Ask the operator for a new one."
_PRINTABLE = re.compile(rb"[!-~]+")

Reason = Literal[
    "missing", "malformed", "unknown", "expired", "revoked", "token_expired", "token_invalid", "claim_missing"
]


@dataclass(frozen=True, slots=True)
class Principal:
    """Who the credential proves the client is, and what it entitles to. All of it may be logged."""

    key: str
    """Id of the key, `anonymous` without one; of a token `<issuer>/<sub>`."""
    tenant: str
    plan: str
    scopes: frozenset[str] = DEFAULT_SCOPES
    models: tuple[tuple[str, ...] | None, ...] = ()
    """Sets of globs (the plan's, the key's), each of which must allow the model; None allows all."""
    user: str | None = None
    """Of a token `<issuer>/<sub>`; None where the key itself is the user."""
    forwards_user: bool = False
    """Whether the body's `user` is who `per: user` means: the key of an application that serves many."""

    def user_of(self, said: str | None) -> str:
        """Whom a limit `per: user` counts; `said` is the body's `user`, which is believed of a key that forwards users
        only. A key's users never meet another key's: neither keys nor issuers have a `:` in their names."""
        if self.user is not None:
            return self.user
        return f"{self.key}:{said}" if said and self.forwards_user else self.key

    def may_use(self, *names: str) -> bool:
        """Whether every set of globs allows the model, known by one name or by several (what was asked, what it is)."""
        # A plain loop: three times as fast as `all` of a generator, and it stands on every request's way.
        for globs in self.models:
            if globs is not None and not any(matches_any(name, globs) for name in names):
                return False
        return True


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """One key as it is written down: no secret in it. Times are seconds since the epoch."""

    id: str
    sha256: bytes = field(repr=False)
    tenant: str
    plan: str
    created: float
    expires: float | None = None
    revoked: float | None = None
    """When it was revoked."""
    models: tuple[str, ...] | None = None
    scopes: frozenset[str] | None = None
    labels: Mapping[str, str] = field(default_factory=dict)

    def state(self, now: float) -> Literal["active", "expired", "revoked"]:
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires is not None and now >= self.expires else "active"


class PlanRights(Protocol):
    """What is read of a plan here. None: all models; all scopes but `engine_fields`."""

    @property
    def models(self) -> Iterable[str] | None: ...
    @property
    def scopes(self) -> Iterable[str] | None: ...


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """What the hot path finds by a key's digest."""

    sha256: bytes = field(repr=False)
    principal: Principal
    expires: float | None
    revoked: bool


class AuthenticationError(Exception):
    """The client could not be told who it is; `reason` is one word, the text names cause and fix, never the
    credential."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason: Reason = reason


class KeysWanted(Exception):
    """Whether a token is good cannot be told with the keys that are known of this issuer: it names a key that is not
    among them, or none are known. Whoever can wait has them fetched (`backends.jwks`) and asks again."""

    def __init__(self, issuer: str) -> None:
        super().__init__(issuer)
        self.issuer = issuer
        """The name that the policy has for it."""


class Tokens(Protocol):
    """Who verifies JSON Web Tokens (`policies.tokens.TokenVerifier`)."""

    def record(self, token: bytes, sha256: bytes) -> KeyRecord | None:
        """Whom a token proves, and until when; None for what is no JWT. Raises AuthenticationError, KeysWanted."""


def new_key() -> str:
    """A fresh key; shown once to whoever asked for it, never kept."""
    body = "".join(secrets.choice(_ALPHABET) for _ in range(_RANDOM))
    return PREFIX + body + _checksum(body)


def digest(token: str | bytes) -> bytes:
    """What is kept and compared of a token: its SHA-256, 32 bytes."""
    return hashlib.sha256(token.encode() if isinstance(token, str) else token).digest()


def looks_like_ours(token: str) -> bool:
    """Whether somebody meant this to be a key of ours: by its prefix, or by a right checksum behind any other."""
    if token[: len(PREFIX)].lower().startswith(PREFIX.rstrip("-")):
        return True
    body, checksum = token[-_TAIL:-_CHECKSUM], token[-_CHECKSUM:]
    return len(body) == _RANDOM and _LETTERS.issuperset(body) and _checksum(body) == checksum


def looks_like_jwt(token: str) -> bool:
    """Whether the token has the form of a JWT (RFC 7519): dot-separated parts, the first a JSON object with `alg`.

    A part that begins as every such object does in base64url (`eyJ`) is enough: a damaged token is still no "dummy".
    """
    parts = token.split(".")
    if len(parts) < 3:
        return False
    if token.startswith("eyJ") or ".eyJ" in token:
        return True
    try:
        padded = parts[0] + "=" * (-len(parts[0]) % 4)
        header = decode(base64.b64decode(padded, altchars=b"-_"))
    except (ValueError, JSONError):
        return False
    return isinstance(header, dict) and "alg" in header


def records(entries: Iterable[KeyEntry], plans: Mapping[str, PlanRights]) -> tuple[dict[bytes, KeyRecord], list[str]]:
    """What the authenticator needs of written keys, and a line for each key that can't be used.

    A key whose plan the policy does not have is left out (its bearer gets 401) and reported: one stale key must not
    keep a whole policy from being loaded. A key's models and scopes can only narrow its plan's.
    """
    found: dict[bytes, KeyRecord] = {}
    problems: list[str] = []
    for entry in entries:
        plan = plans.get(entry.plan)
        if plan is None:
            problems.append(f'key {entry.id}: no plan "{entry.plan}" (known: {", ".join(plans) or "none"})')
            continue
        principal = principal_for(plan, key=entry.id, tenant=entry.tenant, plan_name=entry.plan, entry=entry)
        found[entry.sha256] = KeyRecord(entry.sha256, principal, entry.expires, entry.revoked is not None)
    return found, problems


def principal_for(
    plan: PlanRights,
    *,
    plan_name: str,
    key: str = "anonymous",
    tenant: str = "anonymous",
    entry: KeyEntry | None = None,
) -> Principal:
    """The principal that a plan makes, narrowed by a key where there is one."""
    scopes = DEFAULT_SCOPES if plan.scopes is None else frozenset(plan.scopes)
    models: tuple[tuple[str, ...] | None, ...] = () if plan.models is None else (tuple(plan.models),)
    if entry is not None and entry.scopes is not None:
        scopes &= entry.scopes
    if entry is not None and entry.models is not None:
        models = (*models, entry.models)
    forwards = entry is not None and entry.labels.get(FORWARDS_USER) == "true"
    return Principal(key=key, tenant=tenant, plan=plan_name, scopes=scopes, models=models, forwards_user=forwards)


class Authenticator:
    """Checks the credential of every request; made anew (cheaply) whenever the keys or the plans change.

    `keys` by digest; `anonymous` is None where the policy has it off; `now` is wall time in seconds since the epoch;
    `tokens` is None where the policy has no issuer.
    """

    __slots__ = ("_anonymous", "_keys", "_now", "_seen", "_seen_bytes", "_seen_tokens", "_tokens")

    def __init__(
        self,
        keys: Mapping[bytes, KeyRecord],
        anonymous: Principal | None,
        now: Callable[[], float],
        tokens: Tokens | None = None,
    ) -> None:
        self._keys = keys
        self._anonymous = anonymous
        self._now = now
        self._tokens = tokens
        # Usual `Authorization` values, as they came, with the good keys that they turned out to be: spares the hash.
        self._seen: dict[bytes | None, KeyRecord] = {}
        # Long ones, which are tokens, by their end.
        self._seen_tokens: dict[bytes, tuple[bytes, KeyRecord]] = {}
        self._seen_bytes = 0

    def authenticate(self, authorization: bytes | None, x_api_key: bytes | None) -> Principal:
        """The principal, or `AuthenticationError`, or `KeysWanted`. Pure but for the clock; 0.1 us for a key seen
        lately, 0.3 us for such a token, 0.5 us for another good key."""
        # Only whoever has sent a good key is in there, and Python seeds the hash by which a value is looked up: how
        # long it takes tells nobody anything about somebody else's key.
        if authorization is None or len(authorization) < _LONG:
            record = self._seen.get(authorization)
        else:
            seen = self._seen_tokens.get(authorization[-_END:])
            record = seen[1] if seen is not None and seen[0] == authorization else None
        if record is not None and (record.expires is None or self._now() < record.expires):
            return record.principal
        return self._look_up(authorization, x_api_key)

    def _look_up(self, authorization: bytes | None, x_api_key: bytes | None) -> Principal:
        usual = authorization is not None and authorization[:7] == b"Bearer "
        if authorization is None:
            token = x_api_key
        elif usual:
            token = authorization[7:]
        else:
            token = _bearer(authorization)
        if token is None or len(token) > MAX_TOKEN:
            return self._without_key(token)
        # The lookup by hash tells nothing about a key (who can choose a SHA-256's first bytes knows the token); the
        # comparison in constant time is for the day somebody puts another kind of table behind this.
        sha256 = hashlib.sha256(token).digest()
        record = self._keys.get(sha256)
        if record is None and self._tokens is not None:
            record = self._tokens.record(token, sha256)
        if record is None or not hmac.compare_digest(record.sha256, sha256):
            return self._without_key(token)
        if record.revoked:
            raise AuthenticationError("revoked", _INCORRECT)
        if record.expires is not None and self._now() >= record.expires:
            raise AuthenticationError("expired", _INCORRECT)
        if usual:
            assert authorization is not None, "or it were not usual"
            self._remember(authorization, record)
        return record.principal

    def _remember(self, authorization: bytes, record: KeyRecord) -> None:
        if len(authorization) < _LONG:
            if len(self._seen) >= _MAX_SEEN:
                self._seen.clear()
            self._seen[authorization] = record
            return
        if len(self._seen_tokens) >= _MAX_SEEN or self._seen_bytes >= _MAX_SEEN_BYTES:
            self._seen_tokens.clear()
            self._seen_bytes = 0
        self._seen_tokens[authorization[-_END:]] = (authorization, record)
        self._seen_bytes += len(authorization)

    def _without_key(self, token: bytes | None) -> Principal:
        """No known key: anonymous where that is on and the token claims to be nobody's, else refused. Off the hot
        path."""
        stripped = None if token is None else token.strip(b" \t")
        if not stripped:
            if self._anonymous is not None:
                return self._anonymous
            raise AuthenticationError(
                "missing", "No API key given. Send it as 'Authorization: Bearer KEY' or as 'x-api-key: KEY'."
            )
        if stripped != token:
            # A second space after the scheme is allowed (RFC 9110, 11.4), and header values may end in white space.
            return self.authenticate(None, stripped)
        if len(stripped) > MAX_TOKEN or not _PRINTABLE.fullmatch(stripped):
            raise AuthenticationError(
                "malformed", f"The API key is not one: at most {MAX_TOKEN} printable ASCII characters, sent once."
            )
        text = stripped.decode("ascii")
        if looks_like_ours(text):
            raise AuthenticationError("unknown", _INCORRECT)
        if looks_like_jwt(text):
            raise AuthenticationError("unknown", "This gateway does not accept JSON Web Tokens. Send an API key.")
        if self._anonymous is None:
            raise AuthenticationError("unknown", _INCORRECT)
        return self._anonymous


def _bearer(authorization: bytes) -> bytes | None:
    """The token of an `Authorization` value that is not written in the usual way; None when there is nothing in it."""
    scheme, _, token = authorization.strip(b" \t").partition(b" ")
    if not scheme:
        return None
    if scheme.lower() != b"bearer":
        raise AuthenticationError("malformed", "Authorization must be 'Bearer KEY'; no other scheme is known here.")
    return token.strip(b" \t") or None


def _checksum(body: str) -> str:
    number, out = zlib.crc32(body.encode()), ""
    for _ in range(_CHECKSUM):
        number, rest = divmod(number, 62)
        out = _ALPHABET[rest] + out
    return out
