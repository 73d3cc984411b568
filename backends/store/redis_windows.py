"""Sliding and moving windows in Redis: the library's own scripts, over the connection of all other limits.

Each is a call of its own. One that comes too late may have counted; it is not asked again. All keys are under the tag
of the other limits, so that a Cluster has them where the connection goes.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from backends.store.library_windows import LibraryWindows, redis_storage
from backends.store.redis_calls import OutageRules
from backends.store.redis_errors import StoreLostError
from backends.store.redis_store import RedisStore
from backends.store.redis_wire import packed_script
from backends.store.windowed_store import WindowCounter, WindowReading, WindowsLostError
from policies.limits import Demand


class RedisWindows:
    """The `WindowCounter` of a `WindowedStore`: asked only while the store answers."""

    at_once = False

    def __init__(self, windows: WindowCounter, store: RedisStore) -> None:
        self._windows = windows
        self._store = store
        self._outage: OutageRules = store.outage

    async def read(self, demand: Demand) -> WindowReading:
        """Implement `WindowCounter.read`."""
        try:
            await self._check()
            return await self._windows.read(demand)
        except StoreLostError as error:
            raise self._lost(error) from error

    async def hit(self, demand: Demand) -> bool:
        """Implement `WindowCounter.hit`."""
        try:
            await self._check()
            return await self._windows.hit(demand)
        except StoreLostError as error:
            raise self._lost(error) from error

    async def _check(self) -> None:
        if self._outage.open:
            raise WindowsLostError("the store is away")
        if not self._store.knows_time:
            await self._store.beat()

    def _lost(self, error: StoreLostError) -> WindowsLostError:
        self._outage.failed(error.kind, str(error))
        return WindowsLostError(str(error))


class ScriptClient:
    """Part of redis-py's client that the library uses for windows."""

    def __init__(self, store: RedisStore) -> None:
        self._store = store

    def register_script(self, text: bytes) -> Callable[[Sequence[Any], Sequence[Any]], Awaitable[Any]]:
        """Return a function that runs the script with keys and arguments. The function raises StoreLostError."""
        # Its answer says which question it answers, as those of our own scripts do.
        lua = f"local function answer()\n{text.decode()}\nend\nreturn {{tonumber(ARGV[#ARGV]), answer()}}\n"
        pack = packed_script(lua)

        async def run(keys: Sequence[Any], values: Sequence[Any]) -> Any:
            words = [str(value) for value in values]
            reply = await self._store.ask(lambda nonce, whole=False: pack(keys, [*words, str(nonce)], whole))
            return reply[1] if len(reply) > 1 else None

        return run


def open_redis_windows(store: RedisStore, prefix: str) -> RedisWindows:
    """Windows that all processes share. Loads the library.

    prefix: begins every key
    """
    storage = redis_storage(ScriptClient(store), f"{prefix}w", store.time)
    return RedisWindows(LibraryWindows(storage, store.time), store)
