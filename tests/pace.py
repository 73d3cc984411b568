"""How fast this machine is just now, for the few tests whose bar is a time.

A bar of 15 ms is meant for the machine it was set on. Others are slower, a busy one is for a while, and coverage makes
each of our lines slower still: none of that is the code's doing.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Final

# CPU seconds of `_loop` where the bars were set (2 cores of a Xeon, Python 3.11.7, nothing else running).
_REFERENCE: Final = 0.0036


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
