"""A store that also keeps sliding and moving windows, which the `limits` library counts
(`backends/store/library_windows.py`).

The library cannot count several rules in one step, nor give back. So windows are read first, the demands of our own
strategies are taken in their one step, and the windows are hit last; where a hit fails since others were faster
meanwhile, what was taken is given back. A hit is atomic, so no window ever counts more than its limit. What a race can
do, while several requests are between reading and hitting:

- a request may be refused by a bucket for what another one gives back a moment later: at most one request for each that
  is between the two steps;
- of several windows in one plan, those that were hit before the one that failed keep that one request.

In memory nothing comes between the steps, and neither happens.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

from backends.store.base import LimitStore
from policies.limits import WINDOWS, Answer, Change, Demand, Granted, LimitLevel, LimitRefused, LimitRule

RACE_WAIT: Final = 1.0
"""Seconds that a client is told to wait where a window was full when it was hit, and is not any more."""


class WindowsLostError(Exception):
    """The store of the windows did not answer."""


@dataclass(frozen=True, slots=True)
class WindowReading:
    """Level of a window.

    wait: seconds until one more request fits: 0 now, inf never
    after: the level with one more request in it
    """

    wait: float
    level: LimitLevel
    after: LimitLevel


class WindowCounter(Protocol):
    """Counts of requests in windows. `read` and `hit` raise WindowsLostError."""

    at_once: bool
    """True if the counter never waits for a server."""

    async def read(self, demand: Demand) -> WindowReading:
        """Read the window without counting."""

    async def hit(self, demand: Demand) -> bool:
        """Count one request, if it fits."""


Outage = Callable[[Sequence[Demand], str], Answer]


class WindowedStore:
    """A `LimitStore` over another one, for all that is no window. Costs next to nothing where no rule is of one."""

    def __init__(
        self, store: LimitStore, open_windows: Callable[[], WindowCounter], outage: Outage | None = None
    ) -> None:
        """
        open_windows: called once, by `ready`: it loads the library
        outage: answers while windows cannot be read or hit; None where that cannot be, as in memory
        """
        self._store = store
        self._open = open_windows
        self._outage = outage
        self._windows: WindowCounter | None = None

    def ready(self, rules: Sequence[LimitRule]) -> None:
        """Be ready for these rules, before a request asks for them: the library takes 50 ms to load, once."""
        if self._windows is None and any(rule.strategy in WINDOWS for rule in rules):
            self._windows = self._open()

    def take(self, demands: Sequence[Demand], lease: str) -> "Answer | asyncio.Future[Answer]":
        """Implement `LimitStore.take`."""
        # `ready` was called for every rule: until it has opened windows, no demand is of one.
        if self._windows is None or not any([demand.rule.strategy in WINDOWS for demand in demands]):
            return self._store.take(demands, lease)
        work = self._take(self._windows, demands, lease)
        if self._windows.at_once:
            return _run(work)
        return asyncio.get_running_loop().create_task(work, name="windows of a request")

    def refund(self, granted: Granted, changes: Sequence[Change] = ()) -> None:
        """Implement `LimitStore.refund`."""
        if self._windows is not None:
            changes = [change for change in changes if change[0].rule.strategy not in WINDOWS]
        self._store.refund(granted, changes)

    async def seen(self, demands: Sequence[Demand]) -> tuple[LimitLevel, ...]:
        """Implement `LimitStore.seen`."""
        windowed = [demand for demand in demands if demand.rule.strategy in WINDOWS]
        own = [demand for demand in demands if demand.rule.strategy not in WINDOWS]
        levels = list(await self._store.seen(own)) if own else []
        if windowed and self._windows is not None:
            try:
                levels += [(await self._windows.read(demand)).level for demand in windowed]
            except WindowsLostError:
                pass
        return _in_order(demands, levels)

    async def start(self) -> None:
        """Implement `LimitStore.start`."""
        await self._store.start()

    async def stop(self) -> None:
        """Implement `LimitStore.stop`."""
        await self._store.stop()

    async def _take(self, windows: WindowCounter, demands: Sequence[Demand], lease: str) -> Answer:
        own = [demand for demand in demands if demand.rule.strategy not in WINDOWS]
        windowed = [demand for demand in demands if demand.rule.strategy in WINDOWS]
        granted: Granted | None = None
        hit = False
        try:
            found = [await windows.read(demand) for demand in windowed]
            longest = max(found, key=lambda reading: reading.wait)
            if longest.wait > 0:
                return LimitRefused(longest.level.rule, longest.wait, tuple(reading.level for reading in found))
            answer = await self._take_own(own, lease)
            if isinstance(answer, LimitRefused):
                levels = [*answer.levels, *(reading.level for reading in found)]
                return replace(answer, levels=_in_order(demands, levels))
            granted = answer
            refused = await _hit(windows, windowed)
            hit = refused is None
            if refused is not None:
                return refused
            levels = [*granted.levels, *(reading.after for reading in found)]
            return replace(granted, levels=_in_order(demands, levels))
        except WindowsLostError:
            assert self._outage is not None, "windows in memory are never away"
            return self._outage(demands, lease)
        finally:
            # Refused, lost or cancelled between the two steps.
            if granted is not None and not hit:
                self._store.refund(granted, [(demand, -demand.amount) for demand in own])

    async def _take_own(self, own: Sequence[Demand], lease: str) -> Answer:
        if not own:
            return Granted((), lease=lease)
        answer = self._store.take(own, lease)
        if not isinstance(answer, asyncio.Future):
            return answer
        try:
            return await answer
        except asyncio.CancelledError:
            if answer.done() and not answer.cancelled() and isinstance(granted := answer.result(), Granted):
                # It was answered in the turn in which we were cancelled, so nobody has cancelled it.
                self._store.refund(granted, [(demand, -demand.amount) for demand in own])
            raise


async def _hit(windows: WindowCounter, demands: Sequence[Demand]) -> LimitRefused | None:
    """Count the request in every window; the first that is full by now, and none after it."""
    for demand in demands:
        if not await windows.hit(demand):
            reading = await windows.read(demand)
            return LimitRefused(demand.rule, reading.wait or RACE_WAIT, (reading.level,))
    return None


def _in_order(demands: Sequence[Demand], levels: Sequence[LimitLevel]) -> tuple[LimitLevel, ...]:
    by_rule = {level.rule.name: level for level in levels}
    return tuple(by_rule[demand.rule.name] for demand in demands if demand.rule.name in by_rule)


def _run(work: Coroutine[Any, Any, Answer]) -> Answer:
    """The outcome of a coroutine that never waits."""
    try:
        work.send(None)
    except StopIteration as ended:
        answer: Answer = ended.value
        return answer
    raise AssertionError("windows in memory do not wait")
