"""Retry budget of a pool (policy key `retry.budget`, `retry.floor`), which keeps an outage from being
multiplied.

Retries of the last 10 s <= floor + budget x requests of the last 10 s, per pool and process. Ten seconds are remembered
as 80 slots of an eighth of a second, so nothing is stored per request. A slot that is only partly of the last 10 s
counts for retries and not for requests: the rule is never broken, and at an even pace a fortieth of the budget is lost
at most.
"""

from math import floor, inf

from policies.config.settings.routes import RetrySettings

# An eighth is exact in binary: no moment falls into the slot beside its own.
_PER_SECOND = 8
_SLOTS = 10 * _PER_SECOND
_ROUNDING = 1e-9
"""0.29 x 100 is a little under 29 in floats, and it is 29 retries."""


class RetryBudget:
    """One pool's count of requests and retries in this process; it outlives the tables. Routes may share it and differ
    in their settings."""

    __slots__ = ("_ends", "_requests", "_requests_before", "_retries", "_retries_before", "_slot")

    def __init__(self) -> None:
        self._requests = 0
        self._retries = 0
        # What had been counted when each slot began: the slots of the last 10 s, the one that is partly older, and now.
        self._requests_before = [0] * (_SLOTS + 1)
        self._retries_before = [0] * (_SLOTS + 1)
        self._slot: int | None = None
        self._ends = -inf

    def request(self, now: float) -> None:
        """One request, however many attempts it takes. The hot path: 0.1 us.

        now: monotonic seconds, the clock of `take`
        """
        if now >= self._ends:
            self._turn(now)
        self._requests += 1

    @property
    def requests(self) -> int:
        """All requests so far."""
        return self._requests

    def recent(self, now: float) -> int:
        """Requests of the last 10 s, the oldest slot left out where it is only partly of them."""
        if now >= self._ends:
            self._turn(now)
        assert self._slot is not None
        return self._requests - self._requests_before[(self._slot + 2) % (_SLOTS + 1)]

    def take(self, now: float, settings: RetrySettings) -> bool:
        """Count one retry, and True, if the rule allows it; else False, and nothing is counted.

        now: monotonic seconds, the clock of `request`
        settings: of the request's route; `budget` and `floor` are read
        """
        requests = self.recent(now)
        assert self._slot is not None
        retries = self._retries - self._retries_before[(self._slot + 1) % (_SLOTS + 1)]
        if retries + 1 > settings.floor + settings.budget * requests + _ROUNDING:
            return False
        self._retries += 1
        return True

    def _turn(self, now: float) -> None:
        """Begin the slot of `now`, and those that nobody counted in since the last one."""
        slot = floor(now * _PER_SECOND)
        last = slot - 1 if self._slot is None else self._slot
        for begun in range(max(last + 1, slot - _SLOTS), slot + 1):
            self._requests_before[begun % (_SLOTS + 1)] = self._requests
            self._retries_before[begun % (_SLOTS + 1)] = self._retries
        self._slot = slot
        self._ends = (slot + 1) / _PER_SECOND
