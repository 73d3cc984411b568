"""API keys in the store: hashes only, written by `sluice keys`, read by every gateway that shares the store.

One Redis hash `<prefix>:keys:v1` holds a field a secret, named by the SHA-256 in hex, with the line that a keys file
would have (backends/identity/keyfile.py), and a field `version`: a random word that is another after each change.
Gateways ask for that word twice a second and read all keys when it is another: 10,000 keys are 3 MB. A change is one
script, which does nothing if somebody else has changed the keys since they were read. The hash has no lifetime; it
is the only one of our keys in Redis without.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol

from backends.identity.keyfile import read_entry, write_entry
from policies.identity.api_keys import KeyEntry

_TRIES: Final = 10
_VERSION: Final = b"version"
# KEYS[1] the hash; ARGV: the version that was read, the new one, then fields and values to set.
_CHANGE: Final = """
if (redis.call('HGET', KEYS[1], 'version') or '') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'version', ARGV[2], unpack(ARGV, 3))
return 1
"""
# Lua's stack holds a few thousand values.
_PAIRS_AT_ONCE: Final = 1000


class KeyStoreClient(Protocol):
    """A connection to Redis, as much of it as is needed here."""

    async def execute(self, *words: str | bytes | int) -> Any:
        """One command's reply: bytes, int, None, or a list of those (`backends.store.commands.RedisCommands`)."""


class KeyStoreError(Exception):
    """Keys in the store that can't be used or changed; the text says why."""


@dataclass(frozen=True, slots=True)
class StoredKeySet:
    """All keys at one moment. `version` is None where the store has none at all."""

    version: bytes | None
    entries: tuple[KeyEntry, ...]


class KeyStore:
    """The keys under one prefix."""

    def __init__(self, client: KeyStoreClient, prefix: str) -> None:
        self._client = client
        self._name = f"{prefix}:keys:v1"

    async def version(self) -> bytes | None:
        """The word that is another after each change; None where there are no keys at all."""
        found: bytes | None = await self._client.execute("HGET", self._name, _VERSION)
        return found

    async def load(self) -> StoredKeySet:
        """Every key, in the order of their making. Read in a thread: 10,000 take 80 ms. Raises KeyStoreError for what
        `sluice keys` would not have written."""
        reply = await self._client.execute("HGETALL", self._name)
        return await asyncio.to_thread(_read, reply)

    async def change(self, change: Callable[[Sequence[KeyEntry]], Sequence[KeyEntry]]) -> None:
        """Write what `change` makes of the entries; called again where somebody else was faster. Entries are added and
        changed, never taken out. Raises what `change` raises, and then nothing is written."""
        for _ in range(_TRIES):
            stored = await self.load()
            before = {entry.sha256: entry for entry in stored.entries}
            fields: list[bytes] = []
            for entry in change(stored.entries):
                if before.get(entry.sha256) != entry:
                    fields += (entry.sha256.hex().encode(), write_entry(entry))
            if len(fields) > 2 * _PAIRS_AT_ONCE:
                raise KeyStoreError(f"one change can't be of more than {_PAIRS_AT_ONCE} keys")
            if not fields:
                return
            fresh = secrets.token_hex(8).encode()
            if await self._client.execute("EVAL", _CHANGE, 1, self._name, stored.version or b"", fresh, *fields):
                return
        raise KeyStoreError("others changed the keys all the time; try again")


@asynccontextmanager
async def open_keys(url: str, password: str | None, prefix: str) -> AsyncIterator[KeyStore]:
    """The keys of a store for a moment, as `sluice keys` wants them. Raises KeyStoreError."""
    # Loads redis-py, which nobody needs whose keys are in a file.
    from backends.store.commands import RedisCommands
    from backends.store.redis_errors import StoreLostError

    try:
        client = RedisCommands.to(url, password, f"{prefix}:keys:v1")
    except ValueError as error:
        raise KeyStoreError(str(error)) from None
    try:
        yield KeyStore(client, prefix)
    except StoreLostError as error:
        raise KeyStoreError(f"{error.kind}: {error}") from None
    finally:
        await client.close()


def _read(reply: Sequence[bytes]) -> StoredKeySet:
    """Parse a reply of alternating names and values."""
    fields = dict(zip(reply[::2], reply[1::2], strict=True))
    version = fields.pop(_VERSION, None)
    entries = []
    for name, text in fields.items():
        try:
            entry = read_entry(text)
            if entry.sha256.hex().encode() != name:
                raise ValueError("it is another key's")
        except ValueError as error:
            raise KeyStoreError(f"key {name[:64].decode(errors='replace')[:12]}... in the store: {error}") from None
        entries.append(entry)
    # By their order a rotation knows the newest of an id.
    entries.sort(key=lambda entry: (entry.created, entry.id, entry.expires is None, entry.expires or 0.0))
    return StoredKeySet(version, tuple(entries))
