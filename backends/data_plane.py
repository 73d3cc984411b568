"""The narrow interface between the control side and the data plane: finished tables and verdicts in, events out.

The data plane reads one immutable `TableView` made from a `Table`. Installing a new table builds a whole new view
and swaps one reference; endpoints that stayed the same keep their connections, counts and standing, those that are
gone are closed once their last exchange has ended.
"""

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf
from typing import Protocol

from backends.control.events import EndpointEvent, ProbeVerdict
from backends.control.meters import EndpointMeter, PoolMeter
from backends.control.table import EndpointSpec, Table
from backends.http1.connection_pool import ConnectionPool, read_buffer
from backends.http1.interface import Origin
from backends.http1.resolver import Resolver
from backends.http1.timer_wheel import Timer, TimerWheel
from backends.http1.tls import TlsSettings
from backends.pool.endpoint import Endpoint
from backends.pool.pool import Pool, PoolStrategy
from backends.pool.pool_state import PoolState
from policies.balancing import strategy
from policies.identity.authenticator import Authenticator, TokenChecker
from policies.limits.plans import PlanLimits, plan_limits
from policies.request.routing import RouteTable

# How often expired pauses and ejections are looked for while nobody chooses, in seconds.
TICK = 0.25


class DataPlaneMeters(Protocol):
    """Meters of the data plane."""

    def pool(self, name: str) -> PoolMeter: ...
    def endpoint(self, pool: str, endpoint: str) -> EndpointMeter: ...


@dataclass(frozen=True, slots=True)
class TableView:
    """A table made live. An exchange takes it once, at its beginning, and uses no other."""

    table: Table
    pools: Mapping[str, Pool]
    routes: RouteTable
    authenticator: Authenticator
    limits: Mapping[str, PlanLimits]
    """By name, the plans that bound something."""


