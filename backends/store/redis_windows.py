"""Sliding and moving windows in Redis: the library's own scripts, asked only while the store answers.

They go over connections of their own, a call each (80 to 120 us of our time). A call that comes too late may have
counted; it is not asked again.
"""

import asyncio
import time
from collections.abc import Coroutine
from typing import Any, Protocol, TypeVar

from backends.store.redis_client import RedisClient, kind_of
from backends.store.redis_store import Sharing
from backends.store.windowed import Reading, Windows, WindowsLostError
from backends.store.windows import LibraryWindows, redis_storage
from policies.limits import Demand

T = TypeVar("T")


class Away(Protocol):
    """Whether the store is away; told how it does."""

    open: bool

    def worked(self) -> None: ...
    def failed(self, kind: str, reason: str) -> None: ...


class RedisWindows:
    """The `Windows` of a `WindowedStore`."""

    at_once = False

    def __init__(self, windows: Windows, timeout: float, away: Away) -> None:
        """timeout: seconds that a call may take"""
        self._windows = windows
        self._timeout = timeout
        self._away = away

    async def read(self, demand: Demand) -> Reading:
        """As `Windows.read`."""
        return await self._asked(self._windows.read(demand))

    async def hit(self, demand: Demand) -> bool:
        """As `Windows.hit`."""
        return await self._asked(self._windows.hit(demand))

    async def _asked(self, work: Coroutine[Any, Any, T]) -> T:
        if self._away.open:
            work.close()
            raise WindowsLostError("the store is away")
        task = asyncio.get_running_loop().create_task(work, name="window")
        try:
            await asyncio.wait((task,), timeout=self._timeout)
            # An event loop that stood still reads what lies in the socket in its next turns.
            for _ in range(4):
                if task.done():
                    break
                await asyncio.sleep(0)
        finally:
            # Late, or nobody waits for it any more.
            task.cancel()
        try:
            found = await task
        except asyncio.CancelledError:
            if not task.cancelled():
                raise
            self._away.failed("timeout", f"no reply in {self._timeout * 1000:g} ms")
            raise WindowsLostError("too late") from None
        except WindowsLostError as error:
            self._away.failed(kind_of(error), str(error))
            raise
        self._away.worked()
        return found


def open_redis_windows(client: RedisClient, sharing: Sharing, away: Away) -> RedisWindows:
    """Windows that all processes share. Loads the library.

    They are not under the tag of the other limits: on a Cluster each is on some node.
    """
    storage = redis_storage(client.library(), f"{sharing.prefix}:windows:v1")
    # The library goes by the wall clock for moving windows, and we must go by the same.
    return RedisWindows(LibraryWindows(storage, time.time), sharing.timeout, away)  # noqa: TID251  # see above
