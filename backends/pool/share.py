"""Share of the traffic that an endpoint gets: all of it, except for a while after a return or a failure."""

from math import inf
from typing import Final, Protocol

from policies.resilience.slow_start import factor

STEP: Final = 0.25
"""Seconds between two updates of a growing share."""
FAILING: Final = 0.1
"""For so many seconds after a failure an endpoint gains nothing by having few requests in flight. It answers fast, and
strategies that go by load would send it more and more (fault 34). Not longer: many a 500 is the input's fault, and
one in a thousand must not take the balance away from a busy pool."""


class ShareOwner(Protocol):
    """Owner of a share: the fields that the strategies read (`policies.balancing.Candidate`)."""

    weight: float
    warmth: float
    failing: bool
    usual: bool


class TrafficShare:
    """Writes into its owner what holds at a time. Every `now` is in seconds of one monotonic clock."""

    __slots__ = ("_failing_until", "_owner", "_returned_at", "_weight")

    def __init__(self, owner: ShareOwner, weight: float) -> None:
        self._owner = owner
        self._weight = weight
        self._returned_at: float | None = None
        self._failing_until = -inf

    def begin(self, now: float, length: float | None) -> None:
        """Begin the slow start of an endpoint that is back; `length` in seconds, None for none."""
        if length is not None:
            self._returned_at = now
            self.refresh(now, length)

    def failed(self, now: float) -> None:
        """Note a failure."""
        self._failing_until = now + FAILING
        self._owner.failing, self._owner.usual = True, False

    def whole(self) -> None:
        """Give the endpoint its whole share."""
        self._returned_at, self._failing_until = None, -inf
        self._write(1.0, False)

    def refresh(self, now: float, length: float | None) -> None:
        """Write what holds now. `length` of the slow start, in seconds; None is none."""
        warmth = 1.0
        if self._returned_at is not None and length is not None:
            warmth = factor(now - self._returned_at, length)
        if warmth == 1.0:
            self._returned_at = None
        self._write(warmth, now < self._failing_until)

    def due(self, now: float, length: float | None) -> float:
        """Return the time of the next update; inf while the share is whole."""
        moment = self._failing_until if self._owner.failing else inf
        if self._returned_at is not None and length is not None:
            moment = min(moment, now + min(STEP, length / 20))
        return moment

    def _write(self, warmth: float, failing: bool) -> None:
        owner = self._owner
        owner.warmth, owner.weight, owner.failing = warmth, self._weight * warmth, failing
        owner.usual = warmth == 1.0 and not failing
