"""What one endpoint has come to: by its attempts, by its probes and by the operator's word.

It decides nothing by itself: pause, ejection, breaker and slow start are policies, told here with the time. It lives as
long as the endpoint, over tables, and every change of it is told once: to the meter, to the log, and to the pool, whose
candidates may be others now.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Final, Literal

from backends.control.events import Kind, ProbeVerdict
from backends.control.meters import EndpointMeter
from backends.control.table import EndpointSpec, Forced, PoolSpec
from backends.pool.breakers import Breakers
from backends.pool.pool_state import PoolState
from backends.pool.share import ShareOwner, TrafficShare
from policies.config.settings.pools import EjectionSettings
from policies.resilience.breaker import BreakerPermit, State
from policies.resilience.ejection import EjectionReason, FailureRecord
from policies.resilience.outcome import Outcome
from policies.resilience.pause import SaturationPause

TRIAL: Final = 0.1
"""After a pause one attempt in so many seconds is sent until one succeeds. All that wait would come at once else, to an
endpoint that has nothing in flight, and be told to go away in a body."""

Shown = Literal["unknown", "up", "suspect", "down", "paused", "ejected", "draining"]
Probed = Literal["unknown", "up", "suspect", "down"]

SUSPECT_FOR: Final = 10.0
"""Seconds for which an endpoint is shown as suspect after a reason for it, where no probe says that it is well."""


@dataclass(frozen=True, slots=True)
class HealthReport:
    """One endpoint for the operator's eyes. Seconds are from now, 0 where it is not so."""

    state: Shown
    probes: Probed
    """What the probes say."""
    paused_for: float
    ejected_for: float
    warmth: float
    """The part of its share that it gets, 1 when it is warm."""
    drained: bool
    forced: Forced | None
    breaker: State
    """The worst of all models'."""
    breakers: Mapping[str, State]
    """By model; those that have nothing to remember are left out."""


