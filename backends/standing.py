"""What one endpoint has come to: by its attempts, by its probes and by the operator's word.

It decides nothing by itself: pause, ejection, breaker and slow start are policies, told here with the time. It lives as
long as the endpoint, over tables, and every change of it is told once: to the meter, to the log, and to the pool, whose
candidates may be others now.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Final, Literal, Protocol

from backends.breakers import Breakers
from backends.events import Figures, Kind, Verdict
from backends.pool_state import Gauge, PoolState
from backends.table import EndpointSpec, Forced, PoolSpec
from policies.breaker import Permit, State
from policies.ejection import FailureRecord, Reason
from policies.outcome import Outcome
from policies.pause import Pause
from policies.settings.pools import Ejection
from policies.slow_start import factor

# How often a growing share is looked at, in seconds.
STEP: Final = 0.25

# What an attempt may find without a word in HTTP: the probes should look at once.
_FAILED: Final = frozenset({"not_sent", "no_answer", "too_slow", "broken_off"})

Shown = Literal["unknown", "up", "suspect", "down", "paused", "ejected", "draining"]


class EndpointMeter(Protocol):
    """How an endpoint counts, without knowing where to."""

    @property
    def in_flight(self) -> Gauge: ...
    @property
    def unframed(self) -> Gauge:
        """Answers whose end was the connection's."""

    @property
    def broken(self) -> Gauge:
        """Answers that broke off after their first byte had gone to the client."""

    def attempt(self, outcome: str) -> None: ...
    def state(self, name: str) -> None: ...
    def breaker(self, state: str) -> None: ...
    def ejected(self, reason: str) -> None: ...


class Share(Protocol):
    """Whose share grows: what the strategies read."""

    weight: float
    warmth: float
    usual: bool


@dataclass(frozen=True, slots=True)
class Report:
    """One endpoint for the operator's eyes. Seconds are from now; 0 where it is not so."""

    state: Shown
    probes: str
    """What the probes say: unknown, up, down or suspect."""
    paused_for: float
    ejected_for: float
    warmth: float
    """The part of its share that it gets, 1 when it is warm."""
    drained: bool
    forced: Forced | None
    breakers: Mapping[str, State]
    """By model; those that are closed and have nothing to remember are left out."""


