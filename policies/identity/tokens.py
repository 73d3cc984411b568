"""Token, keys and wall time -> Principal: JSON Web Tokens of the issuers that the policy names. The door to pyjwt,
which is loaded only where there is an issuer (70 ms, 9 MB with cryptography).

What a token says about itself decides nothing but which of our own rules it is held to: its unverified `iss` and `aud`
choose among the configured issuers, its `kid` among the keys that this issuer has, its `alg` among the algorithms that
the policy pins to the issuer and the key was loaded for. Times and names are checked before the signature (whose check
costs the most), rights are read only after it. Nothing here fetches anything or opens a file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import jwt
from jwt.algorithms import Algorithm, get_default_algorithms

from policies.config.settings import JwtSettings
from policies.identity.authenticator import KeyRecord
from policies.identity.claims import principal_of
from policies.identity.issuers import Issuer, VerifyingKey, may_be_new
from policies.identity.jwt_form import NOT_SIGNED, ParsedToken, looks_like_jwt, parse, refused
from policies.identity.principal import AuthenticationError, KeysWanted, PlanRights

_MAX_KEPT: Final = 4096  # tokens
_MAX_TRIED: Final = 4  # keys, for a token that names none
_ALGORITHMS: Final[Mapping[str, Algorithm]] = get_default_algorithms()


def can_verify(key: VerifyingKey, algorithm: str) -> bool:
    """Return whether pyjwt can build a key of it."""
    try:
        _ALGORITHMS[algorithm].from_jwk(dict(key.members))
    except (jwt.PyJWTError, ValueError, TypeError):
        return False
    return True


class TokenVerifier:
    """Verifier for one set of issuers and plans; rebuilt when they change, so that no token outlives its key.

    `now` is wall time in seconds since the epoch.
    """

    def __init__(self, issuers: Sequence[Issuer], plans: Mapping[str, PlanRights], now: Callable[[], float]) -> None:
        self._plans = plans
        self._now = now
        self._issuers: dict[str, list[_IssuerKeys]] = {}
        for issuer in issuers:
            self._issuers.setdefault(issuer.settings.issuer, []).append(_IssuerKeys(issuer))
        self._kept: dict[bytes, KeyRecord] = {}

    def record(self, token: bytes, sha256: bytes) -> KeyRecord | None:
        """Return the principal of a token and its expiry; None for text that is no JWT. Raises AuthenticationError,
        KeysWanted.

        1 us for a token verified before, with its digest; 90 us for another one (RS256), 150 us (ES256).
        """
        kept = self._kept.get(sha256)
        if kept is not None and kept.expires is not None and self._now() < kept.expires:
            return kept
        if token != token.strip(b" \t") or not looks_like_jwt(token.decode("latin-1")):
            return None
        record = self._verified(token, sha256)
        self._keep(record)
        return record

    def _verified(self, token: bytes, sha256: bytes) -> KeyRecord:
        said = parse(token)
        issuer = self._issuer(said)
        settings = issuer.settings
        if said.alg not in settings.algorithms:
            raise refused("it is signed with an algorithm that its issuer does not use")
        until = _valid_until(said, settings, self._now())
        if not issuer.has_signed(said):
            raise refused(NOT_SIGNED)
        return KeyRecord(sha256, principal_of(said, settings, self._plans), until, revoked=False)

    def _issuer(self, said: ParsedToken) -> _IssuerKeys:
        name, audience = said.claim("iss"), said.claim("aud")
        of_name = self._issuers.get(name) if isinstance(name, str) else None
        if of_name is None:
            raise refused("its issuer is not one of this gateway's")
        audiences = [audience] if isinstance(audience, str) else audience
        if not isinstance(audiences, list) or not all(isinstance(each, str) for each in audiences):
            raise refused('it has no "aud"')
        for issuer in of_name:
            if issuer.settings.audience in audiences:
                return issuer
        raise refused("it is meant for another audience")

    def _keep(self, record: KeyRecord) -> None:
        if len(self._kept) >= _MAX_KEPT:
            now = self._now()
            self._kept = {each: kept for each, kept in self._kept.items() if now < (kept.expires or 0.0)}
        if len(self._kept) >= _MAX_KEPT:
            self._kept.clear()
        self._kept[record.sha256] = record


class _IssuerKeys:
    """One issuer with its keys made ready."""

    def __init__(self, issuer: Issuer) -> None:
        self.settings = issuer.settings
        self._known = issuer.keys is not None
        self._keys: dict[tuple[str | None, str], list[Any]] = {}
        for key in issuer.keys or ():
            for name in key.algorithms:
                self._keys.setdefault((key.kid, name), []).append(_ALGORITHMS[name].from_jwk(dict(key.members)))
        self._kids = {key.kid for key in issuer.keys or ()}

    def has_signed(self, said: ParsedToken) -> bool:
        """Return whether a key of the issuer signed the token. Raises KeysWanted if newer keys of the issuer may
        match."""
        if not self._known:
            raise KeysWanted(self.settings.name)
        if said.kid is not None and said.kid not in self._kids:
            if may_be_new(said.kid):
                raise KeysWanted(self.settings.name)
            return False
        for key in self._candidates(said):
            if _verifies(said, key):
                return True
        if said.kid is None and None in self._kids:
            # Keys without names are exchanged unseen.
            raise KeysWanted(self.settings.name)
        return False

    def _candidates(self, said: ParsedToken) -> list[Any]:
        """A token without `kid` may mean any key; of many none is tried, or each would cost another check."""
        if said.kid is not None:
            return self._keys.get((said.kid, said.alg), [])
        found = [key for (_, algorithm), keys in self._keys.items() if algorithm == said.alg for key in keys]
        return found if len(found) <= _MAX_TRIED else []


def _verifies(said: ParsedToken, key: Any) -> bool:
    try:
        return bool(_ALGORITHMS[said.alg].verify(said.signed, key, said.signature))
    except (jwt.PyJWTError, ValueError, TypeError):
        return False


def _valid_until(said: ParsedToken, settings: JwtSettings, now: float) -> float:
    """Return the token's expiry, leeway included. Raises AuthenticationError unless it is valid now, and not for too
    long."""
    leeway = settings.leeway
    expires, begins, issued = (_time(said, name) for name in ("exp", "nbf", "iat"))
    if expires is None:
        raise refused('it has no "exp"')
    if now >= expires + leeway:
        raise AuthenticationError("token_expired", "The token has expired. Get a new one from its issuer.")
    if begins is not None and now < begins - leeway:
        raise refused("it is not valid yet")
    if issued is not None and now < issued - leeway:
        raise refused("it was issued in the future")
    lifetime = expires - issued if issued is not None else expires - now - leeway
    if lifetime > settings.max_lifetime:
        raise refused("it is valid for longer than this gateway allows")
    return expires + leeway


def _time(said: ParsedToken, name: str) -> float | None:
    """A NumericDate (RFC 7519, 2), None without one."""
    if name not in said.claims:
        return None
    value = said.claim(name)
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not 0 <= value <= 1e11
        or not math.isfinite(value)
    ):
        raise refused(f'its "{name}" is not a time in seconds')
    return float(value)
