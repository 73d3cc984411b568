"""Each endpoint in turn, whatever its weight."""

from __future__ import annotations

import random
from collections.abc import Sequence

from policies.balancing.candidate import C

# How many endpoints that are no candidates any more are remembered, as a multiple of those that are.
_REMEMBERED = 4


class RoundRobin:
    """The candidate whose last turn is longest ago; those that never had one come first, in random order.

    A counter over a list would skip and repeat whenever the list changes, which it does for every retry. Remembering
    turns is fair whoever comes and goes: who returns after a pause gets one turn at once and no more. Who starts slowly
    takes its turn with the chance of its warmth, and else lets it pass. 0.7 us for 2 candidates, 25 us for 256.
    """

    __slots__ = ("_last", "_random", "_turn")

    def __init__(self, rng: random.Random) -> None:
        self._random = rng.random
        self._turn = 0
        self._last: dict[object, float] = {}

    def choose(self, candidates: Sequence[C]) -> C:
        last = self._last
        if len(candidates) == 1 and candidates[0] in last:
            # Its turn is counted all the same, for when there are others again.
            self._turn += 1
            last[candidates[0]] = self._turn
            return candidates[0]
        chosen, oldest = candidates[0], float("inf")
        cold = False
        for candidate in candidates:
            turn = last.get(candidate)
            if turn is None:
                # Its place among the newcomers, before all who had a turn.
                turn = last[candidate] = -1 - self._random()
            if turn < oldest:
                chosen, oldest = candidate, turn
            if candidate.warmth < 1.0:
                cold = True
        if cold:
            chosen = self._warm(candidates, chosen)
        self._turn += 1
        last[chosen] = self._turn
        if len(last) > _REMEMBERED * max(len(candidates), 64):
            self._last = {candidate: last[candidate] for candidate in candidates}
        return chosen

    def _warm(self, candidates: Sequence[C], first: C) -> C:
        """Who takes the turn: the first of those whose turn it is that is warm enough; if none is, who was first."""
        last = self._last
        for candidate in sorted(candidates, key=last.__getitem__):
            if candidate.warmth == 1.0 or self._random() < candidate.warmth:
                return candidate
            self._turn += 1
            last[candidate] = self._turn
        return first