class Standing:
    """Of one endpoint. Every `now` is in seconds of one monotonic clock.

    troubled: whether a success has anything to do here; while nothing is wrong it has not
    record: what to tell a success to in any case; None while ejection is off
    """

    __slots__ = (
        "_breakers", "_pause", "_returned_at", "_settings", "_share", "_shown", "_shown_breaker", "_spec", "_state",
        "_suspect_until", "drained", "ejected", "forced", "meter", "paused", "probes", "record", "retired", "troubled",
    )  # fmt: skip

    def __init__(self, spec: EndpointSpec, share: Share, state: PoolState, meter: EndpointMeter) -> None:
        self._spec = spec
        self._share = share
        self._state = state
        self.meter = meter
        # A worker is in the table only while its supervisor finds it ready.
        self.probes: Literal["unknown", "up", "down", "suspect"] = "up" if spec.incarnation else "unknown"
        self.drained = self.ejected = self.paused = self.retired = self.troubled = False
        self.forced: Forced | None = None
        self.record: FailureRecord | None = None
        self._settings: Ejection | None = None
        self._breakers = Breakers()
        self._pause: Pause | None = None
        self._suspect_until = -inf
        self._returned_at: float | None = None
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
        return self._pause.until if self._pause is not None else -inf

    @property
    def available(self) -> bool:
        """Whether it is a candidate, save for its breakers."""
        return not (self.drained or self.ejected or self.paused or self.down or self.forced == "open")

    @property
    def guarded(self) -> bool:
        """Whether it depends on the model if it is a candidate."""
        return bool(self._breakers)

    def lets(self, model: str | None, now: float) -> bool:
        """Whether its breaker lets an attempt through."""
        return self.forced != "open" and self._breakers.lets(model, now)

    def closed(self, model: str | None, now: float) -> bool:
        """Whether its breaker for this model is closed."""
        breaker = self._breakers.of(model)
        return self.forced != "open" and (breaker is None or breaker.state(now) == "closed")

    def retry_in(self, model: str | None, now: float) -> float:
        """Seconds until its breaker lets an attempt through; inf while the operator holds it open."""
        if self.forced == "open":
            return inf
        breaker = self._breakers.of(model)
        return 0.0 if breaker is None else breaker.retry_in(now)

    def permit(self, model: str | None, now: float) -> Permit | None:
        """Leave for one attempt; None in the usual state, where none is needed."""
        return self._breakers.permit(model, now) if self._breakers else None

    def report(self, now: float) -> Report:
        """For the operator's eyes."""
        return Report(
            state=self._name(now),
            probes=self.probes,
            paused_for=max(0.0, self.paused_until - now) if self.paused else 0.0,
            ejected_for=max(0.0, self.ejected_until - now) if self.ejected else 0.0,
            warmth=self._share.warmth,
            drained=self.drained,
            forced=self.forced,
            breakers=self._breakers.states(now),
        )

    # -- how it learns

    def learn(
        self, outcome: Outcome, now: float, model: str | None, permit: Permit | None, retry_after: float | None,
        excused: bool,
    ) -> None:  # fmt: skip
        """One attempt has ended."""
        if self.retired:
            return
        label, state = outcome.label, self._state
        if outcome.word in _FAILED and not excused:
            self._tell("failed", label)
        if excused or outcome.word == "client_gone":
            self._tell_breaker(model, permit, None, now, label)
        elif outcome.word == "ok":
            self._well(model, permit, now)
        elif outcome.status in (429, 503):
            self._saturated(label, retry_after, now)
            # It is no failure while the breaker is closed, and no success of a probe.
            breaker = self._breakers.of(model)
            probing = breaker is not None and breaker.state(now) == "half_open"
            self._tell_breaker(model, permit, probing or label in state.breaker_when or None, now, label)
        else:
            if label in state.ejection_when and self.record is not None:
                self._judge(self.record.failed(now), now)
            self._tell_breaker(model, permit, label in state.breaker_when or None, now, label)
        self._settle(now)

    def heard(self, verdict: Verdict, now: float) -> None:
        """What the probes say."""
        was, self.probes = self.probes, verdict.state
        if verdict.state == "up":
            self._suspect_until = -inf
        if verdict.readmit:
            self.readmit(now, verdict.reason or "probes")
            self._breakers.half_open(now)
            self._announce(now, "probes")
        if verdict.state == "down" and was != "down":
            self._tell("down", verdict.reason)
            self._state.changed()
        elif verdict.state == "suspect" and was not in ("suspect", "down"):
            self._tell("suspect", verdict.reason)
        elif was == "down" and verdict.state != "down":
            self._returned(now, verdict.reason or "probes")
        self._settle(now)

    def follow(self, spec: PoolSpec, now: float) -> None:
        """A new table: the pool's settings and the operator's word."""
        self._renew(spec)
        drained, forced = self._spec.name in spec.drained, spec.forced.get(self._spec.name)
        resumed, self.drained = self.drained and not drained, drained
        if forced != self.forced:
            self._force(forced, now)
        if resumed:
            self._returned(now, "resumed")
        self._settle(now)

    def retire(self) -> None:
        """It left the table: it learns nothing more, and nobody is told of it."""
        self.retired = True
        self._share.warmth, self._share.usual = 1.0, True

    def readmit(self, now: float, why: str) -> None:
        """End an ejection early."""
        if self.ejected and self.record is not None:
            self.record.readmit(now)
            self._return(now, why)

    def refresh(self, now: float) -> float:
        """Let expire whose time is over; when to look again, inf for never."""
        if self.ejected and now >= self.ejected_until:
            self._return(now, "served")
        if self.paused and now >= self.paused_until:
            self.paused = False
            self._state.changed()
        self._announce(now, "its time is over")
        self._warm(now)
        self._show(now)
        return self._due(now)

    # -- the steps

    def _well(self, model: str | None, permit: Permit | None, now: float) -> None:
        if self.record is not None:
            self.record.succeeded(now)
        if self._pause is not None:
            self._pause.succeeded()
            if not self.paused:
                self._pause = None
        if self._breakers:
            self._tell_breaker(model, permit, False, now, "ok")
            self._breakers.forget()
            if not self._breakers:
                self._state.changed()

    def _saturated(self, label: str, retry_after: float | None, now: float) -> None:
        if self._pause is None:
            self._pause = Pause()
        seconds = self._pause.saturated(retry_after, now)
        if not self.paused:
            self.paused = True
            self._state.changed()
            self._tell("paused", label, seconds=seconds, told=str(self._pause.told).lower())
        record = self.record
        if record is None:
            return
        if label in self._state.ejection_when:
            self._judge(record.failed(now), now)
        elif label == "429":
            self._judge(record.failed(now, consecutive=False), now)
        elif retry_after is None:
            self._judge(record.saturated(now), now)

    def _judge(self, reason: Reason | None, now: float) -> None:
        """There may be a reason to eject it; the pool must be able to bear it."""
        if reason is None or self.ejected or self.record is None:
            return
        figures = {"failures": reason.failures, "requests": reason.requests, "window": reason.window}
        if self._state.may_eject():
            seconds = self.record.eject(now)
            self.ejected = True
            self.meter.ejected(reason.kind)
            self._state.changed()
            self._tell("ejected", reason.kind, **figures, seconds=seconds)
            return
        if now >= self._suspect_until:
            self._tell("suspect", reason.kind, **figures)
        settings = self._state.spec.ejection
        self._suspect_until = now + (settings.for_ if settings is not None else 0.0)

    def _tell_breaker(
        self, model: str | None, permit: Permit | None, failed: bool | None, now: float, label: str
    ) -> None:
        settings, breaker = self._state.spec.breaker, self._breakers.of(model)
        if breaker is None:
            if not failed or settings is None or self.forced is not None:
                return
            breaker = self._breakers.make(model, settings)
            self._state.changed()
        last = bool(failed) and self._state.last_closed(self, model, now)
        if breaker.settle(permit, failed, now, last_closed=last) is not None:
            self._announce(now, label)

    def _announce(self, now: float, why: str) -> None:
        """Tell of every step of a breaker since the last time."""
        if not self._breakers:
            return
        for model, state, seconds in self._breakers.steps(now):
            figures: dict[str, float | int | str] = {"model": model} if model else {}
            if state == "open":
                self._tell("breaker_open", why, **figures, seconds=seconds)
            elif state == "half_open":
                self._tell("breaker_half_open", why, **figures)
            else:
                self._tell("breaker_closed", why, **figures)
                self._begin_slowly(now)
            self._state.changed()

    def _force(self, forced: Forced | None, now: float) -> None:
        """The operator holds its breakers in one state, or lets them go by the outcomes again, from closed."""
        before, self.forced = self.forced, forced
        self._breakers.clear()
        self._state.changed()
        why = "auto" if forced is None else "forced"
        if forced == "open":
            self._tell("breaker_open", why)
        elif forced == "closed" or before == "open":
            self._tell("breaker_closed", why)
        if before == "open":
            self._begin_slowly(now)

    def _renew(self, spec: PoolSpec) -> None:
        """The pool's settings of ejection: what was counted by others begins anew, an ejection goes on."""
        settings, before = spec.ejection, self.record
        if settings is None:
            self.record, self.ejected = None, False
        elif before is None or settings != self._settings:
            self.record = FailureRecord(settings)
            if before is not None:
                self.record.ejected_until = before.ejected_until
        self._settings = settings
        if spec.breaker is None and self.forced is None:
            self._breakers.clear()

    def _return(self, now: float, why: str) -> None:
        self.ejected = False
        self._returned(now, why)

    def _returned(self, now: float, why: str) -> None:
        """It is back; unless something else keeps it out."""
        self._begin_slowly(now)
        self._state.changed()
        self._tell("returned", why)

    def _begin_slowly(self, now: float) -> None:
        if self._state.spec.slow_start is not None:
            self._returned_at = now
            self._warm(now)

    def _warm(self, now: float) -> None:
        length = self._state.spec.slow_start
        if self._returned_at is None:
            return
        warmth = 1.0 if length is None else factor(now - self._returned_at, length)
        if warmth == 1.0:
            self._returned_at = None
        share = self._share
        share.warmth, share.weight, share.usual = warmth, self._spec.weight * warmth, warmth == 1.0

    # -- after each

    def _settle(self, now: float) -> None:
        """Whatever it was: be ready for the next success, and for what expires by itself."""
        self.troubled = self._pause is not None or bool(self._breakers)
        self._show(now)
        moment = self._due(now)
        if moment < inf:
            self._state.expect(self, moment)

    def _due(self, now: float) -> float:
        moment = self._breakers.due(now) if self._breakers else inf
        if self.ejected:
            moment = min(moment, self.ejected_until)
        if self.paused:
            moment = min(moment, self.paused_until)
        if now < self._suspect_until:
            moment = min(moment, self._suspect_until)
        if self._returned_at is not None:
            moment = min(moment, now + min(STEP, (self._state.spec.slow_start or STEP) / 20))
        return moment

    def _name(self, now: float) -> Shown:
        if self.drained:
            return "draining"
        if self.down:
            return "down"
        if self.ejected:
            return "ejected"
        if self.paused:
            return "paused"
        if self.probes == "suspect" or now < self._suspect_until or self._worst(now) != "closed":
            return "suspect"
        return "up" if self.probes == "up" else "unknown"

    def _worst(self, now: float) -> State:
        if self.forced is not None:
            return self.forced
        return self._breakers.worst(now) if self._breakers else "closed"

    def _show(self, now: float) -> None:
        name, breaker = self._name(now), self._worst(now)
        if name != self._shown:
            self._shown = name
            self.meter.state(name)
        if breaker != self._shown_breaker:
            self._shown_breaker = breaker
            self.meter.breaker(breaker)

    def _tell(self, kind: Kind, reason: str, **figures: float | int | str) -> None:
        self._state.tell(self._spec.name, kind, reason, figures)


__all__ = ["EndpointMeter", "Figures", "Report", "Share", "Standing"]
