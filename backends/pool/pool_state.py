"""State of a pool that outlives its tables: present members, settings, retry budget, and the time of the next
expiry."""

from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import Final, Protocol

from backends.control.events import EndpointEvent, Figures, Kind
from backends.control.meters import PoolMeter
from backends.control.table import PoolSpec
from backends.pool.breakers import Breakers
from policies.resilience.ejection import may_eject
from policies.resilience.hedging import HedgeBudget
from policies.resilience.retry_budget import RetryBudget

PANIC_OVER: Final = 10.0
"""Seconds without a panic after which the next one is logged again."""


class PoolMember(Protocol):
    """Health of one endpoint, as the pool sees it (`backends.pool.endpoint_health.EndpointHealth`)."""

    drained: bool
    breakers: Breakers

    @property
    def down(self) -> bool: ...
    @property
    def ejected(self) -> bool: ...
    @property
    def ejected_until(self) -> float: ...
    def follow(self, spec: PoolSpec, now: float) -> None: ...
    def retire(self) -> None: ...
    def readmit(self, now: float, reason: str) -> None: ...
    def refresh(self, now: float) -> float: ...


class PoolState:
    """State of one pool, by its name. Its endpoints meet here: how many may be ejected depends on the others.

    version: goes up with every change of the set of candidates
    due: the earliest time at which something expires; a choice from then on refreshes first
    """

    __slots__ = (
        "_alarm", "_emit", "_panic_at", "_timed", "breaker_when", "budget", "due", "ejection_when", "hedges", "members",
        "meter", "name", "spec", "version",
    )  # fmt: skip

    def __init__(
        self, name: str, meter: PoolMeter, *, emit: Callable[[EndpointEvent], None], alarm: Callable[[], None]
    ) -> None:
        """`alarm` is called when `due` comes nearer: the caller then calls `refresh` in time, also without any
        choice."""
        self.name = name
        self.meter = meter
        self.budget = RetryBudget()
        self.hedges = HedgeBudget(self.budget)
        self.members: tuple[PoolMember, ...] = ()
        self.version = 0
        self.due = inf
        self.spec = PoolSpec(name, "", "", (), ())
        self.ejection_when: frozenset[str] = frozenset()
        self.breaker_when: frozenset[str] = frozenset()
        self._emit = emit
        self._alarm = alarm
        self._panic_at = -inf
        # Members whose state changes by itself at some time, in the order in which they were added.
        self._timed: dict[PoolMember, None] = {}

    def install(self, spec: PoolSpec, members: Sequence[PoolMember], now: float) -> None:
        """Adopt a new table: its members, settings and operator orders."""
        for gone in set(self.members).difference(members):
            gone.retire()
            self._timed.pop(gone, None)
        self.spec, self.members = spec, tuple(members)
        self.ejection_when = _labels(spec.ejection.when if spec.ejection is not None else ())
        self.breaker_when = _labels(spec.breaker.when if spec.breaker is not None else ())
        for member in members:
            member.follow(spec, now)
        self._readmit_surplus(now)
        self.changed()

    def refresh(self, now: float) -> None:
        """End everything whose time is over. Costs nothing before `due`."""
        if now < self.due:
            return
        self.due = inf
        for member in list(self._timed):
            moment = member.refresh(now)
            if moment == inf:
                self._timed.pop(member, None)
            elif moment < self.due:
                self.due = moment
        if self.due < inf:
            self._alarm()

    def expect(self, member: PoolMember, moment: float) -> None:
        """Refresh this member at `moment`."""
        self._timed[member] = None
        if moment < self.due:
            self.due = moment
            self._alarm()

    def changed(self) -> None:
        """Note a change of the set of candidates."""
        self.version += 1

    def log(self, endpoint: str, kind: Kind, reason: str, figures: Figures) -> None:
        """Emit one event, for the log."""
        self._emit(EndpointEvent(self.name, endpoint, kind, reason, figures))

    def may_eject(self) -> bool:
        """Return whether one more endpoint may be ejected. Drained and down endpoints cannot take the others'
        requests, so they do not count as part of the pool."""
        settings = self.spec.ejection
        if settings is None:
            return False
        there = [one for one in self.members if not one.drained and not one.down]
        return may_eject(settings, len(there), sum(one.ejected for one in self.members))

    def last_closed(self, member: PoolMember, model: str | None, now: float) -> bool:
        """Return whether no other member's breaker is closed for this model (DESIGN rule 11)."""
        others = (one for one in self.members if one is not member and not one.drained)
        return not any(one.breakers.closed(model, now) for one in others)

    def panic(self, now: float, figures: Mapping[str, int]) -> None:
        """Count a choice that had to ignore ejection, probes or pauses; log the first of a panic."""
        self.meter.panics.value += 1
        if now - self._panic_at > PANIC_OVER:
            self.log("", "panic", "no candidate", figures)
        self._panic_at = now

    def _readmit_surplus(self, now: float) -> None:
        """Readmit ejected endpoints, the earliest to expire first, where a reload made the pool smaller or stricter."""
        settings = self.spec.ejection
        if settings is None:
            return
        ejected = sorted((one for one in self.members if one.ejected), key=lambda one: one.ejected_until)
        while ejected and not may_eject(settings, len(self.members), len(ejected) - 1):
            ejected.pop(0).readmit(now, "the pool allows less")


def _labels(when: Sequence[str | int]) -> frozenset[str]:
    return frozenset(str(one) for one in when)
