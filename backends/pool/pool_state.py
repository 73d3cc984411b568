"""What a pool is over all its tables: its members now, its settings, its retry budget, and when what next expires."""

from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import TYPE_CHECKING, Final

from backends.control.events import EndpointEvent, Figures, Kind
from backends.control.meters import PoolMeter
from backends.control.table import PoolSpec
from policies.resilience.ejection import may_eject
from policies.resilience.hedging import HedgeBudget
from policies.resilience.retry_budget import RetryBudget

if TYPE_CHECKING:
    from backends.pool.endpoint_health import EndpointHealth

PANIC_OVER: Final = 10.0
"""A panic that nobody had for so many seconds is over, and the next one is told again."""


class PoolState:
    """One pool, by its name. Its endpoints meet here: who may be ejected depends on the others.

    version: goes up with every change of who is a candidate
    due: the earliest moment at which something expires; a choice from then on looks again first
    """

    __slots__ = (
        "_alarm", "_emit", "_panic_at", "_timed", "breaker_when", "budget", "due", "ejection_when", "hedges", "members",
        "meter", "name", "spec", "version",
    )  # fmt: skip

    def __init__(
        self, name: str, meter: PoolMeter, *, emit: Callable[[EndpointEvent], None], alarm: Callable[[], None]
    ) -> None:
        """`alarm` is called when `due` comes nearer: somebody should call `refresh` then, also if nobody chooses."""
        self.name = name
        self.meter = meter
        self.budget = RetryBudget()
        self.hedges = HedgeBudget(self.budget)
        self.members: tuple[EndpointHealth, ...] = ()
        self.version = 0
        self.due = inf
        self.spec = PoolSpec(name, "", "", (), ())
        self.ejection_when: frozenset[str] = frozenset()
        self.breaker_when: frozenset[str] = frozenset()
        self._emit = emit
        self._alarm = alarm
        self._panic_at = -inf
        # Those whose state changes by itself at some moment, in the order in which they got there.
        self._timed: dict[EndpointHealth, None] = {}

    def install(self, spec: PoolSpec, members: Sequence["EndpointHealth"], now: float) -> None:
        """A new table: who is a member, and what the operator says of each."""
        for gone in set(self.members).difference(members):
            gone.retire()
            self._timed.pop(gone, None)
        self.spec, self.members = spec, tuple(members)
        self.ejection_when = _labels(spec.ejection.when if spec.ejection is not None else ())
        self.breaker_when = _labels(spec.breaker.when if spec.breaker is not None else ())
        for member in members:
            member.follow(spec, now)
        self._let_back(now)
        self.changed()

    def refresh(self, now: float) -> None:
        """Let everything expire whose time is over. Costs nothing before `due`."""
        if now < self.due:
            return
        self.due = inf
        for standing in list(self._timed):
            moment = standing.refresh(now)
            if moment == inf:
                self._timed.pop(standing, None)
            elif moment < self.due:
                self.due = moment
        if self.due < inf:
            self._alarm()

    def expect(self, standing: "EndpointHealth", moment: float) -> None:
        """Something of it expires then."""
        self._timed[standing] = None
        if moment < self.due:
            self.due = moment
            self._alarm()

    def changed(self) -> None:
        """Somebody is a candidate now, or no candidate any more."""
        self.version += 1

    def tell(self, endpoint: str, kind: Kind, reason: str, figures: Figures) -> None:
        """One change, for the log."""
        self._emit(EndpointEvent(self.name, endpoint, kind, reason, figures))

    def may_eject(self) -> bool:
        """Whether one more may be ejected. Those that are drained or down can't answer for the others, so they make the
        pool no larger."""
        settings = self.spec.ejection
        if settings is None:
            return False
        there = [one for one in self.members if not one.drained and not one.down]
        return may_eject(settings, len(there), sum(one.ejected for one in self.members))

    def last_closed(self, standing: "EndpointHealth", model: str | None, now: float) -> bool:
        """Whether nobody else's breaker is closed for this model (DESIGN rule 11)."""
        others = (one for one in self.members if one is not standing and not one.drained)
        return not any(one.breakers.closed(model, now) for one in others)

    def panic(self, now: float, figures: Mapping[str, int]) -> None:
        """A choice had to look past what keeps endpoints out."""
        self.meter.panics.value += 1
        if now - self._panic_at > PANIC_OVER:
            self.tell("", "panic", "no candidate", figures)
        self._panic_at = now

    def _let_back(self, now: float) -> None:
        """After a reload the pool may be smaller, or allow less: those whose time is over first come back."""
        settings = self.spec.ejection
        if settings is None:
            return
        ejected = sorted((one for one in self.members if one.ejected), key=lambda one: one.ejected_until)
        while ejected and not may_eject(settings, len(self.members), len(ejected) - 1):
            ejected.pop(0).readmit(now, "the pool allows less")


def _labels(when: Sequence[str | int]) -> frozenset[str]:
    return frozenset(str(one) for one in when)
