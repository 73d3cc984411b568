"""The breaker of one endpoint and model, and the door to pybreaker (DESIGN rule 11).

What pybreaker 1.4.1 does for us: it counts failures in a row and opens at `fail_max`, counts successes in a row while
half open and closes at `success_threshold`, goes back to open at the first failure of a half-open one, and tells its
listeners of every step. It is called once for each outcome, by `call(_well)` and `call(_broken)`, 1 to 3 us each; it is
never wrapped around an await, because its lock would be held for the length of a stream.

What it does not do, or not as we need it, and what is done here instead:

- It reads the wall clock, which jumps. Its `reset_timeout` is 31 years and it is never called while it is open; our
  clock says when it is half open.
- It lets every caller through while half open. A probe needs a lease here, at most `probes` at a time.
- It has no idea of outcomes that come late. A permit has the number of the opening or closing it was given in, and an
  outcome of an older one is dropped: a stream that began before the opening neither closes nor opens anything.
- It counts an `exclude`d exception as a success. A neutral outcome is not told to it; it only frees its lease.
- Its open time never grows. Here it doubles with every opening up to `max_open_for`; how often it opened is forgotten
  once it was closed for as long as it had last been open.

Importing it tries to import redis and tornado, for a storage and a coroutine wrapper that we do not use: with redis
that is 65 ms and 11 MB in every serving process, without 1 ms and 0.1 MB. So for that one import the two are marked as
not there, in the way that the import system has for it (None in `sys.modules`: import raises ModuleNotFoundError, which
pybreaker expects), and the marks are taken away again. What was imported before stays as it is.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Literal, NoReturn

from policies.config.settings import BreakerSettings


@contextmanager
def _hidden(*names: str) -> Iterator[None]:
    """Let `import` find none of these modules, as long as nobody has imported them before."""
    hidden = [name for name in names if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]  # what the import system documents for this
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


with _hidden("redis", "tornado"):
    import pybreaker

State = Literal["closed", "open", "half_open"]

_WORDS: Final[dict[str, State]] = {
    pybreaker.STATE_CLOSED: "closed",
    pybreaker.STATE_OPEN: "open",
    pybreaker.STATE_HALF_OPEN: "half_open",
}
_NEVER: Final = 1e9
_LAST_OPEN_FOR: Final = 1.0
"""For so many seconds a pool's last closed breaker opens at first (DESIGN rule 11)."""


@dataclass(frozen=True, slots=True, eq=False)
class BreakerPermit:
    """Leave to send one attempt.

    breaker: which gave it; it may have been forgotten since, and another made in its place
    stamp: the number of the opening or closing in which it was given
    lease: whether it is that of a half-open probe
    """

    breaker: CircuitBreaker
    stamp: int
    lease: bool


