"""A JWK Set (RFC 7517) -> the keys of it that an issuer's tokens may be verified with.

A key is left out where it is not for signatures (`use`, `key_ops`), for none of the issuer's algorithms, too small (RSA
under 2048 bits, a shared key shorter than its hash) or broken; the last two are said. Of a private key only the public
members are kept.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from policies.codec import JSONError, decode
from policies.config.settings import JwtSettings
from policies.identity import tokens
from policies.identity.issuers import VerifyingKey, is_kid

MAX_BYTES: Final = 1 << 20
MAX_KEYS: Final = 100
_RSA_BITS: Final = range(2048, 16384 + 1)
_RSA: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_CURVES: Final = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}
_EDWARDS: Final = ("Ed25519", "Ed448")
# RFC 7518 section 3.2: a shared key is at least as long as the hash.
_SHARED_BYTES: Final = {"HS256": 32, "HS384": 48, "HS512": 64}
_MEMBERS: Final = {"RSA": ("n", "e"), "EC": ("crv", "x", "y"), "OKP": ("crv", "x"), "oct": ("k",)}


class JwksError(ValueError):
    """No key can be had of it; the text says why and quotes nothing of it."""


@dataclass(frozen=True, slots=True)
class JwkSet:
    """The keys that can be used, at least one, and what is wrong with others."""

    keys: tuple[VerifyingKey, ...]
    problems: tuple[str, ...] = ()


def read_jwks(data: bytes, settings: JwtSettings) -> JwkSet:
    """The keys of a JWK Set that suit an issuer. Raises JwksError where there is none. 50 us a key."""
    if len(data) > MAX_BYTES:
        raise JwksError(f"over {MAX_BYTES >> 20} MiB")
    try:
        document = decode(data)
    except JSONError:
        raise JwksError("not JSON") from None
    listed = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(listed, list):
        raise JwksError('not a JWK Set, {"keys": [...]}')
    if len(listed) > MAX_KEYS:
        raise JwksError(f"more than {MAX_KEYS} keys")
    return _usable(listed, settings)


def _usable(listed: list[Any], settings: JwtSettings) -> JwkSet:
    keys: list[VerifyingKey] = []
    problems: list[str] = []
    taken: set[tuple[str | None, str]] = set()
    for index, jwk in enumerate(listed):
        try:
            key = _key(jwk, settings.algorithms)
        except JwksError as error:
            problems.append(f"keys[{index}]: {error}")
            continue
        if key is None:
            continue
        names = {(key.kid, algorithm) for algorithm in key.algorithms if key.kid is not None}
        if taken & names:
            problems.append(f"keys[{index}]: an earlier key has the same kid")
            continue
        taken |= names
        keys.append(key)
    if not keys:
        raise JwksError(
            f"no key in it suits {', '.join(settings.algorithms)}" + "".join(f"; {p}" for p in problems[:3])
        )
    return JwkSet(tuple(keys), tuple(problems))


def _key(jwk: Any, algorithms: tuple[str, ...]) -> VerifyingKey | None:
    """None for a key that is meant for something else."""
    if not isinstance(jwk, dict):
        raise JwksError("not an object")
    operations = jwk.get("key_ops", ["verify"])
    if jwk.get("use", "sig") != "sig" or not isinstance(operations, list) or "verify" not in operations:
        return None
    kind = jwk.get("kty")
    suited = [name for name in algorithms if name in _suits(kind, jwk) and jwk.get("alg", name) in _names(name)]
    if not suited:
        return None
    kid = jwk.get("kid")
    if kid is not None and not is_kid(kid):
        raise JwksError("its kid is not up to 256 printable characters")
    members = _members(kind, jwk)
    if kind == "RSA" and _bits(members["n"]) not in _RSA_BITS:
        raise JwksError(f"RSA of {_bits(members['n'])} bits, wanted {_RSA_BITS.start} to {_RSA_BITS.stop - 1}")
    if kind == "oct":
        suited = [name for name in suited if _bytes(members["k"]) >= _SHARED_BYTES[name]]
        if not suited:
            raise JwksError("a shared key shorter than the hash")
    key = VerifyingKey(kid, tuple(suited), tuple(members.items()))
    if not all(tokens.can_verify(key, name) for name in suited):
        raise JwksError("not a valid key")
    return key


def _suits(kind: object, jwk: Mapping[str, Any]) -> tuple[str, ...]:
    """The algorithms for which a key of this kind is."""
    curve = jwk.get("crv")
    if kind == "RSA":
        return _RSA
    if kind == "EC":
        return (_CURVES[curve],) if isinstance(curve, str) and curve in _CURVES else ()
    if kind == "OKP":
        return ("EdDSA",) if curve in _EDWARDS else ()
    return tuple(_SHARED_BYTES) if kind == "oct" else ()


def _names(algorithm: str) -> tuple[str, ...]:
    """Return the names that a key may use for an algorithm: RFC 9864 has a name for each Edwards curve."""
    return ("EdDSA", *_EDWARDS) if algorithm == "EdDSA" else (algorithm,)


def _members(kind: Any, jwk: Mapping[str, Any]) -> dict[str, str]:
    found = {"kty": kind} | {name: jwk.get(name) for name in _MEMBERS[kind]}
    if not all(isinstance(value, str) and value.isascii() for value in found.values()):
        raise JwksError(f"lacks one of {', '.join(_MEMBERS[kind])}")
    return found


def _bits(text: str) -> int:
    return int.from_bytes(_decoded(text), "big").bit_length()


def _bytes(text: str) -> int:
    return len(_decoded(text))


def _decoded(text: str) -> bytes:
    try:
        return urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError:
        raise JwksError("not base64url") from None
