"""Health of one endpoint: whether it may get requests, by its attempts, its probes and the operator's orders.

`EndpointHealth` applies each event to the parts (`backends.pool.health_parts`) in order, and reports every change once:
to the meter, to the log, and to the pool, whose candidates may be others now. It lives as long as the endpoint, over
tables.
"""

from math import inf

from backends.control.events import ProbeVerdict
from backends.control.meters import EndpointMeter
from backends.control.table import EndpointSpec, PoolSpec
from backends.pool.breakers import Breakers
from backends.pool.health_parts import BreakerGuard, EjectionGuard, HealthContext, PauseGuard, SuspicionMark
from backends.pool.health_report import HealthReport, Probed, Shown
from backends.pool.pool_state import PoolState
from backends.pool.share import ShareOwner, TrafficShare
from policies.resilience.breaker import BreakerPermit, State
from policies.resilience.ejection import FailureRecord
from policies.resilience.outcome import Outcome


class EndpointHealth:
    """Health of one endpoint. Every `now` is in seconds of one monotonic clock.

    troubled: a success has work to do here; False while nothing is wrong
    record: failure record that every success goes to; None while ejection is off
    """

    __slots__ = (
        "_breakers", "_context", "_ejection", "_owner", "_pause", "_pool", "_shown", "_shown_breaker", "_spec",
        "_suspicion", "breakers", "drained", "probes", "record", "retired", "troubled",
    )  # fmt: skip

    def __init__(self, spec: EndpointSpec, owner: ShareOwner, pool: PoolState, meter: EndpointMeter) -> None:
        self._spec = spec
        self._owner = owner
        self._pool = pool
        self._context = HealthContext(spec.name, pool, TrafficShare(owner, spec.weight), meter)
        self._suspicion = SuspicionMark(self._context)
        self._pause = PauseGuard(self._context)
        self._ejection = EjectionGuard(self._context, self._suspicion)
        self._breakers = BreakerGuard(self._context, self)
        self.breakers: Breakers = self._breakers.breakers
        # A worker is in the table only while its supervisor finds it ready.
        self.probes: Probed = "up" if spec.incarnation else "unknown"
        self.drained = self.retired = self.troubled = False
        self.record: FailureRecord | None = None
        self._shown: Shown | None = None
        self._shown_breaker: State | None = None

    # -- read by the pool

    @property
    def down(self) -> bool:
        """True if the probes find the endpoint down."""
        return self.probes == "down"

    @property
    def ejected(self) -> bool:
        return self._ejection.ejected

    @property
    def ejected_until(self) -> float:
        return self._ejection.until

    @property
    def paused(self) -> bool:
        return self._pause.paused

    @property
    def paused_until(self) -> float:
        return self._pause.until

    @property
    def paused_by_engine(self) -> bool:
        """True if the engine itself set the length of the pause."""
        return self._pause.by_engine

    @property
    def available(self) -> bool:
        """True if the endpoint is a candidate, save for its breakers."""
        return not (self.drained or self.ejected or self.paused or self.down or self.breakers.forced == "open")

    @property
    def guarded(self) -> bool:
        """True if `lets` must be called before an attempt."""
        return self.breakers.matter or self._pause.on_trial

    def lets(self, model: str | None, now: float) -> bool:
        """Return whether an attempt may be sent now: by the breaker, and one at a time after a pause."""
        return self.breakers.lets(model, now) and self._pause.allows_trial(now)

    def permit(self, model: str | None, now: float) -> BreakerPermit | None:
        """Return the breaker's permit for one attempt; None where none is needed."""
        self._pause.note_attempt(now)
        return self.breakers.permit(model, now)

    def report(self, now: float) -> HealthReport:
        """Return the present state, for operators."""
        self._pool.refresh(now)
        return HealthReport(
            state=self._state(now),
            probes=self.probes,
            paused_for=max(0.0, self.paused_until - now) if self.paused else 0.0,
            ejected_for=max(0.0, self.ejected_until - now) if self.ejected else 0.0,
            warmth=self._owner.warmth,
            drained=self.drained,
            forced=self.breakers.forced,
            breaker=self.breakers.worst(now),
            breakers=self.breakers.states(now),
        )

    # -- events

    def record_outcome(
        self, outcome: Outcome, now: float, model: str | None, permit: BreakerPermit | None, retry_after: float | None,
        excused: bool,
    ) -> None:  # fmt: skip
        """Apply the outcome of one attempt."""
        if self.retired:
            return
        self._pool.refresh(now)
        label = outcome.label
        faulty = label in self._pool.breaker_when
        failed: bool | None
        if excused or outcome.word == "client_gone":
            failed = None
        elif outcome.word == "hedge_lost":
            # Not a failure; but hedges must not hide an engine that hangs and answers 200 to a health check.
            self._suspicion.raise_for(label, now)
            failed = None
        elif outcome.word == "ok":
            self._succeeded(now)
            failed = False
        elif outcome.status in (429, 503):
            self._saturated(label, retry_after, now)
            # Not a failure while the breaker is closed, and no success of a probe (fault 21).
            failed = faulty or self.breakers.probing(model, now) or None
        else:
            self._failed(outcome, label, now)
            failed = faulty or None
        self._breakers.record_outcome(model, permit, failed, now, label)
        if outcome.word == "ok" and not excused and self.breakers:
            self.breakers.forget()
        self._update(now)

    def began(self, model: str | None, permit: BreakerPermit, now: float) -> None:
        """Apply the first content of an attempt that a half-open breaker let through."""
        if self.retired:
            return
        self._pool.refresh(now)
        self._breakers.record_outcome(model, permit, False, now, "ok")
        self._update(now)

    def apply_verdict(self, verdict: ProbeVerdict, now: float) -> None:
        """Apply what the probes have found."""
        self._pool.refresh(now)
        was, self.probes = self.probes, verdict.state
        if verdict.state == "up":
            self._suspicion.clear()
        if verdict.readmit:
            self.breakers.half_open(now)
            self._breakers.log_steps(now, verdict.reason)
        if verdict.state == "down" and was != "down":
            self._context.log("down", verdict.reason)
            self._pool.changed()
        elif verdict.state == "suspect" and was in ("unknown", "up"):
            self._context.log("suspect", verdict.reason)
        elif was == "down" and verdict.state != "down":
            self._returned(now, verdict.reason)
        if verdict.readmit:
            self.readmit(now, verdict.reason)
        self._update(now)

    def follow(self, spec: PoolSpec, now: float) -> None:
        """Adopt a new table: the pool's settings and the operator's orders."""
        first = self._shown is None
        if self._ejection.configure(spec.ejection):
            self._returned(now, "ejection is off")
        self.record = self._ejection.record
        self._breakers.configure(spec)
        drained, forced = self._spec.name in spec.drained, spec.forced.get(self._spec.name)
        resumed, self.drained = self.drained and not drained, drained
        if forced != self.breakers.forced:
            self._breakers.force(forced, now)
        if resumed:
            self._returned(now, "resumed")
        if first and self._spec.incarnation > 1:
            # A worker that was started again is as cold as one that was away.
            self._context.start_slowly(now)
        self._update(now)

    def retire(self) -> None:
        """Leave the table: later outcomes change and report nothing."""
        self.retired = True
        self._context.share.whole()

    def readmit(self, now: float, reason: str) -> None:
        """End an ejection early."""
        if self.ejected and self.record is not None:
            self.record.readmit(now)
            self._ejection.ejected = False
            self._returned(now, reason)
            self._update(now)

    def refresh(self, now: float) -> float:
        """End everything whose time is over; return the time of the next check, inf for none."""
        self._pause.expire(now)
        if self.ejected and now >= self.ejected_until:
            self._ejection.ejected = False
            self._returned(now, "served")
        self._breakers.log_steps(now, "open_for is over")
        self._context.share.refresh(now, self._pool.spec.slow_start)
        self._show(now)
        return self._due(now)

    # -- steps of an event

    def _succeeded(self, now: float) -> None:
        if self.record is not None:
            self.record.succeeded(now)
        self._pause.succeeded()

    def _failed(self, outcome: Outcome, label: str, now: float) -> None:
        if outcome.word == "too_slow":
            # A hanging engine goes on answering 200 to a health check: the probes must ask it for a token.
            self._suspicion.raise_for(label, now)
        elif outcome.word != "status":
            self._context.log("failed", label)
        if outcome.status is None or outcome.status >= 500:
            self._context.share.failed(now)
        self._ejection.failed(label, now, exempt=self.drained or self.down)

    def _saturated(self, label: str, retry_after: float | None, now: float) -> None:
        self._context.share.failed(now)
        self._pause.saturated(label, retry_after, now)
        self._ejection.saturated(label, retry_after, now, exempt=self.drained or self.down)

    def _returned(self, now: float, reason: str) -> None:
        """Report that one obstacle is over, and start slowly where no other one is left."""
        self._pool.changed()
        if not (self.ejected or self.drained or self.down):
            self._context.start_slowly(now)
            self._context.log("returned", reason)

    # -- after each event

    def _update(self, now: float) -> None:
        """Prepare for the next success, and expect the next expiry."""
        self.troubled = self._pause.active or bool(self.breakers)
        self._show(now)
        moment = self._due(now)
        if moment < inf:
            self._pool.expect(self, moment)

    def _due(self, now: float) -> float:
        """Return the time at which something expires next; inf for nothing."""
        moment = self._context.share.due(now, self._pool.spec.slow_start)
        if self.breakers:
            moment = min(moment, self.breakers.due(now))
        if self.ejected:
            moment = min(moment, self.ejected_until)
        if self.paused:
            moment = min(moment, self.paused_until)
        return min(moment, self._suspicion.until) if now < self._suspicion.until else moment

    def _state(self, now: float) -> Shown:
        if self.drained:
            return "draining"
        if self.down:
            return "down"
        if self.ejected:
            return "ejected"
        if self.paused:
            return "paused"
        if self.probes == "suspect" or now < self._suspicion.until or self.breakers.worst(now) != "closed":
            return "suspect"
        return self.probes

    def _show(self, now: float) -> None:
        """Report state and breaker to the meter, where they have changed."""
        state, breaker = self._state(now), self.breakers.worst(now)
        if state != self._shown:
            self._shown = state
            self._context.meter.state(state)
        if breaker != self._shown_breaker:
            self._shown_breaker = breaker
            self._context.meter.breaker(breaker)
