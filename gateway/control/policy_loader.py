"""The policy with all that is read for it: keys of clients, keys of those who issue tokens."""

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
        """What is wrong, each with its file."""
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes


@dataclass(frozen=True, slots=True)
class LoadedPolicy:
    """What was read, and is to hold all together."""

    policy: Policy
    keys: LoadedKeys
    key_files: IssuerKeyFiles

    def with_servers_of(self, other: "LoadedPolicy") -> "LoadedPolicy":
        """The same, save for what is read at the start only."""
        return replace(self, policy=replace(self.policy, server=other.policy.server, observe=other.policy.observe))

    def serves_as(self, other: "LoadedPolicy") -> bool:
        """Whether they agree on that."""
        return (self.policy.server, self.policy.observe) == (other.policy.server, other.policy.observe)

    def keeps_keys_as(self, other: "LoadedPolicy") -> bool:
        """Whether keys are to be looked for in the same place."""
        one, two = self.policy, other.policy
        return (one.store, one.auth.api_keys) == (two.store, two.auth.api_keys)

    def endpoints(self) -> set[str]:
        """The names of all endpoints, workers included."""
        pools = self.policy.pools
        listed = {endpoint.name for pool in pools.values() for endpoint in pool.endpoints}
        return listed | {spec.name for spec in workers_of(pools)}

    def paths(self, policy: Path) -> list[str]:
        """The files that are read again when they change, the policy's own first."""
        keys = self.policy.auth.api_keys
        own = [str(policy)] if keys is None or keys.file is None else [str(policy), str(keys.file)]
        return own + issuers.key_files(self.policy)


def read_first(path: Path) -> LoadedPolicy:
    """At the start. Raises StartError."""
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
    """While serving, so in threads. `stored` is what was read of keys in the store. Raises Unreadable."""
    try:
        policy = await asyncio.to_thread(load, str(path), secrets=True)
        keys = await asyncio.to_thread(read_keys, policy, first=not before.keys.records, stored=stored)
        return LoadedPolicy(policy, keys, await asyncio.to_thread(read_key_files, policy))
    except PolicyError as error:
        raise UnreadablePart([str(mistake) for mistake in error.mistakes]) from None
    except (KeyFileError, IssuerFileError) as error:
        raise UnreadablePart([str(error)]) from None
