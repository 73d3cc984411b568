"""Pace of a queue, in seconds of one monotonic clock: times for which slots are held, and turns of a priority."""

from __future__ import annotations

from collections import deque
from typing import Final

# Turns over which a pace is measured.
_MOMENTS: Final = 33
# How much of the mean a new value is.
_NEWS: Final = 1 / 16


class SlotTimes:
    """For how long slots are held: mean and mean deviation, as TCP reckons its round trips (Jacobson 1988).

    mean: None while nobody can say
    """

    __slots__ = ("_deviation", "mean")

    def __init__(self) -> None:
        self.mean: float | None = None
        self._deviation = 0.0

    def learn(self, seconds: float) -> None:
        """One was held for so long."""
        if self.mean is None:
            self.mean, self._deviation = seconds, seconds / 2
            return
        error = seconds - self.mean
        self.mean += error * _NEWS
        self._deviation += (abs(error) - self._deviation) * _NEWS

    @property
    def least(self) -> float:
        """Return the time that nearly every request needs; 0 where the times differ much."""
        return 0.0 if self.mean is None else max(0.0, self.mean - 2 * self._deviation)


class QueuePace:
    """Pace of one priority: times at which its latest requests were admitted, or its first began to wait."""

    __slots__ = ("_moments",)

    def __init__(self, now: float) -> None:
        self._moments = deque((now,), maxlen=_MOMENTS)

    def moved(self, now: float) -> None:
        """One of them goes on."""
        self._moments.append(now)

    def wait(self, ahead: int, now: float) -> float:
        """Return the expected wait of a request with `ahead` requests before it."""
        moments = self._moments
        since = now - moments[-1]
        if len(moments) == 1:
            return since
        gap = (moments[-1] - moments[0]) / (len(moments) - 1)
        return ahead * gap + max(gap, since)
