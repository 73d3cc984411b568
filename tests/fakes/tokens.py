"""An issuer of tokens: keys, JWK Sets and tokens, also such as no issuer would sign."""

from __future__ import annotations

import base64
import functools
import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import get_default_algorithms

ISSUER = "https://sso.example.com/realms/ml"
AUDIENCE = "inference"
NOW = 1_800_000_000.0


def b64(data: bytes | str) -> str:
    """base64url without padding."""
    return base64.urlsafe_b64encode(data.encode() if isinstance(data, str) else data).rstrip(b"=").decode()


@functools.cache
def _private(name: str, size: int) -> Any:
    """One key a name and size for the whole run: an RSA key takes 0.1 s."""
    if name.startswith("EC"):
        return ec.generate_private_key({256: ec.SECP256R1(), 384: ec.SECP384R1(), 521: ec.SECP521R1()}[size])
    if name.startswith("Ed"):
        return ed25519.Ed25519PrivateKey.generate()
    return rsa.generate_private_key(65537, size)


@dataclass(frozen=True)
class Signer:
    """A key of an issuer. Two of one kind, name and size are the same key."""

    kid: str | None = "k1"
    alg: str = "RS256"
    name: str = ""
    size: int = 0

    @property
    def private(self) -> Any:
        """The private key."""
        if self.alg.startswith("ES"):
            return _private(f"EC{self.name}", self.size or {"ES256": 256, "ES384": 384, "ES512": 521}[self.alg])
        return _private(("Ed" if self.alg == "EdDSA" else "RSA") + self.name, self.size or 2048)

    def jwk(self, **over: Any) -> dict[str, Any]:
        """The public key as a JWK; a member that is None is left out."""
        made = get_default_algorithms()[self.alg].to_jwk(self.private.public_key(), as_dict=True)
        found = {"kid": self.kid, "alg": self.alg, "use": "sig"} | made | over
        found.pop("key_ops", None) if "key_ops" not in over else None
        return {name: value for name, value in found.items() if value is not None}

    def token(self, over: Mapping[str, Any] | None = None, *, header: Mapping[str, Any] | None = None) -> str:
        """A good token with these claims and header members laid over it; what is `...` is left out."""
        return self.signed(json.dumps(claims(**(over or {}))), header)

    def signed(self, payload: str | bytes, header: Mapping[str, Any] | None = None, *, raw_header: str = "") -> str:
        """A token with this payload, whatever it is."""
        said = _without(
            {"typ": "JWT", "alg": self.alg, "kid": self.kid if self.kid is not None else ...} | dict(header or {})
        )
        first = b64(raw_header or json.dumps(said)) + "." + b64(payload)
        signature = get_default_algorithms()[self.alg].sign(first.encode(), self.private)
        return f"{first}.{b64(signature)}"


def claims(**over: Any) -> dict[str, Any]:
    """Those of a good token; what is `...` is left out."""
    return _without({
        "iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "iat": NOW - 10, "exp": NOW + 600, "tier": "free",
        "org_id": "acme", **over,
    })  # fmt: skip


def valid_now(**over: Any) -> dict[str, Any]:
    """Times of a token that is good at this moment, and what is laid over them."""
    wall = time.time()  # noqa: TID251  a token's times are on the wall clock
    return {"iat": wall - 10, "exp": wall + 600, **over}


def issuer_entry(jwks: Mapping[str, Any], **over: Any) -> dict[str, Any]:
    """The issuer as a policy file has it."""
    return {
        "name": "corp", "issuer": ISSUER, "audience": AUDIENCE, "jwks": dict(jwks),
        "claims": {"tenant": "org_id", "plan": "tier"}, **over,
    }  # fmt: skip


def hmac_token(secret: bytes, alg: str = "HS256", *, over: Mapping[str, Any] | None = None, **header: Any) -> str:
    """A good token that is signed with any bytes as if they were a shared key."""
    said = {"typ": "JWT", "alg": alg, "kid": "k1", **header}
    first = b64(json.dumps(said)) + "." + b64(json.dumps(claims(**(over or {}))))
    return f"{first}.{b64(hmac.digest(secret, first.encode(), getattr(hashlib, 'sha' + alg[2:])))}"


def jwk_set(*keys: Mapping[str, Any]) -> bytes:
    """A JWK Set."""
    return json.dumps({"keys": list(keys)}).encode()


def shared_jwk(secret: bytes, **over: Any) -> dict[str, Any]:
    """A shared key as a JWK."""
    return {"kty": "oct", "kid": "k1", "k": b64(secret), **over}


def _without(members: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not ...}