class CircuitBreaker:
    """Circuit breaker of one endpoint for one model. Every `now` is in seconds of one monotonic clock.

    An attempt takes a `permit` when it begins and passes it to `record_outcome` once, however it ends. An attempt that
    began before this breaker was made has no permit, or one of a breaker that was forgotten since: it counts until this
    breaker has opened.

    A lease is held until the outcome of its attempt is recorded, which may be at the first content of a long answer:
    the end of such an answer is not counted again.
    """

    def __init__(self, settings: BreakerSettings) -> None:
        self._settings: Final = settings
        self._watch: Final = _StateListener()
        self._machine: Final = pybreaker.CircuitBreaker(
            fail_max=settings.failures,
            reset_timeout=_NEVER,
            success_threshold=settings.probes,
            listeners=[self._watch],
            throw_new_error_on_trip=False,
        )
        self._leases: set[BreakerPermit] = set()
        self._pass = BreakerPermit(self, 0, lease=False)
        self._until = 0.0
        self._length = 0.0
        """Seconds of the last opening that is not forgiven; 0 when there is none."""
        self._forgiven_at = 0.0

    def state(self, now: float) -> State:
        """Return the state; an opening that is over becomes half open here."""
        if self._watch.state == "open" and now >= self._until:
            self._half_open()
        return self._watch.state

    def available(self, now: float) -> bool:
        """Return whether `permit` would grant a permit."""
        state = self.state(now)
        return state == "closed" or (state == "half_open" and len(self._leases) < self._settings.probes)

    def permit(self, now: float) -> BreakerPermit | None:
        """Leave for one attempt, or None: it is open, or half open with all its probes under way."""
        if not self.available(now):
            return None
        stamp = self._watch.stamp
        if self._watch.state == "closed":
            if self._pass.stamp != stamp:
                self._pass = BreakerPermit(self, stamp, lease=False)
            return self._pass
        permit = BreakerPermit(self, stamp, lease=True)
        self._leases.add(permit)
        return permit

    def record_outcome(
        self, permit: BreakerPermit | None, failed: bool | None, now: float, *, last_closed: bool = False
    ) -> State | None:
        """Tell how an attempt ended; the new state if that changed it, else None.

        failed: None is neutral: nobody's fault or nobody's merit, as of an attempt whose client left
        last_closed: no other breaker of the pool is closed, so that this one opens for 1 s first and for `open_for` at
        most: a whole pool that is away is asked again soon
        """
        if permit is not None and permit.lease:
            if permit not in self._leases:
                return None
            self._leases.remove(permit)
        elif (permit.stamp if permit is not None and permit.breaker is self else 0) != self._watch.stamp:
            return None
        if failed is None:
            return None
        before = self._watch.stamp
        if failed:
            self._failed()
        else:
            self._succeeded(now)
        if self._watch.stamp == before:
            return None
        self._changed(now, last_closed)
        return self._watch.state

    def retry_in(self, now: float) -> float:
        """Seconds until it lets a probe through; 0 when it is not open."""
        return self._until - now if self.state(now) == "open" else 0.0

    def half_open(self, now: float) -> None:
        """Health probes say that the endpoint is well: an open breaker asks it before its time is over."""
        if self.state(now) == "open":
            self._half_open()

    def idle(self) -> bool:
        """Return whether the breaker may be forgotten: closed, no failure, no opening to remember."""
        return self._watch.state == "closed" and self._machine.fail_counter == 0 and self._length == 0.0

    def _succeeded(self, now: float) -> None:
        if self._length and self._watch.state == "closed" and now >= self._forgiven_at:
            self._length = 0.0
        if self._watch.state == "half_open" or self._machine.fail_counter:
            self._machine.call(_well)

    def _failed(self) -> None:
        try:
            self._machine.call(_broken)
        except _RecordedFailure as error:
            # Its frames hold the exception and it holds them: a circle that only the garbage collector would break.
            error.__traceback__ = None

    def _changed(self, now: float, last_closed: bool) -> None:
        self._leases.clear()
        if self._watch.state == "closed":
            self._forgiven_at = now + self._length
            return
        self._length = self._next_length(now, last_closed)
        self._until = now + self._length

    def _next_length(self, now: float, last_closed: bool) -> float:
        length, settings = self._length, self._settings
        if length and self._forgiven_at and now >= self._forgiven_at:
            length = 0.0
        self._forgiven_at = 0.0
        if last_closed:
            return min(2 * length or _LAST_OPEN_FOR, settings.open_for, settings.max_open_for)
        longer = settings.open_for if length < settings.open_for else 2 * length
        return min(longer, settings.max_open_for)

    def _half_open(self) -> None:
        self._leases.clear()
        self._machine.half_open()


class _StateListener(pybreaker.CircuitBreakerListener):
    """Listener that keeps pybreaker's latest state and the number of its changes."""

    def __init__(self) -> None:
        self.state: State = "closed"
        self.stamp = 0

    def state_change(
        self,
        cb: pybreaker.CircuitBreaker,
        old_state: pybreaker.CircuitBreakerState | None,
        new_state: pybreaker.CircuitBreakerState,
    ) -> None:
        self.state = _WORDS[new_state.name]
        self.stamp += 1


class _RecordedFailure(Exception):
    """An attempt that failed, in the only language that pybreaker understands."""


def _well() -> None:
    pass


def _broken() -> NoReturn:
    raise _RecordedFailure
