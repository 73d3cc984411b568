"""What a strategy sees of an endpoint, and what a pool sees of a strategy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar


class Candidate(Protocol):
    """An endpoint that may be tried now. Two candidates are the same when they are one object."""

    @property
    def in_flight(self) -> int:
        """Attempts that were dispatched there and have not ended."""

    @property
    def weight(self) -> float:
        """Its share beside the others', over 0; while it starts slowly, as much of it as it gets."""

    @property
    def warmth(self) -> float:
        """The part of its share that it gets: 1, or less while it starts slowly, but over 0."""

    @property
    def failing(self) -> bool:
        """Whether it has failed just now: that it has few in flight is no merit then."""

    @property
    def usual(self) -> bool:
        """Whether it is warm and not failing, so that there is nothing to be careful about."""


C = TypeVar("C", bound=Candidate)


class BalancingStrategy(Protocol):
    """Chooses one of at least one candidate; no availability, no waiting, no error."""

    def choose(self, candidates: Sequence[C]) -> C: ...
