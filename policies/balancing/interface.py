"""Interfaces of balancing: the candidates and the request as a strategy sees them, and the strategy itself."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import ClassVar, Protocol, TypeVar


class Candidate(Protocol):
    """An endpoint that may get an attempt now. Two candidates are the same if they are one object."""

    @property
    def in_flight(self) -> int:
        """Number of attempts that were dispatched to the endpoint and have not ended."""

    @property
    def weight(self) -> float:
        """Share relative to the other candidates, over 0; reduced during slow start."""

    @property
    def warmth(self) -> float:
        """Fraction of the full share that the endpoint gets: 1, or less during slow start, but over 0."""

    @property
    def failing(self) -> bool:
        """True if the latest attempts failed: a low number in flight is no sign of spare capacity then."""

    @property
    def usual(self) -> bool:
        """True if the endpoint is warm and not failing, so that no special case applies."""


class RequestPrincipal(Protocol):
    """The principal of a request (`policies.identity.principal.Principal`), as a strategy sees it."""

    @property
    def key(self) -> str: ...
    @property
    def tenant(self) -> str: ...
    @property
    def user(self) -> str | None: ...


class RequestView(Protocol):
    """Read-only view of the request for which an endpoint is chosen.

    The gateway's own object of the request (`gateway.exchange.Exchange`) is passed as it is. A view costs nothing to
    build, and a strategy that reads nothing of the request pays nothing. A strategy that needs a further fact adds a
    property here; the exchange must then have an attribute of this name.
    """

    @property
    def model(self) -> str | None:
        """Name of the model; None on a path without one."""

    @property
    def principal(self) -> RequestPrincipal | None:
        """Principal of the request: key, tenant and user; None before authentication."""

    @property
    def fields(self) -> Mapping[bytes, bytes]:
        """Header values by name in lower case, for example the session id in `x-session-id`."""

    @property
    def body(self) -> bytes:
        """Body as the endpoint receives it."""


C = TypeVar("C", bound=Candidate)


class Promise(enum.Enum):
    """Property that a strategy promises. `tests/contracts/test_strategies.py` has the checks of each."""

    EVEN_SHARES = "candidates of equal weight, load and health get equal shares over time"
    RANDOM_FIRST_CHOICE = "new instances, as in processes that start together, spread their first choice at random"
    LEAST_LOADED_FIRST = "the candidate with the fewest attempts in flight for its weight is chosen"
    WEIGHTED_SHARES = "attempts that do not end are distributed in proportion to the weights"
    TURNS = "every candidate is chosen once before any candidate is chosen twice"
    SLOW_START = "the share of a candidate grows with its warmth, and is over 0"
    FAILING_GETS_NO_MORE = "a candidate that fails fast gets no more than an equal share"


class BalancingStrategy(Protocol):
    """Strategy that chooses one of at least one candidate; availability and waiting are the pool's."""

    promises: ClassVar[frozenset[Promise]]

    def choose(self, candidates: Sequence[C], request: RequestView) -> C: ...
