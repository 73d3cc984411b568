"""Ejection: an endpoint that fails more than the others is left out for a while, and longer every time (DESIGN rule
7; policy key `ejection`).

Values in, verdict out: a `FailureRecord` says when there is a reason, `may_eject` whether the pool can bear it, and the
caller decides and calls `eject`. What is nobody's fault (a 400, a client that left) is not told to the record at all.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final, Literal

from policies.config.settings import EjectionSettings

SATURATED_IN_ROW: Final = 5
"""Number of 503 without Retry-After in a row that is a reason for ejection (DESIGN rule 7)."""

_BUCKETS: Final = 10


@dataclass(frozen=True, slots=True)
class EjectionReason:
    """Reason for an ejection, with the figures for the log.

    failures: in a row, or in the window where kind is `error_rate`
    requests: of the window, those failures among them
    window: its length in seconds
    """

    kind: Literal["consecutive", "error_rate", "saturated"]
    failures: int
    requests: int
    window: float


def may_eject(settings: EjectionSettings, members: int, ejected_now: int) -> bool:
    """Return whether a pool of `members` may eject one more than `ejected_now`: at most `max_ejected` of it, rounded
    down, and never its last one."""
    # 0.29 x 100 is 28.999999999999996 in floating point.
    most = int(settings.max_ejected * members + 1e-9)
    return ejected_now < min(most, members - 1)


class FailureRecord:
    """Recent outcomes of one endpoint. Every `now` is in seconds of one monotonic clock.

    The window has a granularity of a tenth: it looks back between 0.9 and 1 `window`. In it the share of failures is
    looked at twice: of all requests, and of the last `min_requests`. An endpoint that was well for 30 s and then fails
    every second request would else have half a minute's good answers to its credit.
    While the endpoint is ejected, failures are not counted: they are of attempts that began before, or of a pool that
    has no other endpoint, and the ejection was reported once.
    """

    __slots__ = (
        "_ends",
        "_failures",
        "_forgiven_at",
        "_in_row",
        "_length",
        "_old",
        "_old_failures",
        "_old_requests",
        "_recent",
        "_recent_mask",
        "_requests",
        "_saturated",
        "_settings",
        "_tick",
        "_width",
        "ejected_until",
    )

    def __init__(self, settings: EjectionSettings) -> None:
        self._settings: Final = settings
        self._width: Final = settings.window / _BUCKETS
        self.ejected_until = 0.0
        """End of the last ejection, regular or early."""
        self._length = 0.0
        self._forgiven_at = 0.0
        self._in_row = 0
        self._saturated = 0
        # The bucket that is being filled, and the others of the window, oldest first: (tick, requests, failures).
        self._tick = 0
        self._ends = 0.0
        self._requests = 0
        self._failures = 0
        self._old: deque[tuple[int, int, int]] = deque()
        self._old_requests = 0
        self._old_failures = 0
        # A bit for each of the last `min_requests`, the last one lowest; set where it failed.
        self._recent = 0
        self._recent_mask: Final = (1 << settings.min_requests) - 1

    def succeeded(self, now: float) -> None:
        """An attempt got its whole answer."""
        if now >= self._ends:
            self._turn(now)
        self._requests += 1
        self._in_row = self._saturated = 0
        if self._recent:
            self._recent = self._recent << 1 & self._recent_mask

    def failed(self, now: float, *, consecutive: bool = True) -> EjectionReason | None:
        """An attempt failed; a reason to eject, if there is one now.

        `consecutive` False: it counts in the error rate and neither makes a row longer nor ends it (429).
        """
        self._saturated = 0
        if now < self.ejected_until:
            return None
        self._count(now)
        if consecutive:
            self._in_row += 1
            if self._in_row >= self._settings.consecutive:
                return self._reason("consecutive", self._in_row)
        return self._rate()

    def saturated(self, now: float) -> EjectionReason | None:
        """A 503 without Retry-After: it counts in the error rate, and in a row of its own."""
        if now < self.ejected_until:
            return None
        self._count(now)
        self._saturated += 1
        if self._saturated >= SATURATED_IN_ROW:
            return self._reason("saturated", self._saturated)
        return self._rate()

    def eject(self, now: float) -> float:
        """Leave it out from now on; for how many seconds.

        Twice as long as the last time, up to `max_for`; `for` again once it was in for as long as it was out.
        """
        settings = self._settings
        if now >= self._forgiven_at:
            self._length = 0.0
        self._length = min(2 * self._length or settings.for_, settings.max_for)
        self.ejected_until = now + self._length
        self._forgiven_at = self.ejected_until + self._length
        self._forget()
        return self._length

    def readmit(self, now: float) -> None:
        """End an ejection early; how long the next one takes is decided as if it had been served."""
        if now < self.ejected_until:
            self.ejected_until = now
            self._forgiven_at = now + self._length

    def _count(self, now: float) -> None:
        if now >= self._ends:
            self._turn(now)
        self._requests += 1
        self._failures += 1
        self._recent = (self._recent << 1 & self._recent_mask) | 1

    def _rate(self) -> EjectionReason | None:
        least, rate = self._settings.min_requests, self._settings.error_rate
        failures = self._old_failures + self._failures
        requests = self._old_requests + self._requests
        if requests < least:
            return None
        if failures >= rate * requests:
            return self._reason("error_rate", failures)
        recent = self._recent.bit_count()
        return EjectionReason("error_rate", recent, least, self._settings.window) if recent >= rate * least else None

    def _reason(self, kind: Literal["consecutive", "error_rate", "saturated"], failures: int) -> EjectionReason:
        return EjectionReason(kind, failures, self._old_requests + self._requests, self._settings.window)

    def _turn(self, now: float) -> None:
        """Begin a bucket, and drop those that have left the window."""
        if self._requests:
            self._old.append((self._tick, self._requests, self._failures))
            self._old_requests += self._requests
            self._old_failures += self._failures
            self._requests = self._failures = 0
        self._tick = tick = int(now / self._width)
        self._ends = (tick + 1) * self._width
        while self._old and self._old[0][0] <= tick - _BUCKETS:
            _, requests, failures = self._old.popleft()
            self._old_requests -= requests
            self._old_failures -= failures

    def _forget(self) -> None:
        """Forget the outcomes before an ejection: they carry no information about the time after it."""
        self._in_row = self._saturated = 0
        self._ends = 0.0
        self._requests = self._failures = self._recent = 0
        self._old.clear()
        self._old_requests = self._old_failures = 0
