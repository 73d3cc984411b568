"""The form of a JSON Web Token in compact serialisation (RFC 7515, 7519): bytes -> header and claims, unverified.

Everything that two readers could read differently is refused: members of one name, base64 that is not the one way to
write its bytes, headers that change what is signed or that bring a key along.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode, urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from policies.codec import JSONError, Raw, decode
from policies.identity.issuers import is_kid
from policies.identity.principal import AuthenticationError
from policies.json_object import RefusedBody, members

_COMPACT: Final = re.compile(rb"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")
# `crit` and `b64` change what is signed, `enc` and `zip` what it says; the rest would have the token name its own key.
_REFUSED: Final = ("crit", "b64", "enc", "zip", "jku", "x5u", "jwk", "x5c")
NOT_SIGNED: Final = "it is not signed with a key of its issuer"
"""Reason for a bad signature; the same text whether or not the issuer has a key with the token's key id."""
# RFC 7519 section 5.1, RFC 9068 section 2.1. Other kinds (of logout, of DPoP) are signed by the same keys.
_TYPES: Final = frozenset({"jwt", "at+jwt", "application/jwt", "application/at+jwt"})


@dataclass(frozen=True, slots=True)
class ParsedToken:
    """Parsed token: header, claims, and the signed part. The signature is not verified."""

    alg: str
    kid: str | None
    claims: Mapping[str, Raw]
    """Each value as its own bytes; `claim` reads one."""
    signed: bytes
    signature: bytes

    def claim(self, name: str) -> Any:
        """The value of a claim; None where it is missing or null."""
        found = self.claims.get(name)
        if found is None:
            return None
        try:
            return decode(found)
        except JSONError:
            # Its text is no UTF-8, or it is nested too deeply.
            raise refused(f"its claim {quoted(name)} cannot be read") from None


def looks_like_jwt(token: str) -> bool:
    """Return whether the token has the form of a JWT (RFC 7519): dot-separated parts, the first a JSON object with
    `alg`.

    A part that begins as every such object does in base64url (`eyJ`) is enough: a damaged token is still no "dummy".
    """
    parts = token.split(".")
    if len(parts) < 3:
        return False
    if token.startswith("eyJ") or ".eyJ" in token:
        return True
    try:
        padded = parts[0] + "=" * (-len(parts[0]) % 4)
        header = decode(b64decode(padded, altchars=b"-_"))
    except (ValueError, JSONError):
        return False
    return isinstance(header, dict) and "alg" in header


def refused(why: str) -> AuthenticationError:
    """A token that is not accepted; `why` quotes nothing of it."""
    return AuthenticationError("token_invalid", f"The token was not accepted: {why}.")


def quoted(name: str) -> str:
    return f'"{name}"'


def parse(token: bytes) -> ParsedToken:
    """Header and claims of a token. Raises AuthenticationError (`token_invalid`)."""
    found = _COMPACT.fullmatch(token)
    if found is None:
        raise refused("it is not three parts of base64url with dots between them")
    first, second, third = found.groups()
    header = _header(_members(first, "header"))
    return ParsedToken(*header, _members(second, "payload"), token[: found.end(2)], _bytes(third, "signature"))


def _header(header: Mapping[str, Raw]) -> tuple[str, str | None]:
    for name in _REFUSED:
        if name in header:
            raise refused(f"its header has {quoted(name)}")
    values = {name: _decoded(header[name], name) for name in ("alg", "kid", "typ") if name in header}
    alg, kid, typ = values.get("alg"), values.get("kid"), values.get("typ", "JWT")
    if not isinstance(alg, str):
        raise refused("its header names no algorithm")
    if "kid" in header and not is_kid(kid):
        raise refused('its header\'s "kid" is not up to 256 printable characters')
    if not isinstance(typ, str) or typ.lower() not in _TYPES:
        raise refused("it is of another type than JWT or at+jwt")
    return alg, kid


def _decoded(value: Raw, name: str) -> Any:
    try:
        return decode(value)
    except JSONError:
        raise refused(f"its header's {quoted(name)} cannot be read") from None


def _members(part: bytes, what: str) -> dict[str, Raw]:
    try:
        return members(_bytes(part, what))
    except RefusedBody:
        raise refused(f"its {what} is not a JSON object with every name once") from None


def _bytes(part: bytes, what: str) -> bytes:
    try:
        data = urlsafe_b64decode(part + b"=" * (-len(part) % 4))
    except binascii.Error:
        data = b""
    # The last character can hold bits that are not used: whoever sets them writes one token in several ways.
    if urlsafe_b64encode(data).rstrip(b"=") != part:
        raise refused(f"its {what} is not base64url")
    return data
