"""Issuers of tokens as the data plane receives them: the operator's settings with the current keys. Finished, frozen
values; nothing of pyjwt is loaded for them."""

from __future__ import annotations

from dataclasses import dataclass, field

from policies.config.settings import JwtSettings

MAX_KID = 256  # characters
# What a key is called is only ever looked up among the keys; but it is also the one thing for which a stranger's token
# may have the keys fetched again, so what no issuer calls a key is not worth that.
_TELLING = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~+/=:@#")


@dataclass(frozen=True, slots=True)
class VerifyingKey:
    """One key of an issuer, checked: the algorithms of the issuer that it may verify, and its JWK members (RFC 7518,
    6), of a private key only the public ones."""

    kid: str | None
    algorithms: tuple[str, ...]
    members: tuple[tuple[str, str], ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Issuer:
    """One issuer. `keys` is None while they are not known: not fetched yet, or for longer than `stale` not again."""

    settings: JwtSettings
    keys: tuple[VerifyingKey, ...] | None = None


def is_kid(kid: object) -> bool:
    """Return whether this can be a key id: up to 256 printable ASCII characters."""
    return isinstance(kid, str) and 0 < len(kid) <= MAX_KID and kid.isascii() and kid.isprintable()


def may_be_new(kid: str) -> bool:
    """Return whether an unknown key id justifies a request to the issuer: not if it looks like a path or SQL."""
    return _TELLING.issuperset(kid) and ".." not in kid and kid[0] != "/"
