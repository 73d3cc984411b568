"""A key of ours: its form, and how one is written down.

It is `sk-sluice-` + 33 characters of `[0-9A-Za-z]` from the system's randomness (196 bits) + 6 characters of checksum:
the CRC-32 of those 33 in base 62, most significant first, filled up with `0`; 49 characters in all. The prefix lets
secret scanners find a leaked key and the checksum lets them (and us) be sure of it offline, as GitHub's tokens do;
neither is a defence. Only the key's SHA-256 is kept: against 196 random bits no slow hash is needed.
"""

from __future__ import annotations

import hashlib
import secrets
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

PREFIX = "sk-sluice-"
FORWARDS_USER = "forwards_user"  # a key's label

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_LETTERS = frozenset(_ALPHABET)
_RANDOM = 33  # log2(62) * 33 = 196 bits
_CHECKSUM = 6  # 62 ** 6 > 2 ** 32
_TAIL = _RANDOM + _CHECKSUM


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
    """Time of the revocation; None for a key that is valid."""
    models: tuple[str, ...] | None = None
    scopes: frozenset[str] | None = None
    labels: Mapping[str, str] = field(default_factory=dict)

    def state(self, now: float) -> Literal["active", "expired", "revoked"]:
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires is not None and now >= self.expires else "active"


def new_key() -> str:
    """A fresh key; shown once to whoever asked for it, never kept."""
    body = "".join(secrets.choice(_ALPHABET) for _ in range(_RANDOM))
    return PREFIX + body + _checksum(body)


def digest(token: str | bytes) -> bytes:
    """Return the SHA-256 of a token, 32 bytes: the only form of a token that is stored and compared."""
    return hashlib.sha256(token.encode() if isinstance(token, str) else token).digest()


def looks_like_ours(token: str) -> bool:
    """Return whether the token was meant as a key of this gateway: by its prefix, or by a valid checksum."""
    if token[: len(PREFIX)].lower().startswith(PREFIX.rstrip("-")):
        return True
    body, checksum = token[-_TAIL:-_CHECKSUM], token[-_CHECKSUM:]
    return len(body) == _RANDOM and _LETTERS.issuperset(body) and _checksum(body) == checksum


def _checksum(body: str) -> str:
    number, out = zlib.crc32(body.encode()), ""
    for _ in range(_CHECKSUM):
        number, rest = divmod(number, 62)
        out = _ALPHABET[rest] + out
    return out
