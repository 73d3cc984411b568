"""Metrics of the table in force: the series of every name in the table exist from the start; those of a removed name
end with its last attempt."""

from collections.abc import Collection, Mapping, Sequence
from typing import Final

from backends.control.table import Forced, Table
from backends.workers.supervisor import WorkerView
from gateway.observe.metrics import Metrics
from policies.globs import is_glob
from policies.resilience.fallback import label_of

_WORKER_STATES: Final = {"backing_off": "backoff"}


def show(
    metrics: Metrics, table: Table, *, workers: Sequence[WorkerView], retired: Collection[tuple[str, str]],
    forced: Mapping[str, Forced],
) -> None:  # fmt: skip
    """`retired` are (pool, endpoint) of those that left the table and have attempts under way. The states of those in
    the table are shown by the data plane."""
    metrics.policy_loaded(table.generation)
    pairs = [(pool.name, name) for pool in table.pools.values() for name in pool.known]
    named = [
        (route.model, route.pool) for route in table.routes if route.model is not None and not is_glob(route.model)
    ]
    for route in table.routes:
        for member in route.fallback:
            metrics.fallback(route.model or route.path or "", label_of(member))
    leaving = set(retired) - set(pairs)
    metrics.known(
        pools=table.pools, routes=named, endpoints=pairs, leaving=leaving,
        workers=[(view.pool, view.name) for view in workers],
    )  # fmt: skip
    shown = {(pool.name, spec.name) for pool in table.pools.values() for spec in pool.endpoints}
    for pair in set(pairs) - shown:
        meter = metrics.endpoint(*pair)
        meter.state("down")
        meter.breaker(forced.get(pair[1], "closed"))
    for pair in leaving:
        metrics.endpoint(*pair).state("draining")
    for view in workers:
        metrics.worker(view.pool, view.name).state(_WORKER_STATES.get(view.state, view.state))
