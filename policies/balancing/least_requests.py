"""Strategy `least_requests`: the endpoint with the fewest requests for its weight."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import ClassVar

from policies.balancing.interface import C, Promise, RequestView


class LeastRequests:
    """Strategy that compares (attempts in flight + this one) / weight; ties are broken at random.

    Ties are broken at random because all processes and replicas see the same tie when they are idle: the first endpoint
    of the list would get the first request of each of them. Cost: 0.4 us for 2 candidates, 14 us for 256.
    """

    promises: ClassVar = frozenset(
        {
            Promise.EVEN_SHARES,
            Promise.RANDOM_FIRST_CHOICE,
            Promise.LEAST_LOADED_FIRST,
            Promise.WEIGHTED_SHARES,
            Promise.SLOW_START,
            Promise.FAILING_GETS_NO_MORE,
        }
    )

    __slots__ = ("_random",)

    def __init__(self, rng: random.Random) -> None:
        self._random = rng.random

    def choose(self, candidates: Sequence[C], request: RequestView) -> C:
        best = candidates[0]
        if len(candidates) == 1:
            return best
        if not best.usual:
            return self._careful(candidates)
        least = (best.in_flight + 1) / best.weight
        tied: list[C] | None = None
        for candidate in candidates[1:]:
            if not candidate.usual:
                return self._careful(candidates)
            load = (candidate.in_flight + 1) / candidate.weight
            if load < least:
                best, least, tied = candidate, load, None
            elif load == least:
                if tied is None:
                    tied = [best]
                tied.append(candidate)
        return best if tied is None else tied[int(self._random() * len(tied))]

    def _careful(self, candidates: Sequence[C]) -> C:
        """Choose while at least one candidate is in slow start or failing.

        A cold candidate takes part with the probability of its warmth. Its attempts in flight weigh more, and the new
        request weighs less, or the candidate would get no request while the others are idle. A failing candidate has
        at least the average load of the others: it has few attempts in flight because its errors come fast, and would
        attract all of the traffic.
        """
        loads = [(candidate.in_flight + candidate.warmth) / candidate.weight for candidate in candidates]
        others = [load for candidate, load in zip(candidates, loads, strict=True) if not candidate.failing]
        average = sum(others) / len(others) if others else 0.0
        best, least = [candidates[0]], float("inf")
        for candidate, own in zip(candidates, loads, strict=True):
            load = max(own, average) if candidate.failing else own
            if candidate.warmth < 1.0 and self._random() >= candidate.warmth:
                # Still comparable, for the case that all candidates are cold.
                load += 1e9
            if load < least:
                best, least = [candidate], load
            elif load == least:
                best.append(candidate)
        return best[int(self._random() * len(best))]
