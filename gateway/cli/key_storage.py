"""Storage of the keys that `sluice keys` edits: a file, or the store."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Collection, Coroutine, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from backends.identity.keyfile import KeyFileError, change_keys, load_keys
from backends.store.keys import KeyStore, KeyStoreError, open_keys
from policies.config.addresses import STORE_URL
from policies.config.document import PolicyError, load
from policies.config.secrets import SecretSource
from policies.identity.api_keys import KeyEntry

_T = TypeVar("_T")
Change = Callable[[Sequence[KeyEntry]], Sequence[KeyEntry]]


class KeyStorage(Protocol):
    """Keys that can be read and changed. Both raise PlaceError. `plans` are those that a key may have; None where no
    policy says."""

    @property
    def plans(self) -> Collection[str] | None: ...
    def load(self) -> list[KeyEntry]: ...
    def change(self, change: Change) -> None: ...


class KeyStorageError(Exception):
    """The keys can't be read or changed; the text says why."""


class KeyFileStorage:
    """A keys file."""

    def __init__(self, path: Path, plans: Collection[str] | None = None) -> None:
        self._path = path
        self.plans = plans

    def __str__(self) -> str:
        return str(self._path)

    def load(self) -> list[KeyEntry]:
        if not self._path.exists():
            make = f"sluice keys create --file {self._path} --tenant T --plan P"
            raise KeyStorageError(f"{self._path} is not there; make it: {make}")
        try:
            return load_keys(self._path)
        except KeyFileError as error:
            raise KeyStorageError(str(error)) from None

    def change(self, change: Change) -> None:
        try:
            change_keys(self._path, change)
        except KeyFileError as error:
            raise KeyStorageError(str(error)) from None


class KeyStoreStorage:
    """The keys in a store, under a prefix."""

    def __init__(self, url: str, password: str | None, prefix: str, plans: Collection[str] | None = None) -> None:
        self.plans = plans
        self._url = url
        self._password = password
        self._prefix = prefix

    def __str__(self) -> str:
        return self._url

    def load(self) -> list[KeyEntry]:
        async def run(keys: KeyStore) -> list[KeyEntry]:
            return list((await keys.load()).entries)

        return self._run(run)

    def change(self, change: Change) -> None:
        async def run(keys: KeyStore) -> None:
            await keys.change(change)

        self._run(run)

    def _run(self, run: Callable[[KeyStore], Coroutine[None, None, _T]]) -> _T:
        async def opened() -> _T:
            async with open_keys(self._url, self._password, self._prefix) as keys:
                return await run(keys)

        try:
            return asyncio.run(opened())
        except KeyStoreError as error:
            raise KeyStorageError(f"{self._url}: {error}") from None


def place_of(file: Path | None, policy: Path | None, store: str | None, prefix: str) -> KeyStorage:
    """The place that is meant: the file, or where the policy says, or the store; `keys.yaml` where nothing is said."""
    if policy is not None:
        return _of_policy(policy)
    if store is not None:
        try:
            url = STORE_URL.read(store)
        except ValueError as error:
            raise KeyStorageError(f"--store: {error}") from None
        return _store(url, os.environ.get("SLUICE_STORE_PASSWORD"), prefix)
    return KeyFileStorage(Path("keys.yaml") if file is None else file)


def _of_policy(path: Path) -> KeyStorage:
    try:
        policy = load(path, secrets=False)
    except PolicyError as error:
        raise KeyStorageError("\n".join(str(mistake) for mistake in error.mistakes)) from None
    keys, store = policy.auth.api_keys, policy.store
    if keys is None:
        raise KeyStorageError(f"{path}: auth.api_keys is off")
    if keys.file is not None:
        return KeyFileStorage(Path(keys.file), policy.plans)
    password = None
    if store.password is not None:
        # This one alone: whoever makes a key need not know what engines are asked with.
        try:
            password = SecretSource(os.environ).read(store.password.env, store.password.file)
        except ValueError as error:
            raise KeyStorageError(f"store.password: {error}") from None
    return _store(store.url, password, store.prefix, policy.plans)


def _store(url: str, password: str | None, prefix: str, plans: Collection[str] | None = None) -> KeyStorage:
    if url.startswith("memory:"):
        raise KeyStorageError("memory:// ends with the process that has it: keys need a file, or Redis")
    return KeyStoreStorage(url, password, prefix, plans)