class DataPlane:
    """Connections, endpoints and their counts. In come tables (`install`) and the probes' verdicts
    (`tell`), out go events (`emit`)."""

    def __init__(
        self, *, loop: asyncio.AbstractEventLoop, wheel: TimerWheel, meters: DataPlaneMeters, rng: random.Random,
        now: Callable[[], float], emit: Callable[[EndpointEvent], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        """`now` is wall time in seconds since the epoch, for credentials that expire; `clock` is the monotonic one of
        every `now` that pools and endpoints are given."""
        self._loop = loop
        self._wheel = wheel
        self._meters = meters
        self._rng = rng
        self._now = now
        self._clock = clock
        self._buffer = read_buffer()
        self._resolver = Resolver(wheel.time)
        self._endpoints: dict[EndpointSpec, Endpoint] = {}
        self._retired: list[Endpoint] = []
        self._strategies: dict[tuple[str, str], PoolStrategy] = {}
        self._states: dict[str, PoolState] = {}
        self._ticking: Timer | None = None
        self._tokens: TokenChecker | None = None
        self.emit = emit
        self.view: TableView | None = None

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
        states = {name: self._states.get(name) or self._state(name) for name in table.pools}
        endpoints = {
            spec: self._endpoint(spec, states[pool.name]) for pool in table.pools.values() for spec in pool.endpoints
        }
        pools = {}
        strategies = {}
        for spec in table.pools.values():
            key = (spec.name, spec.balance)
            strategies[key] = self._strategies.get(key) or strategy(spec.balance, self._rng)
            pools[spec.name] = Pool(
                spec, tuple(endpoints[one] for one in spec.endpoints), strategies[key], states[spec.name]
            )
        tokens = self._verifier(table)
        authenticator = Authenticator(table.keys, table.anonymous, self._now, tokens)
        limits = plan_limits(table.plans, table.on_outage)
        view = TableView(table, pools, RouteTable(table.routes), authenticator, limits)
        gone = [endpoint for spec, endpoint in self._endpoints.items() if spec not in endpoints]
        self.view, self._endpoints, self._strategies, self._tokens = view, endpoints, strategies, tokens
        self._follow(table, states)
        self._retired = [endpoint for endpoint in [*self._retired, *gone] if endpoint.in_flight or endpoint.active]
        for endpoint in gone:
            endpoint.close()

    def apply_verdict(self, verdict: ProbeVerdict) -> None:
        """Apply the probes' verdict; ignore one on an endpoint that has left the table."""
        for spec, endpoint in self._endpoints.items():
            if (spec.pool, spec.name, spec.incarnation) == (verdict.pool, verdict.endpoint, verdict.incarnation):
                endpoint.health.apply_verdict(verdict, self._clock())

    def named(self, pool: str, name: str) -> list[Endpoint]:
        """The endpoint of this name, and those before it that left the table while an exchange still uses them."""
        return [endpoint for endpoint in self._all() if (endpoint.spec.pool, endpoint.name) == (pool, name)]

    def busy(self, name: str) -> bool:
        """Return whether an attempt is in flight on the endpoint of this name, also on one that left the table."""
        return any(endpoint.in_flight for endpoint in self._all() if endpoint.name == name)

    def without_candidate(self) -> list[str]:
        """The pools of which no endpoint is a candidate now, breakers aside."""
        view, now = self.view, self._clock()
        return [] if view is None else [name for name, pool in view.pools.items() if not pool.available(now)]

    def yielded_since(self, name: str, moment: float) -> bool:
        """Return whether bytes of an answer came from the endpoint of this name since a time of `clock`."""
        return any(endpoint.yielded_since(moment) for endpoint in self._all() if endpoint.name == name)

    def close(self) -> None:
        """Close every connection that no exchange uses."""
        if self._ticking is not None:
            self._wheel.cancel(self._ticking)
        for endpoint in self._all():
            endpoint.close()

    def _verifier(self, table: Table) -> TokenChecker | None:
        """Return the token verifier; the same object while issuers, keys and plans stay, so that it keeps verified
        tokens."""
        before = self.view.table if self.view is not None else None
        if before is not None and (before.issuers, before.plans) == (table.issuers, table.plans):
            return self._tokens
        if not table.issuers:
            return None
        # Loads pyjwt and cryptography, which nobody pays for who has no issuer.
        from policies.identity.tokens import TokenVerifier

        return TokenVerifier(table.issuers, table.plans, self._now)

    def _follow(self, table: Table, states: dict[str, PoolState]) -> None:
        """Tell every pool what is in the new table, and those that are gone that they are."""
        now = self._clock()
        for name, state in self._states.items():
            if name not in states:
                state.install(state.spec, (), now)
        self._states = states
        for name, spec in table.pools.items():
            states[name].install(spec, [self._endpoints[one].health for one in spec.endpoints], now)
            for one in spec.endpoints:
                self._endpoints[one].most = spec.most.get(one.name, inf)

    def _state(self, name: str) -> PoolState:
        return PoolState(name, self._meters.pool(name), emit=self._emit_event, alarm=self._wake)

    def _emit_event(self, event: EndpointEvent) -> None:
        self.emit(event)

    def _wake(self) -> None:
        """Start the tick that refreshes pools in which something will expire, also without a choice."""
        if self._ticking is None:
            self._ticking = self._wheel.arm(TICK, self._tick)

    def _tick(self) -> None:
        self._ticking = None
        now = self._clock()
        for state in self._states.values():
            state.refresh(now)
        if any(state.due < inf for state in self._states.values()):
            self._wake()

    def _all(self) -> list[Endpoint]:
        return [*self._endpoints.values(), *self._retired]

    def _endpoint(self, spec: EndpointSpec, state: PoolState) -> Endpoint:
        found = self._endpoints.get(spec)
        if found is not None:
            return found
        tls = TlsSettings(ca=spec.ca, server_name=spec.server_name) if spec.tls else None
        origin = Origin(spec.host, spec.port, tls)
        try:
            connections = ConnectionPool(
                origin,
                keep_alive=spec.keep_alive,
                wheel=self._wheel,
                buffer=self._buffer,
                resolve=self._resolver.resolve,
            )
        except OSError as error:
            reason = f"endpoint {spec.name}: tls.ca {spec.ca} can't be loaded: {error.strerror or error}"
            raise OSError(error.errno, reason) from error
        return Endpoint(spec, connections, self._meters.endpoint(spec.pool, spec.name), state)
