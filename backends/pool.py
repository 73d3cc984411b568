"""A pool of the data plane: the endpoints that may be tried now, and the strategy that chooses among them."""

from collections.abc import Sequence
from typing import Protocol

from backends.endpoint import Endpoint
from backends.table import PoolSpec


class Strategy(Protocol):
    """How a pool chooses among candidates; whether they are available was settled before."""

    def choose(self, candidates: Sequence[Endpoint]) -> Endpoint: ...


class Pool:
    """One pool of one table."""

    __slots__ = ("candidates", "engine", "name", "strategy")

    def __init__(self, spec: PoolSpec, candidates: tuple[Endpoint, ...], strategy: Strategy) -> None:
        self.name = spec.name
        self.engine = spec.engine
        self.candidates = candidates
        self.strategy = strategy

    def choose(self) -> Endpoint | None:
        """The endpoint for the next attempt, or None while there is no candidate."""
        if not self.candidates:
            return None
        return self.strategy.choose(self.candidates)
