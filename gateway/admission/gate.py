"""admit: a slot of the pool, at once, after a wait in its queue, or not at all (policy keys
`max_in_flight`, `queue`).

A pool that nothing bounds and that has an endpoint is never asked about (`Pool.gated`). A slot is held until the
request is settled, retries included.
"""

from collections.abc import Callable, Mapping
from typing import Final

from backends.control.data_plane import TableView
from backends.http1.timer_wheel import TimerWheel
from backends.pool.pool import Pool
from gateway.admission.pool_queue import PoolQueue
from gateway.exchange import Exchange
from gateway.observe.metrics import Metrics
from policies.config.settings import PlanSettings

# They ask for no work: what an engine knows, whether it is ready.
_FREE: Final = frozenset({"GET", "HEAD", "OPTIONS", "DELETE"})
_NO_PLAN: Final = PlanSettings()


class AdmissionGate:
    """The slots of one process's pools. `processes` share a pool's bounds, and there is one in this version."""

    def __init__(self, *, metrics: Metrics, wheel: TimerWheel, clock: Callable[[], float]) -> None:
        """`clock` is monotonic, in seconds."""
        self._metrics = metrics
        self._wheel = wheel
        self._clock = clock
        self._pools: Mapping[str, Pool] = {}
        self._plans: Mapping[str, PlanSettings] = {}
        self.doors: dict[str, PoolQueue] = {}
        """By name, of the pools that are bounded or had nobody for a while."""

    def follow(self, view: TableView) -> None:
        """A new table is in force: who waits goes by it from now on."""
        self._pools, self._plans = view.pools, view.table.plans
        for name, pool in view.pools.items():
            if pool.gated and name not in self.doors:
                self.doors[name] = PoolQueue(pool, self._metrics.pool(name), self._wheel, self._clock)
            elif name in self.doors:
                self.doors[name].follow(pool, self._metrics.pool(name))
        for name in [name for name in self.doors if name not in view.pools]:
            # Their endpoints are those of the table that they came with.
            self.doors.pop(name).open()

    async def enter(self, exchange: Exchange, pool: Pool) -> Pool:
        """Take a slot of this pool, in the place of one that it has; the pool as it is then. `leave` gives it back.
        Raises GatewayError where there is none for it, ClientGone."""
        if exchange.door is not None:
            self.leave(exchange)
        door = self.doors.get(pool.name)
        if door is None or exchange.method in _FREE:
            return pool
        if not door.enter():
            principal = exchange.principal
            plan = _NO_PLAN if principal is None else self._plans.get(principal.plan, _NO_PLAN)
            tenant = "" if principal is None else principal.tenant
            await door.wait(exchange, tenant, plan)
            pool = self._pools.get(pool.name, pool)
        exchange.door, exchange.entered = door, exchange.received
        return pool

    def leave(self, exchange: Exchange) -> None:
        """Give back what it holds; nothing where it holds nothing."""
        door, exchange.door = exchange.door, None
        if door is not None:
            door.leave(exchange)
