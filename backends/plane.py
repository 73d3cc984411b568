"""The narrow interface between the control side and the data plane: finished tables in, events out.

The data plane reads one immutable `View` made from a `Table`. Installing a new table builds a whole new view and
swaps one reference; endpoints that
stayed the same keep their connections and counts, those that are gone are closed once their last exchange has ended.
"""

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from backends.connections import ConnectionPool, read_buffer
from backends.endpoint import Endpoint, EndpointMeter
from backends.pool import Pool, Strategy
from backends.table import EndpointSpec, Table
from backends.tls import TlsSettings
from backends.upstream import Origin
from backends.wheel import TimerWheel
from policies.balancing import strategy
from policies.identity import Authenticator
from policies.routing import Routes


@dataclass(frozen=True, slots=True)
class EndpointFailed:
    """An event of the data plane: an attempt found nobody there."""

    pool: str
    endpoint: str
    reason: str


class Meters(Protocol):
    """Where the data plane counts."""

    def endpoint(self, pool: str, endpoint: str) -> EndpointMeter: ...


@dataclass(frozen=True, slots=True)
class View:
    """A table made live. An exchange takes it once, at its beginning, and uses no other."""

    table: Table
    pools: Mapping[str, Pool]
    routes: Routes
    authenticator: Authenticator


class DataPlane:
    """Connections, endpoints and their counts. `install` is its only way in, `emit` its only way out."""

    def __init__(
        self, *, loop: asyncio.AbstractEventLoop, wheel: TimerWheel, meters: Meters, rng: random.Random,
        now: Callable[[], float], emit: Callable[[EndpointFailed], None],
    ) -> None:  # fmt: skip
        """`now` is wall time in seconds since the epoch, for credentials that expire."""
        self._loop = loop
        self._wheel = wheel
        self._meters = meters
        self._rng = rng
        self._now = now
        self._buffer = read_buffer()
        self._endpoints: dict[EndpointSpec, Endpoint] = {}
        self._retired: list[Endpoint] = []
        self._strategies: dict[tuple[str, str], Strategy] = {}
        self.emit = emit
        self.view: View | None = None

    @property
    def in_flight(self) -> int:
        """Attempts under way, on every endpoint there is or was."""
        return sum(endpoint.in_flight for endpoint in self._all())

    @property
    def active_connections(self) -> int:
        """Upstream connections in use."""
        return sum(endpoint.active for endpoint in self._all())

    @property
    def idle_connections(self) -> int:
        """Upstream connections kept open for the next request."""
        return sum(endpoint.idle for endpoint in self._all())

    @property
    def retired(self) -> tuple[tuple[str, str], ...]:
        """(pool, endpoint) of those that left the table while an exchange still used them, as of the last install."""
        return tuple((endpoint.spec.pool, endpoint.name) for endpoint in self._retired)

    def install(self, table: Table) -> None:
        """Make a table the one in force. Everything is built first; the swap is one assignment."""
        endpoints = {spec: self._endpoint(spec) for pool in table.pools.values() for spec in pool.endpoints}
        pools = {}
        strategies = {}
        for spec in table.pools.values():
            key = (spec.name, spec.balance)
            strategies[key] = self._strategies.get(key) or strategy(spec.balance, self._rng)
            pools[spec.name] = Pool(spec, tuple(endpoints[one] for one in spec.endpoints), strategies[key])
        authenticator = Authenticator(table.keys, table.anonymous, self._now)
        view = View(table, pools, Routes(table.routes), authenticator)
        gone = [endpoint for spec, endpoint in self._endpoints.items() if spec not in endpoints]
        self.view, self._endpoints, self._strategies = view, endpoints, strategies
        self._retired = [endpoint for endpoint in [*self._retired, *gone] if endpoint.in_flight or endpoint.active]
        for endpoint in gone:
            endpoint.close()

    def busy(self, name: str) -> bool:
        """Whether an attempt is under way on the endpoint of this name, also on one that left the table."""
        return any(endpoint.in_flight for endpoint in self._all() if endpoint.name == name)

    def close(self) -> None:
        """Close every connection that no exchange uses."""
        for endpoint in self._all():
            endpoint.close()

    def _all(self) -> list[Endpoint]:
        return [*self._endpoints.values(), *self._retired]

    def _endpoint(self, spec: EndpointSpec) -> Endpoint:
        found = self._endpoints.get(spec)
        if found is not None:
            return found
        tls = TlsSettings(ca=spec.ca, server_name=spec.server_name) if spec.tls else None
        origin = Origin(spec.host, spec.port, tls)
        try:
            connections = ConnectionPool(origin, keep_alive=spec.keep_alive, wheel=self._wheel, buffer=self._buffer)
        except OSError as error:
            reason = f"endpoint {spec.name}: tls.ca {spec.ca} can't be loaded: {error.strerror or error}"
            raise OSError(error.errno, reason) from error
        return Endpoint(spec, connections, self._meters.endpoint(spec.pool, spec.name))
