"""Admission: a slot of the pool, at once, after a wait in its queue, or not at all (policy keys `max_in_flight`,
`queue`).

A pool without a bound that has an endpoint is not gated (`Pool.gated`) and never comes here. The exchange holds its
slot until its end, retries included, and gives it back with `Exchange.leave_pool`.
"""

from collections.abc import Callable, Mapping
from typing import Final

from backends.data_plane import TableView
from backends.http1.timer_wheel import TimerWheel
from backends.pool.pool import Pool
from gateway.admission.pool_queue import PoolQueue
from gateway.exchange import Exchange
from gateway.observe.metrics import Metrics
from policies.config.settings import PlanSettings

# Methods that ask an engine for no work: its state, its models.
_FREE: Final = frozenset({"GET", "HEAD", "OPTIONS", "DELETE"})
_NO_PLAN: Final = PlanSettings()


class AdmissionGate:
    """Queues of one process's gated pools."""

    def __init__(self, *, metrics: Metrics, wheel: TimerWheel, clock: Callable[[], float]) -> None:
        """`clock` is monotonic, in seconds."""
        self._metrics = metrics
        self._wheel = wheel
        self._clock = clock
        self._pools: Mapping[str, Pool] = {}
        self._plans: Mapping[str, PlanSettings] = {}
        self.queues: dict[str, PoolQueue] = {}
        """By pool name: pools that are bounded, or had no endpoint for a while."""

    def follow(self, view: TableView) -> None:
        """Adopt a new table; waiting requests follow it from now on."""
        self._pools, self._plans = view.pools, view.table.plans
        for name, pool in view.pools.items():
            if pool.gated and name not in self.queues:
                self.queues[name] = PoolQueue(pool, self._metrics.pool(name), self._wheel, self._clock)
            elif name in self.queues:
                self.queues[name].follow(pool, self._metrics.pool(name))
        for name in [name for name in self.queues if name not in view.pools]:
            # Waiting requests use the endpoints of the table that they came with.
            self.queues.pop(name).open()

    async def enter(self, exchange: Exchange, pool: Pool) -> Pool:
        """Take a slot of this pool, in place of a slot that the exchange holds, and return the pool as it is then.
        Raises GatewayError where there is no slot in time, ClientGone."""
        exchange.leave_pool()
        queue = self.queues.get(pool.name)
        if queue is None or exchange.method in _FREE:
            return pool
        if not queue.enter():
            principal = exchange.principal
            plan = _NO_PLAN if principal is None else self._plans.get(principal.plan, _NO_PLAN)
            tenant = "" if principal is None else principal.tenant
            await queue.wait(exchange, tenant, plan)
            pool = self._pools.get(pool.name, pool)
        attempt = exchange.attempt
        attempt.slot, attempt.slot_since = queue, attempt.ready_at
        return pool
