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
        """Its share beside the others', over 0."""


C = TypeVar("C", bound=Candidate)


class Strategy(Protocol):
    """Chooses one of at least one candidate; no availability, no waiting, no error."""

    def choose(self, candidates: Sequence[C]) -> C: ...
