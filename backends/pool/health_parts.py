"""Parts that the health of one endpoint is made of: its context, its suspicion, its pause, its ejection, its breakers.

Each part has one job and its own state; `backends.pool.endpoint_health.EndpointHealth` calls them in order. The
policies decide (`policies.resilience.pause`, `ejection`, `breaker`), with the time passed in. Every `now` is in
seconds of one monotonic clock.
"""

from math import inf
from typing import Final

from backends.control.events import Kind
from backends.control.meters import EndpointMeter
from backends.control.table import Forced, PoolSpec
from backends.pool.breakers import Breakers
from backends.pool.pool_state import PoolMember, PoolState
from backends.pool.share import TrafficShare
from policies.config.settings.pools import EjectionSettings
from policies.resilience.breaker import BreakerPermit
from policies.resilience.ejection import EjectionReason, FailureRecord
from policies.resilience.pause import SaturationPause

TRIAL: Final = 0.1
"""Seconds between two attempts after a pause, until one succeeds. Without it all waiting requests would go at once
to an endpoint that has nothing in flight, and get a 429 or 503 each."""
SUSPECT_FOR: Final = 10.0
"""Seconds for which an endpoint is shown as suspect after a reason for it, while no probe finds it well."""


class HealthContext:
    """Surroundings of one endpoint that its health parts share: its pool, its share, its meter, its events."""

    __slots__ = ("meter", "name", "pool", "share")

    def __init__(self, name: str, pool: PoolState, share: TrafficShare, meter: EndpointMeter) -> None:
        self.name = name
        self.pool = pool
        self.share = share
        self.meter = meter

    def log(self, kind: Kind, reason: str, **figures: float | int | str) -> None:
        """Emit one event of the endpoint, for the log."""
        self.pool.log(self.name, kind, reason, figures)

    def start_slowly(self, now: float) -> None:
        """Begin the slow start of an endpoint that is back."""
        self.share.begin(now, self.pool.spec.slow_start)


class SuspicionMark:
    """Suspicion of an endpoint that still gets requests: shown and logged once, until a probe finds it well or no
    reason came for a while."""

    __slots__ = ("_context", "until")

    def __init__(self, context: HealthContext) -> None:
        self._context = context
        self.until = -inf

    def raise_for(self, reason: str, now: float, **figures: float) -> None:
        """Mark the endpoint as suspect."""
        if now >= self.until:
            self._context.log("suspect", reason, **figures)
        self.until = now + SUSPECT_FOR

    def clear(self) -> None:
        """Drop the suspicion: a probe has found the endpoint well."""
        self.until = -inf


class PauseGuard:
    """Pause of a saturated endpoint (DESIGN rule 7), and the trials after it.

    paused: the endpoint is no candidate while another one is
    """

    __slots__ = ("_context", "_last_trial", "_pause", "paused")

    def __init__(self, context: HealthContext) -> None:
        self._context = context
        self._pause: SaturationPause | None = None
        self._last_trial = -inf
        self.paused = False

    @property
    def active(self) -> bool:
        """True while a pause lasts, or no attempt has succeeded since."""
        return self._pause is not None

    @property
    def on_trial(self) -> bool:
        """True while the pause is over and no attempt has succeeded since."""
        return self._pause is not None and not self.paused

    @property
    def by_engine(self) -> bool:
        """True if the engine itself set the length of the pause (Retry-After)."""
        return self.paused and self._pause is not None and self._pause.told

    @property
    def until(self) -> float:
        """End of the present or the last pause."""
        return self._pause.until if self._pause is not None else -inf

    def allows_trial(self, now: float) -> bool:
        """Return whether an attempt may be sent: at most one in `TRIAL` seconds after a pause."""
        return not (self.on_trial and now - self._last_trial < TRIAL)

    def note_attempt(self, now: float) -> None:
        """Count an attempt as the trial, where one is due."""
        if self.on_trial:
            self._last_trial = now

    def saturated(self, label: str, retry_after: float | None, now: float) -> None:
        """Start or prolong the pause after a 429 or 503; `retry_after` in seconds, None without one."""
        if self._pause is None:
            self._pause = SaturationPause()
        seconds = self._pause.saturated(retry_after, now)
        if not self.paused:
            self.paused = True
            self._context.pool.changed()
            self._context.log("paused", label, seconds=seconds, told=str(self._pause.told).lower())

    def succeeded(self) -> None:
        """Note a success: a trial that succeeds ends the trials."""
        if self._pause is not None:
            self._pause.succeeded()
            if not self.paused:
                self._pause = None
                self._context.pool.changed()

    def expire(self, now: float) -> None:
        """End a pause whose time is over."""
        if self.paused and now >= self.until:
            self.paused = False
            self._context.pool.changed()


