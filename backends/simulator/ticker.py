"""One timer for all streams."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable

RESOLUTION = 0.001
"""Seconds. A stream's gap is far longer, and all that falls into one tick costs the loop one timer."""


class TickerEntry:
    """Due call; `cancel` is one assignment, so that a client that leaves costs nothing."""

    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class Ticker:
    """Calls back at a time of the loop's clock, rounded up to the next tick; never early.

    A timer of the loop's own costs about 3 us to make and fire; here that is paid once a tick, however many streams
    share it.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._due: dict[int, list[TickerEntry]] = {}
        self._ticks: list[int] = []
        self._timer: asyncio.TimerHandle | None = None

    def at(self, when: float, callback: Callable[[], None]) -> TickerEntry:
        entry = TickerEntry(callback)
        tick = int(when / RESOLUTION) + 1
        bucket = self._due.get(tick)
        if bucket is None:
            self._due[tick] = [entry]
            heapq.heappush(self._ticks, tick)
            if self._ticks[0] == tick:
                self._arm()
        else:
            bucket.append(entry)
        return entry

    def after(self, delay: float, callback: Callable[[], None]) -> TickerEntry:
        return self.at(self._loop.time() + delay, callback)

    def close(self) -> None:
        """Cancel every call."""
        if self._timer is not None:
            self._timer.cancel()
        self._due.clear()
        self._ticks.clear()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(self._ticks[0] * RESOLUTION, self._fire)

    def _fire(self) -> None:
        self._timer = None
        now = self._loop.time()
        while self._ticks and self._ticks[0] * RESOLUTION <= now:
            for entry in self._due.pop(heapq.heappop(self._ticks)):
                if entry.callback is not None:
                    self._call(entry.callback)
        if self._ticks and self._timer is None:
            self._arm()

    def _call(self, callback: Callable[[], None]) -> None:
        try:
            callback()
        except Exception as error:
            # One broken stream must not take the others' time away.
            self._loop.call_exception_handler({"message": "a timed call failed", "exception": error})
