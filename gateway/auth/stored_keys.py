"""Keys in the store, followed: a change of theirs holds within a second. Loads redis-py, so only where a policy keeps
its keys there."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from backends.store.commands import RedisCommands
from backends.store.keys import KeyStore, KeyStoreError
from backends.store.redis_errors import StoreLostError
from backends.tasks import ended
from gateway.observe.log import fields
from policies.config.settings import StoreSettings
from policies.identity.api_keys import KeyEntry

log = logging.getLogger("sluice.control")

# How often the store is asked whether the keys have changed: one word of 16 bytes. A revoked key must stop within 2 s.
LOOK_EVERY: Final = 0.5


class StoredKeysWatcher:
    """Watcher of the keys in the store. While the store is away the last keys hold, also a key that was revoked
    meanwhile; invalid data in the store changes nothing. Each problem is logged once."""

    def __init__(
        self, settings: StoreSettings, taken: Callable[[], Awaitable[None]], failed: Callable[[str], None]
    ) -> None:
        """`taken` is called when there are other keys than at the start, `failed` with the kind of each error. Raises
        ValueError for a URL of no use."""
        name = f"{settings.prefix}:keys:v1"
        password = None if settings.password is None else settings.password.value
        self._commands = RedisCommands.to(settings.url, password, name)
        self._keys = KeyStore(self._commands, settings.prefix)
        self._taken: Callable[[], Awaitable[None]] = _nobody
        self._later = taken
        self._failed = failed
        self._task: asyncio.Task[None] | None = None
        self._version: bytes | None = None
        self._said = ""
        self.entries: Sequence[KeyEntry] | None = None
        """None until the store could be read once."""

    async def start(self) -> None:
        """Read the keys, or log why they cannot be read yet, and watch them. `taken` is not called for this first
        read."""
        await self.look()
        self._taken = self._later
        self._task = asyncio.get_running_loop().create_task(self._follow(), name="keys in the store")

    async def stop(self) -> None:
        """Stop watching and close the connection."""
        await ended(self._task)
        await self._commands.close()

    async def look(self) -> None:
        """Check the version once and read changed keys. Never raises."""
        try:
            version = await self._keys.version()
            changed = self.entries is None or version != self._version
            if changed and version is None and self.entries:
                # `sluice keys` takes none out: the store has lost its data.
                return self._say("keys_gone", "the store has no keys any more")
            if changed:
                stored = await self._keys.load()
                self._version, self.entries = stored.version, stored.entries
        except StoreLostError as error:
            self._failed(error.kind)
            return self._say("keys_lost", f"{error.kind}: {error}")
        except KeyStoreError as error:
            self._failed("other")
            return self._say("keys_refused", str(error))
        if self._said:
            log.info("keys_back", extra=fields(keys=len(self.entries or ())))
            self._said = ""
        if changed:
            log.info("keys_loaded", extra=fields(keys=len(self.entries or ())))
            await self._taken()

    def _say(self, event: str, reason: str) -> None:
        if event != self._said:
            kept = "none so far" if self.entries is None else len(self.entries)
            log.warning(event, extra=fields(reason=reason, kept=kept))
        self._said = event

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY)
            await self.look()


async def _nobody() -> None:
    pass
