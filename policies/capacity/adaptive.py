"""Adaptive concurrency limit of a pool (policy key `max_in_flight: auto`).

Additive increase, multiplicative decrease (Chiu and Jain, 1989), begun with a slow start (Jacobson, 1988). What tells
of too many is the time to the first content, in rounds of as many answers as are let in at a time: an engine that has
to queue makes its streams begin late, long before anything fails. 429 and 503 tell it too. A round that did not use its
slots teaches nothing about more of them. The engine's own queue depth would tell it sooner; it is not read yet
(`scrape`).
"""

from typing import Final, Literal

FIRST: Final = 8
"""Initial limit: below the capacity of an engine, or the first round would not show the best time."""
MOST: Final = 4096
TOLERANCE: Final = 2.0
"""Largest accepted ratio of the time to first content to the best one."""
LESS: Final = 0.8
# What was the best is forgotten so slowly: prompts and models change.
_DRIFT: Final = 1.01
_FEWEST: Final = 10

Kind = Literal["stream", "plain"]


class _MeasuringRound:
    """Answers of one kind since the last look. A plain answer is whole at its first content, so it has its own best."""

    __slots__ = ("best", "count", "total")

    def __init__(self) -> None:
        self.best: float | None = None
        self.count = 0
        self.total = 0.0

    def slow(self) -> bool:
        """Return whether the round that ends here was slow, and begin the next one."""
        mean = self.total / self.count
        self.count, self.total = 0, 0.0
        best = self.best = mean if self.best is None else min(mean, self.best * _DRIFT)
        return mean > TOLERANCE * best


class AdaptiveLimit:
    """One pool's bound. `limit` is how many may be under way now, at least 1."""

    __slots__ = ("_rounds", "_settling", "_starting", "_used", "limit")

    def __init__(self, limit: int = FIRST) -> None:
        self.limit = limit
        self._rounds: dict[Kind, _MeasuringRound] = {"stream": _MeasuringRound(), "plain": _MeasuringRound()}
        self._starting = True
        self._used = 0
        self._settling = 0

    def answered(self, kind: Kind, seconds: float, taken: int) -> None:
        """An answer whose first content took so many seconds from its dispatch on, while so many were under way."""
        if self._settling > 0:
            # It began before the last decrease.
            self._settling -= 1
            return
        self._used = max(self._used, taken)
        this = self._rounds[kind]
        this.count += 1
        this.total += seconds
        if this.count < max(_FEWEST, self.limit):
            return
        if this.slow():
            self._decrease(taken)
        elif self._used >= self.limit:
            self.limit = min(MOST, self.limit + (max(1, self.limit // 2) if self._starting else 1))
        self._used = 0

    def saturated(self, taken: int) -> None:
        """The engine said that it has too many: a 429 or a 503."""
        if self._settling > 0:
            self._settling -= 1
            return
        self._decrease(taken)

    def _decrease(self, taken: int) -> None:
        self._starting = False
        self.limit = max(1, int(self.limit * LESS))
        self._settling = taken
        self._used = 0
        for one in self._rounds.values():
            one.count, one.total = 0, 0.0