class EjectionGuard:
    """Ejection of an endpoint that fails more than the others (policy key `ejection`).

    record: failures of late; None while ejection is off
    """

    __slots__ = ("_context", "_settings", "_suspicion", "ejected", "record")

    def __init__(self, context: HealthContext, suspicion: SuspicionMark) -> None:
        self._context = context
        self._suspicion = suspicion
        self._settings: EjectionSettings | None = None
        self.record: FailureRecord | None = None
        self.ejected = False

    @property
    def until(self) -> float:
        """End of the present or the last ejection."""
        return self.record.ejected_until if self.record is not None else -inf

    def configure(self, settings: EjectionSettings | None) -> bool:
        """Adopt the pool's settings: with other ones the count begins anew, and an ejection goes on. Return whether an
        ejection ends because the settings switch ejection off."""
        before, ends = self.record, False
        if settings is None:
            self.record = None
            ends, self.ejected = self.ejected, False
        elif before is None or settings != self._settings:
            self.record = FailureRecord(settings)
            if before is not None:
                self.record.ejected_until = before.ejected_until
        self._settings = settings
        return ends

    def failed(self, label: str, now: float, *, exempt: bool) -> None:
        """Count a failure; `exempt`: the endpoint is out for another reason and is not ejected."""
        if self.record is not None and label in self._context.pool.ejection_when:
            self._judge(self.record.failed(now), now, exempt)

    def saturated(self, label: str, retry_after: float | None, now: float, *, exempt: bool) -> None:
        """Count a 429 or 503 (DESIGN rule 7)."""
        record = self.record
        if record is None:
            return
        if label in self._context.pool.ejection_when:
            self._judge(record.failed(now), now, exempt)
        elif label == "429":
            self._judge(record.failed(now, consecutive=False), now, exempt)
        elif retry_after is None:
            self._judge(record.saturated(now), now, exempt)

    def _judge(self, reason: EjectionReason | None, now: float, exempt: bool) -> None:
        """Eject for a reason, if the pool can bear it; else mark the endpoint as suspect."""
        if reason is None or self.ejected or exempt or self.record is None:
            return
        context = self._context
        figures = {"failures": reason.failures, "requests": reason.requests, "window": reason.window}
        if not context.pool.may_eject():
            self._suspicion.raise_for(reason.kind, now, **figures)
            return
        seconds = self.record.eject(now)
        self.ejected = True
        context.meter.ejected(reason.kind)
        context.pool.changed()
        context.log("ejected", reason.kind, **figures, seconds=seconds)


class BreakerGuard:
    """Circuit breakers of one endpoint, and the events of their steps (DESIGN rule 11)."""

    __slots__ = ("_context", "_member", "breakers")

    def __init__(self, context: HealthContext, member: PoolMember) -> None:
        self._context = context
        self._member = member
        self.breakers = Breakers()

    def record_outcome(
        self, model: str | None, permit: BreakerPermit | None, failed: bool | None, now: float, label: str
    ) -> None:
        """Record how an attempt ended at the breaker of its model; `failed` None only gives the permit back."""
        pool = self._context.pool
        if not failed and not self.breakers:
            return
        last = bool(failed) and pool.last_closed(self._member, model, now)
        if self.breakers.record_outcome(model, permit, failed, now, settings=pool.spec.breaker, last_closed=last):
            self.log_steps(now, label)

    def log_steps(self, now: float, reason: str) -> None:
        """Log every step of a breaker since the last call."""
        context = self._context
        for model, state, seconds in self.breakers.steps(now) if self.breakers else ():
            figures: dict[str, float | str] = {"model": model} if model else {}
            if state == "open":
                context.log("breaker_open", reason, **figures, seconds=seconds)
            elif state == "half_open":
                context.log("breaker_half_open", reason, **figures)
            else:
                context.log("breaker_closed", reason, **figures)
                context.start_slowly(now)
            context.pool.changed()

    def force(self, forced: Forced | None, now: float) -> None:
        """Hold the breakers in one state, by an operator's order; None lets outcomes decide again."""
        context, before = self._context, self.breakers.worst(now)
        self.breakers.force(forced)
        context.pool.changed()
        reason = "by the operator" if forced is not None else "by the outcomes again"
        if forced == "open":
            context.log("breaker_open", reason)
        elif forced == "closed" or before != "closed":
            context.log("breaker_closed", reason)
            if before != "closed":
                context.start_slowly(now)

    def configure(self, spec: PoolSpec) -> None:
        """Drop the breakers where the pool's settings switch them off."""
        if spec.breaker is None and self.breakers:
            self.breakers.clear()
            self._context.pool.changed()
