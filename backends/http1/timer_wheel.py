"""One timer wheel for every timeout that is nearly always cancelled: idle connections, gaps, write stalls, deadlines.

A loop timer costs about 1 us to set and as much to cancel, and a stream would set one for every chunk. Here the loop
has one timer, however many are armed, and none while nothing is; moving a timer to a later time writes one attribute.
The price is precision: a timer fires at most one tick late, and never early. After a stall of the whole loop it is one
tick more: what has come in the meantime is read first, or everybody would be blamed for our own silence.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final, Protocol

# So many ticks late is no rounding: the loop has stood still.
STALLED: Final = 4


class LoopTimers(Protocol):
    """Part of an event loop that the wheel uses."""

    def time(self) -> float: ...
    def call_at(self, when: float, callback: Callable[[], object], /) -> asyncio.TimerHandle: ...
    def call_exception_handler(self, context: dict[str, Any], /) -> None: ...


class Timer:
    """One armed callback; it belongs to the wheel that made it."""

    __slots__ = ("bucket", "callback", "due", "slot")

    def __init__(self, callback: Callable[[], object], due: int) -> None:
        self.callback = callback
        self.due = due
        """The number of the tick at which it fires."""
        self.slot = due
        """The tick at which the wheel looks at it: `due`, or earlier when it was moved since."""
        self.bucket: set[Timer] | None = None

    @property
    def armed(self) -> bool:
        return self.bucket is not None


class TimerWheel:
    """Timers in buckets by the number of the tick (a calendar queue: far deadlines need no second level).

    `loop` gives the clock and the one real timer; `tick` is the precision in seconds.
    """

    def __init__(self, loop: LoopTimers, tick: float = 0.05) -> None:
        self._loop = loop
        self.time: Final = loop.time
        """The clock of the wheel, in seconds."""
        self._tick: Final = tick
        self._buckets: dict[int, set[Timer]] = {}
        self._turned = 0
        self._waited = False
        self._handle: asyncio.TimerHandle | None = None

    def arm(self, seconds: float, callback: Callable[[], object]) -> Timer:
        """Call `callback` once, `seconds` from now or up to one tick later."""
        timer = Timer(callback, int((self.time() + seconds) / self._tick) + 1)
        self._place(timer)
        return timer

    def rearm(self, timer: Timer, seconds: float) -> None:
        """Let `timer` fire `seconds` from now instead; one that has fired or was cancelled is armed again."""
        due = int((self.time() + seconds) / self._tick) + 1
        timer.due = due
        if timer.bucket is None or due < timer.slot:
            self.cancel(timer)
            self._place(timer)

    def cancel(self, timer: Timer) -> None:
        """Forget `timer`; nothing happens if it has fired or was cancelled before."""
        bucket = timer.bucket
        if bucket is None:
            return
        timer.bucket = None
        bucket.discard(timer)
        # A bucket whose tick is being served is no longer in the table.
        if not bucket and self._buckets.get(timer.slot) is bucket:
            del self._buckets[timer.slot]

    def _place(self, timer: Timer) -> None:
        if self._handle is None:
            self._turned = int(self.time() / self._tick)
            self._wind()
        # A tick that has been served would never be looked at again.
        slot = timer.slot = max(timer.due, self._turned + 1)
        bucket = self._buckets.get(slot)
        if bucket is None:
            bucket = self._buckets[slot] = set()
        bucket.add(timer)
        timer.bucket = bucket

    def _wind(self) -> None:
        self._handle = self._loop.call_at((self._turned + 1) * self._tick, self._turn)

    def _turn(self) -> None:
        """Serve every tick that has passed. An empty wheel is not wound again, so cancelling costs nothing."""
        now = int(self.time() / self._tick)
        if now > self._turned + STALLED and not self._waited:
            self._waited = True
            self._handle = self._loop.call_at(self.time() + self._tick, self._turn)
            return
        self._waited = False
        for slot in self._passed(now):
            self._turned = slot
            self._serve(self._buckets.pop(slot), slot)
        self._turned = max(self._turned, now)
        if self._buckets:
            self._wind()
        else:
            self._handle = None

    def _passed(self, now: int) -> list[int]:
        first = self._turned + 1
        # After a long stall of the loop the buckets are fewer than the ticks.
        if now - first > len(self._buckets):
            return sorted(slot for slot in self._buckets if slot <= now)
        return [slot for slot in range(first, now + 1) if slot in self._buckets]

    def _serve(self, bucket: set[Timer], slot: int) -> None:
        while bucket:
            timer = bucket.pop()
            timer.bucket = None
            if timer.due > slot:
                self._place(timer)
                continue
            try:
                timer.callback()
            except Exception as error:
                # One bad callback must not stop everybody's timeouts.
                self._loop.call_exception_handler({"message": "a timer's callback failed", "exception": error})
