"""Interfaces of the meters of pools, endpoints and stores; `gateway.observe.member_metrics` implements them."""

from collections.abc import Callable
from typing import Protocol


class Gauge(Protocol):
    """A number that a metric shows."""

    value: float


class PoolMeter(Protocol):
    """Meter of one pool."""

    @property
    def panics(self) -> Gauge: ...


class EndpointMeter(Protocol):
    """Meter of one endpoint."""

    @property
    def in_flight(self) -> Gauge: ...
    @property
    def unframed(self) -> Gauge:
        """Answers whose end was the connection's."""

    @property
    def broken(self) -> Gauge:
        """Answers that broke off after their first byte had gone to the client."""

    def attempt(self, outcome: str) -> None: ...
    def state(self, name: str) -> None: ...
    def breaker(self, state: str) -> None: ...
    def ejected(self, reason: str) -> None: ...


class StoreMeter(Protocol):
    """Meter of the store of limits."""

    @property
    def store_seconds(self) -> Callable[[float], None]:
        """Told how long each call took."""

    def store_error(self, kind: str) -> None: ...
    def limit_mode(self, state: str) -> None:
        """By whom limits are decided now: store, local, open, closed."""
