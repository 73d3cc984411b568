"""Policy with all that is read for it: keys of clients and keys of token issuers."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from backends.identity.keyfile import KeyFileError
from backends.workers.spec import workers_of
from gateway.auth import issuers
from gateway.auth.api_keys import LoadedKeys, read_keys
from gateway.auth.issuers import IssuerFileError, IssuerKeyFiles, read_key_files
from policies.config.document import PolicyError, load
from policies.config.settings import Policy
from policies.identity.api_keys import KeyEntry


class StartError(Exception):
    """The gateway cannot start; the text is for the operator, every mistake on a line of its own."""


class UnreadablePart(Exception):
    """A file is missing or wrong."""

    def __init__(self, mistakes: list[str]) -> None:
        """`mistakes` are messages, each with its file."""
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes


@dataclass(frozen=True, slots=True)
class LoadedPolicy:
    """Policy and keys that were read together and hold together."""

    policy: Policy
    keys: LoadedKeys
    key_files: IssuerKeyFiles

    def with_servers_of(self, other: "LoadedPolicy") -> "LoadedPolicy":
        """Return a copy with the settings of `other` that are read at the start only."""
        return replace(self, policy=replace(self.policy, server=other.policy.server, observe=other.policy.observe))

    def serves_as(self, other: "LoadedPolicy") -> bool:
        """Return True if both have the same settings that are read at the start only."""
        return (self.policy.server, self.policy.observe) == (other.policy.server, other.policy.observe)

    def keeps_keys_as(self, other: "LoadedPolicy") -> bool:
        """Return True if both have their API keys in the same place."""
        one, two = self.policy, other.policy
        return (one.store, one.auth.api_keys) == (two.store, two.auth.api_keys)

    def endpoints(self) -> set[str]:
        """Return the names of all endpoints, workers included."""
        pools = self.policy.pools
        listed = {endpoint.name for pool in pools.values() for endpoint in pool.endpoints}
        return listed | {spec.name for spec in workers_of(pools)}

    def paths(self, policy: Path) -> list[str]:
        """Return the files that are read again when they change, the policy's own first."""
        keys = self.policy.auth.api_keys
        own = [str(policy)] if keys is None or keys.file is None else [str(policy), str(keys.file)]
        return own + issuers.key_files(self.policy)


def read_first(path: Path) -> LoadedPolicy:
    """Read the policy at the start. Raises StartError."""
    try:
        policy = load(str(path), secrets=True)
        return LoadedPolicy(policy, read_keys(policy, first=True), read_key_files(policy))
    except PolicyError as error:
        raise StartError("\n".join(str(mistake) for mistake in error.mistakes)) from None
    except KeyFileError as error:
        raise StartError(
            f"{error}\nauth.api_keys.file: make a key with `sluice keys create --file FILE --tenant T --plan P`"
        ) from None
    except IssuerFileError as error:
        raise StartError(f'{error}\nauth.jwt[].jwks.file: a JWK Set, {{"keys": [...]}}') from None


async def read_again(path: Path, before: LoadedPolicy, stored: Sequence[KeyEntry] | None) -> LoadedPolicy:
    """Read the policy while serving, in threads. `stored` are the keys read from the store. Raises UnreadablePart."""
    try:
        policy = await asyncio.to_thread(load, str(path), secrets=True)
        keys = await asyncio.to_thread(read_keys, policy, first=not before.keys.records, stored=stored)
        return LoadedPolicy(policy, keys, await asyncio.to_thread(read_key_files, policy))
    except PolicyError as error:
        raise UnreadablePart([str(mistake) for mistake in error.mistakes]) from None
    except (KeyFileError, IssuerFileError) as error:
        raise UnreadablePart([str(error)]) from None
