"""Issuers of tokens for the control plane: keys from files, fetched keys, and log lines about both."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from backends.identity.jwks import Event, KeySources
from gateway.observe.log import fields
from policies.config.settings import Policy
from policies.identity.issuers import Issuer, VerifyingKey

log = logging.getLogger("sluice.identity")

_WORSE: Final = frozenset({"issuer_lost", "issuer_forgotten"})


class IssuerFileError(Exception):
    """A file of keys that can't be used; the text names it and says why."""


@dataclass(frozen=True, slots=True)
class IssuerKeyFiles:
    """Keys of issuers as read from files."""

    keys: Mapping[str, tuple[VerifyingKey, ...]]
    """By the issuer's name."""
    problems: tuple[tuple[str, str], ...] = ()
    """(issuer, what is wrong with a key of its file)"""

    def warn(self) -> None:
        """Log the problems."""
        for issuer, problem in self.problems:
            log.warning("issuer_key_left_out", extra=fields(issuer=issuer, problem=problem))


def read_key_files(policy: Policy) -> IssuerKeyFiles:
    """Return the keys of all issuers that have them in a file. Loads pyjwt where there is an issuer, so call at the
    start or in a thread. Raises IssuerFileError."""
    if not policy.auth.jwt:
        return IssuerKeyFiles({})
    from policies.identity.jwks import MAX_BYTES, JwksError, read_jwks

    keys: dict[str, tuple[VerifyingKey, ...]] = {}
    problems: list[tuple[str, str]] = []
    for settings in policy.auth.jwt:
        if settings.jwks.file is None:
            continue
        try:
            with Path(settings.jwks.file).open("rb") as file:
                found = read_jwks(file.read(MAX_BYTES + 1), settings)
        except OSError as error:
            raise IssuerFileError(f"{settings.jwks.file}: {error.strerror}") from None
        except JwksError as error:
            raise IssuerFileError(f"{settings.jwks.file}: {error}") from None
        keys[settings.name] = found.keys
        problems += [(settings.name, problem) for problem in found.problems[:20]]
    return IssuerKeyFiles(keys, tuple(problems))


def issuers_of(policy: Policy, files: IssuerKeyFiles, sources: KeySources) -> tuple[Issuer, ...]:
    """Return every issuer of the policy with the keys in force."""
    return tuple(
        Issuer(one, sources.keys(one.name) if one.jwks.file is None else files.keys.get(one.name))
        for one in policy.auth.jwt
    )


def key_files(policy: Policy) -> list[str]:
    """Return the files that are read again when they change."""
    return [one.jwks.file for one in policy.auth.jwt if one.jwks.file is not None]


def log_issuer_event(event: Event, what: Mapping[str, object]) -> None:
    """Log a change of the keys of an issuer."""
    log.log(logging.WARNING if event in _WORSE else logging.INFO, event, extra=fields(**what))