class EndpointHealth:
    """Of one endpoint. Every `now` is in seconds of one monotonic clock.

    troubled: whether a success has anything to do here; while nothing is wrong it has not
    record: what a success is told in any case; None while ejection is off
    """

    __slots__ = (
        "_members", "_owner", "_pause", "_settings", "_share", "_shown", "_shown_breaker", "_spec", "_suspect_until",
        "_tried_at", "breakers", "drained", "ejected", "meter", "paused", "probes", "record", "retired", "troubled",
    )  # fmt: skip

    def __init__(self, spec: EndpointSpec, owner: ShareOwner, members: PoolState, meter: EndpointMeter) -> None:
        self._spec = spec
        self._owner = owner
        self._share = TrafficShare(owner, spec.weight)
        self._members = members
        self.meter = meter
        # A worker is in the table only while its supervisor finds it ready.
        self.probes: Probed = "up" if spec.incarnation else "unknown"
        self.drained = self.ejected = self.paused = self.retired = self.troubled = False
        self.breakers = Breakers()
        self.record: FailureRecord | None = None
        self._settings: EjectionSettings | None = None
        self._pause: SaturationPause | None = None
        self._tried_at = -inf
        self._suspect_until = -inf
        self._shown: Shown | None = None
        self._shown_breaker: State | None = None

    # -- what others read

    @property
    def down(self) -> bool:
        """Whether the probes say so."""
        return self.probes == "down"

    @property
    def told(self) -> bool:
        """Whether it is paused because the engine said for how long."""
        return self.paused and self._pause is not None and self._pause.told

    @property
    def ejected_until(self) -> float:
        """When its ejection is over, or was."""
        return self.record.ejected_until if self.record is not None else -inf

    @property
    def paused_until(self) -> float:
        """When its pause is over, or was."""
        return self._pause.until if self._pause is not None else -inf

    @property
    def available(self) -> bool:
        """Whether it is a candidate, save for its breakers."""
        return not (self.drained or self.ejected or self.paused or self.down or self.breakers.forced == "open")

    @property
    def tentative(self) -> bool:
        """Whether its pause is over and nothing has succeeded since."""
        return self._pause is not None and not self.paused

    @property
    def guarded(self) -> bool:
        """Whether `lets` has to be asked."""
        return self.breakers.matter or self.tentative

    def lets(self, model: str | None, now: float) -> bool:
        """Whether it may be sent an attempt now: by its breaker, and not all at once after a pause."""
        return self.breakers.lets(model, now) and not (self.tentative and now - self._tried_at < TRIAL)

    def permit(self, model: str | None, now: float) -> BreakerPermit | None:
        """Leave for one attempt. None where none is needed."""
        if self.tentative:
            self._tried_at = now
        return self.breakers.permit(model, now)

    def report(self, now: float) -> HealthReport:
        """For the operator's eyes."""
        self._members.refresh(now)
        return HealthReport(
            state=self._name(now),
            probes=self.probes,
            paused_for=max(0.0, self.paused_until - now) if self.paused else 0.0,
            ejected_for=max(0.0, self.ejected_until - now) if self.ejected else 0.0,
            warmth=self._owner.warmth,
            drained=self.drained,
            forced=self.breakers.forced,
            breaker=self.breakers.worst(now),
            breakers=self.breakers.states(now),
        )

    # -- how it learns

    def learn(
        self, outcome: Outcome, now: float, model: str | None, permit: BreakerPermit | None, retry_after: float | None,
        excused: bool,
    ) -> None:  # fmt: skip
        """One attempt has ended."""
        if self.retired:
            return
        self._members.refresh(now)
        label = outcome.label
        faulty = label in self._members.breaker_when
        if excused or outcome.word == "client_gone":
            self._tell_breaker(model, permit, None, now, label)
        elif outcome.word == "hedge_lost":
            # No failure; but hedges must not hide one that hangs and says 200 to a health check.
            self._doubt(now, label)
            self._tell_breaker(model, permit, None, now, label)
        elif outcome.word == "ok":
            self._succeeded(model, permit, now)
        elif outcome.status in (429, 503):
            self._saturated(label, retry_after, now)
            # It is no failure while the breaker is closed, and no success of a probe (fault 21).
            failed = faulty or self.breakers.probing(model, now) or None
            self._tell_breaker(model, permit, failed, now, label)
        else:
            self._failed(outcome, label, now)
            self._tell_breaker(model, permit, faulty or None, now, label)
        self._settle(now)

    def began(self, model: str | None, permit: BreakerPermit, now: float) -> None:
        """An attempt that a half-open breaker let through has its first content."""
        if self.retired:
            return
        self._members.refresh(now)
        self._tell_breaker(model, permit, False, now, "ok")
        self._settle(now)

    def heard(self, verdict: ProbeVerdict, now: float) -> None:
        """What the probes say."""
        self._members.refresh(now)
        was, self.probes = self.probes, verdict.state
        if verdict.state == "up":
            self._suspect_until = -inf
        if verdict.readmit:
            self.breakers.half_open(now)
            self._announce(now, verdict.reason)
        if verdict.state == "down" and was != "down":
            self._tell("down", verdict.reason)
            self._members.changed()
        elif verdict.state == "suspect" and was in ("unknown", "up"):
            self._tell("suspect", verdict.reason)
        elif was == "down" and verdict.state != "down":
            self._returned(now, verdict.reason)
        if verdict.readmit:
            self.readmit(now, verdict.reason)
        self._settle(now)

    def follow(self, spec: PoolSpec, now: float) -> None:
        """A new table: the pool's settings and the operator's word."""
        first = self._shown is None
        self._renew(spec, now)
        drained, forced = self._spec.name in spec.drained, spec.forced.get(self._spec.name)
        resumed, self.drained = self.drained and not drained, drained
        if forced != self.breakers.forced:
            self._force(forced, now)
        if resumed:
            self._returned(now, "resumed")
        if first and self._spec.incarnation > 1:
            # A worker that was started again is as cold as one that was away.
            self._share.begin(now, spec.slow_start)
        self._settle(now)

    def retire(self) -> None:
        """It left the table: it learns nothing more, and nobody is told of it."""
        self.retired = True
        self._share.whole()

    def readmit(self, now: float, why: str) -> None:
        """End an ejection early."""
        if self.ejected and self.record is not None:
            self.record.readmit(now)
            self._return(now, why)
            self._settle(now)

    def refresh(self, now: float) -> float:
        """Let expire whose time is over; when to look again, inf for never."""
        if self.paused and now >= self.paused_until:
            self.paused = False
            self._members.changed()
        if self.ejected and now >= self.ejected_until:
            self._return(now, "served")
        self._announce(now, "open_for is over")
        self._share.refresh(now, self._members.spec.slow_start)
        self._show(now)
        return self._due(now)

    # -- the steps

    def _succeeded(self, model: str | None, permit: BreakerPermit | None, now: float) -> None:
        if self.record is not None:
            self.record.succeeded(now)
        if self._pause is not None:
            self._pause.succeeded()
            if not self.paused:
                self._pause = None
                self._members.changed()
        if self.breakers:
            self._tell_breaker(model, permit, False, now, "ok")
            self.breakers.forget()

    def _failed(self, outcome: Outcome, label: str, now: float) -> None:
        if outcome.word == "too_slow":
            # What hangs goes on saying 200 to a health check: it must be asked for a token.
            self._doubt(now, label)
        elif outcome.word != "status":
            self._tell("failed", label)
        if outcome.status is None or outcome.status >= 500:
            self._share.failed(now)
        if self.record is not None and label in self._members.ejection_when:
            self._judge(self.record.failed(now), now)

    def _saturated(self, label: str, retry_after: float | None, now: float) -> None:
        self._share.failed(now)
        if self._pause is None:
            self._pause = SaturationPause()
        seconds = self._pause.saturated(retry_after, now)
        if not self.paused:
            self.paused = True
            self._members.changed()
            self._tell("paused", label, seconds=seconds, told=str(self._pause.told).lower())
        record = self.record
        if record is None:
            return
        if label in self._members.ejection_when:
            self._judge(record.failed(now), now)
        elif label == "429":
            self._judge(record.failed(now, consecutive=False), now)
        elif retry_after is None:
            self._judge(record.saturated(now), now)

    def _judge(self, reason: EjectionReason | None, now: float) -> None:
        """There may be a reason to eject it; the pool must be able to bear it."""
        if reason is None or self.ejected or self.drained or self.down or self.record is None:
            return
        figures = {"failures": reason.failures, "requests": reason.requests, "window": reason.window}
        if not self._members.may_eject():
            self._doubt(now, reason.kind, **figures)
            return
        seconds = self.record.eject(now)
        self.ejected = True
        self.meter.ejected(reason.kind)
        self._members.changed()
        self._tell("ejected", reason.kind, **figures, seconds=seconds)

    def _doubt(self, now: float, reason: str, **figures: float) -> None:
        """It stays, and is looked at: told once, until a probe finds it well or there was no reason for a while."""
        if now >= self._suspect_until:
            self._tell("suspect", reason, **figures)
        self._suspect_until = now + SUSPECT_FOR

    def _tell_breaker(
        self, model: str | None, permit: BreakerPermit | None, failed: bool | None, now: float, label: str
    ) -> None:
        """What the breaker of this model is to think of it; None frees the permit alone."""
        members = self._members
        if not failed and not self.breakers:
            return
        last = bool(failed) and members.last_closed(self, model, now)
        if self.breakers.settle(model, permit, failed, now, settings=members.spec.breaker, last_closed=last):
            self._announce(now, label)

    def _announce(self, now: float, why: str) -> None:
        """Tell of every step of a breaker since the last time."""
        for model, state, seconds in self.breakers.steps(now) if self.breakers else ():
            figures: dict[str, float | str] = {"model": model} if model else {}
            if state == "open":
                self._tell("breaker_open", why, **figures, seconds=seconds)
            elif state == "half_open":
                self._tell("breaker_half_open", why, **figures)
            else:
                self._tell("breaker_closed", why, **figures)
                self._share.begin(now, self._members.spec.slow_start)
            self._members.changed()

    def _force(self, forced: Forced | None, now: float) -> None:
        before = self.breakers.worst(now)
        self.breakers.force(forced)
        self._members.changed()
        why = "by the operator" if forced is not None else "by the outcomes again"
        if forced == "open":
            self._tell("breaker_open", why)
        elif forced == "closed" or before != "closed":
            self._tell("breaker_closed", why)
            if before != "closed":
                self._share.begin(now, self._members.spec.slow_start)

    def _renew(self, spec: PoolSpec, now: float) -> None:
        """The pool's settings: with other ones what was counted begins anew, and an ejection goes on."""
        settings, before = spec.ejection, self.record
        if settings is None:
            self.record = None
            if self.ejected:
                self._return(now, "ejection is off")
        elif before is None or settings != self._settings:
            self.record = FailureRecord(settings)
            if before is not None:
                self.record.ejected_until = before.ejected_until
        self._settings = settings
        if spec.breaker is None and self.breakers:
            self.breakers.clear()
            self._members.changed()

    def _return(self, now: float, why: str) -> None:
        """Its ejection is over."""
        self.ejected = False
        self._returned(now, why)

    def _returned(self, now: float, why: str) -> None:
        """What kept it out is over; it is back, unless something else keeps it out."""
        self._members.changed()
        if not (self.ejected or self.drained or self.down):
            self._share.begin(now, self._members.spec.slow_start)
            self._tell("returned", why)

    # -- after each

    def _settle(self, now: float) -> None:
        """Whatever it was: be ready for the next success, and for what expires by itself."""
        self.troubled = self._pause is not None or bool(self.breakers)
        self._show(now)
        moment = self._due(now)
        if moment < inf:
            self._members.expect(self, moment)

    def _due(self, now: float) -> float:
        moment = self._share.due(now, self._members.spec.slow_start)
        if self.breakers:
            moment = min(moment, self.breakers.due(now))
        if self.ejected:
            moment = min(moment, self.ejected_until)
        if self.paused:
            moment = min(moment, self.paused_until)
        return min(moment, self._suspect_until) if now < self._suspect_until else moment

    def _name(self, now: float) -> Shown:
        if self.drained:
            return "draining"
        if self.down:
            return "down"
        if self.ejected:
            return "ejected"
        if self.paused:
            return "paused"
        if self.probes == "suspect" or now < self._suspect_until or self.breakers.worst(now) != "closed":
            return "suspect"
        return self.probes

    def _show(self, now: float) -> None:
        name, breaker = self._name(now), self.breakers.worst(now)
        if name != self._shown:
            self._shown = name
            self.meter.state(name)
        if breaker != self._shown_breaker:
            self._shown_breaker = breaker
            self.meter.breaker(breaker)

    def _tell(self, kind: Kind, reason: str, **figures: float | int | str) -> None:
        self._members.tell(self._spec.name, kind, reason, figures)
