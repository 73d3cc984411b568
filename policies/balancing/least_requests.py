"""The endpoint with the fewest requests for its weight."""

from __future__ import annotations

import random
from collections.abc import Sequence

from policies.balancing.candidate import C


class LeastRequests:
    """Compares what each would have in flight with this request, divided by its weight; ties are broken at random.

    At random, because all processes and replicas see the same tie when they are idle, and the first in the list would
    get the first request of each of them. 0.4 us for 2 candidates, 14 us for 256.
    """

    __slots__ = ("_random",)

    def __init__(self, rng: random.Random) -> None:
        self._random = rng.random

    def choose(self, candidates: Sequence[C]) -> C:
        best = candidates[0]
        if len(candidates) == 1:
            return best
        least = (best.in_flight + 1) / best.weight
        tied: list[C] | None = None
        for candidate in candidates[1:]:
            load = (candidate.in_flight + 1) / candidate.weight
            if load < least:
                best, least, tied = candidate, load, None
            elif load == least:
                if tied is None:
                    tied = [best]
                tied.append(candidate)
        return best if tied is None else tied[int(self._random() * len(tied))]
