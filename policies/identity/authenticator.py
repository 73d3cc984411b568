"""Credential -> Principal: the check that stands on every request's way.

**Which header counts.** `Authorization` decides alone when it is there; `x-api-key` (Anthropic's clients) is looked
at only without it. So a request never has two principals, and adding a header to a refused request can't widen what
it may do. A header that came twice is handed over joined with `, `, which is no token and is refused.

**Anonymous**, where the policy has it, is a request without a credential, or with a token that is neither a key of
ours nor a JWT ("dummy", "not-needed"). What looks like ours (the prefix in any case, or any prefix before a tail
whose checksum is right) or like a JWT but is not accepted stays refused: somebody believes to be known, and must not
silently be somebody else.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from policies.config.mistakes import known
from policies.identity.api_keys import KeyEntry, looks_like_ours
from policies.identity.jwt_form import looks_like_jwt
from policies.identity.principal import AuthenticationError, PlanRights, Principal, principal_for

MAX_TOKEN = 8192  # bytes; the longest JWTs that identity providers hand out stay under it

_MAX_SEEN = 4096  # keys; forgotten all at once when there are more
_MAX_SEEN_BYTES = 8 << 20  # of tokens
# An `Authorization` value of this length on is found by its end: to hash a token of 1 kB costs 0.5 us.
_LONG = 128
_END = 43  # characters: 256 bits of a signature
# One text for all: a thief is not told that what he found was a key once. The operator's metric and list tell.
_INCORRECT = "Incorrect API key provided: it may be mistyped, expired or revoked. Ask the operator for a new one."
_PRINTABLE = re.compile(rb"[!-~]+")


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """Record of a key, found by its digest on the hot path."""

    sha256: bytes = field(repr=False)
    principal: Principal
    expires: float | None
    revoked: bool


class TokenChecker(Protocol):
    """Verifier of JSON Web Tokens (`policies.identity.tokens.TokenVerifier`)."""

    def record(self, token: bytes, sha256: bytes) -> KeyRecord | None:
        """Return the principal of a token and its expiry; None for text that is no JWT. Raises AuthenticationError,
        KeysWanted."""


def records(entries: Iterable[KeyEntry], plans: Mapping[str, PlanRights]) -> tuple[dict[bytes, KeyRecord], list[str]]:
    """Return the records of written keys, and a line for each key that cannot be used.

    A key whose plan the policy does not have is left out (its bearer gets 401) and reported: one stale key must not
    keep a whole policy from being loaded. A key's models and scopes can only narrow its plan's.
    """
    found: dict[bytes, KeyRecord] = {}
    problems: list[str] = []
    for entry in entries:
        plan = plans.get(entry.plan)
        if plan is None:
            problems.append(f'key {entry.id}: no plan "{entry.plan}" {known(plans)}')
            continue
        principal = principal_for(plan, key=entry.id, tenant=entry.tenant, plan_name=entry.plan, entry=entry)
        found[entry.sha256] = KeyRecord(entry.sha256, principal, entry.expires, entry.revoked is not None)
    return found, problems


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
        tokens: TokenChecker | None = None,
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
        if len(stripped) > MAX_TOKEN:
            raise AuthenticationError("malformed", f"The API key or token is over the limit of {MAX_TOKEN} bytes.")
        if not _PRINTABLE.fullmatch(stripped):
            raise AuthenticationError("malformed", _INCORRECT)
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
