"""Times that a busy or a slow machine does not change, for tests whose bar is a time.

`Watch` measures a wait without the seconds in which this process was ready to run and another had the processor. `cpu`
measures the work. `slowdown` is for bars of CPU time: a bar of 15 ms is meant for the machine it was set on, and
coverage makes each of our lines slower.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Final

_THREADS: Final = "/proc/self/task"
_GUARD: Final = 5.0
_PRESSURE: Final = Path("/proc/pressure/cpu")

# CPU seconds of `_loop` where the bars were set (2 cores of a Xeon, Python 3.11.7, nothing else running).
_REFERENCE: Final = 0.0036


class Watch:
    """Stopwatch that runs from its construction.

    A lower bound is asserted of `seconds`, an upper bound of `own`.
    """

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._waited = _waited()
        self._pressed = _pressure()
        self._ended: tuple[float, float] | None = None

    def __repr__(self) -> str:
        return f"<{self.seconds:.3f} s, {self.waited:.3f} s of them without a processor>"

    def stop(self) -> Watch:
        """Stop the watch, and return it: its times stay as they are now."""
        self._ended = self.seconds, self.waited
        return self

    @property
    def seconds(self) -> float:
        """Seconds of the clock."""
        return time.monotonic() - self._began if self._ended is None else self._ended[0]

    @property
    def waited(self) -> float:
        """Seconds in which threads of this process were ready to run and had no processor."""
        return max(0.0, _waited() - self._waited) if self._ended is None else self._ended[1]

    @property
    def own(self) -> float:
        """`seconds` without `waited`."""
        return self.seconds - self.waited

    @property
    def calm(self) -> float:
        """`seconds` without those in which any process of this machine waited for a processor: for waits that other
        processes decide."""
        return self.seconds - (_pressure() - self._pressed)

    def within(self, least: float, most: float) -> bool:
        """Whether at least `least` seconds have passed, and less than `most` that are not the machine's doing."""
        return least <= self.seconds and self.own < most


@contextlib.asynccontextmanager
async def own_timeout(seconds: float) -> AsyncIterator[None]:
    """`asyncio.timeout`, which does not count the seconds in which this process had no processor.

    From 5 s on a timeout only ends a test that hangs: it counts all seconds, and costs nothing.
    """
    if seconds >= _GUARD:
        async with asyncio.timeout(seconds):
            yield
        return
    loop, watch = asyncio.get_running_loop(), Watch()
    async with asyncio.timeout(None) as limit:
        timers: list[asyncio.TimerHandle] = []

        def check() -> None:
            left = seconds - watch.own
            if left > 0.0:
                timers[:] = [loop.call_later(left, check)]
            else:
                limit.reschedule(loop.time())

        timers.append(loop.call_later(seconds, check))
        try:
            yield
        finally:
            timers[0].cancel()


def _waited() -> float:
    """Seconds that the threads of this process have waited for a processor; 0.0 where the kernel does not count them.

    The second field of schedstat is in nanoseconds (Documentation/scheduler/sched-stats.rst in Linux's source).
    """
    total = 0
    for thread in os.listdir(_THREADS) if os.path.isdir(_THREADS) else ():
        # A thread may end meanwhile; not every kernel has the file.
        with contextlib.suppress(OSError, IndexError, ValueError), open(f"{_THREADS}/{thread}/schedstat", "rb") as file:
            total += int(file.read().split()[1])
    return total / 1e9


def _pressure() -> float:
    """Seconds since the machine's start in which a process waited for a processor; 0.0 where the kernel has no PSI."""
    try:
        return int(_PRESSURE.read_text().split("total=")[1].split()[0]) / 1e6
    except (OSError, IndexError, ValueError):
        return 0.0


def slowdown() -> float:
    """How many times slower this machine is than the one the bars were set on; at least 1."""
    return max(1.0, cpu(_loop) / _REFERENCE)


def cpu(work: Callable[[], object], times: int = 5) -> float:
    """The fewest CPU seconds that this took: what is measured is the work, not who else had the processor."""
    best = float("inf")
    with _untraced():
        for _ in range(times):
            began = time.process_time()
            work()
            best = min(best, time.process_time() - began)
    return best


def _loop() -> int:
    total = 0
    for number in range(100_000):
        total += number % 7
    return total


@contextlib.contextmanager
def _untraced() -> Iterator[None]:
    """Without coverage, which doubles what our own lines take."""
    tracer = sys.gettrace()
    sys.settrace(None)
    try:
        yield
    finally:
        sys.settrace(tracer)
