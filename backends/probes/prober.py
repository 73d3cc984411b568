"""The prober: looks at every endpoint of the table in force, and reports to the data plane what it has found.

`policies/resilience/health.py` decides, `backends/probes/probe.py` asks; here are the tasks, one an endpoint. What
is asked is not traffic: it has connections of its own, is counted in `probes_total` alone and never in the access log.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Callable, Coroutine, Mapping

from backends.control.events import EndpointEvent, ProbeVerdict
from backends.control.table import EndpointSpec, Table
from backends.http1.connection_pool import Resolve, read_buffer
from backends.http1.resolver import Resolver
from backends.http1.timer_wheel import TimerWheel
from backends.http1.tls import TlsSettings, client_context
from backends.probes.one_shot import OneShotClient
from backends.probes.probe import EndpointProbe, ProbeContext, ProbedPlane, ProbeMeters
from policies.config.settings.pools import PoolSettings
from policies.globs import is_glob
from policies.resilience.health import HealthChange, ProbeFinding


class Prober:
    """`follow` a table, `heard` of events, `stop`. All of it belongs to the event loop's thread.

    `report` is called at every change of what is known. `clock` is monotonic and that of the data plane, in seconds;
    `agent` is the User-Agent of the probes.
    """

    def __init__(
        self, *, plane: ProbedPlane, report: Callable[[ProbeVerdict], None], meters: ProbeMeters, wheel: TimerWheel,
        clock: Callable[[], float], rng: random.Random, agent: str, resolve: Resolve | None = None,
    ) -> None:  # fmt: skip
        self._around = ProbeContext(plane, meters, clock, rng, self._say, self._asker)
        self._report = report
        self._wheel = wheel
        self._agent = agent
        self._resolve = Resolver(wheel.time).resolve if resolve is None else resolve
        self._buffer = read_buffer()
        self._watched: dict[EndpointSpec, EndpointProbe] = {}
        self._by_name: dict[tuple[str, str], EndpointProbe] = {}
        self._contexts: dict[str | None, ssl.SSLContext] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._round_over = False
        self._reporting = False

    @property
    def round_over(self) -> bool:
        """True once every endpoint was probed at least once."""
        if not self._round_over:
            self._round_over = all(watch.record.probed for watch in self._watched.values())
        return self._round_over

    def follow(self, table: Table, pools: Mapping[str, PoolSettings]) -> None:
        """Probe what is in this table, by these settings. What stayed the same is probed on; nothing is waited for."""
        watched: dict[EndpointSpec, EndpointProbe] = {}
        models = _models(table)
        for name, pool in table.pools.items():
            health = pools[name].health
            for spec in pool.endpoints if health is not None else ():
                assert health is not None, "sorted out one line above"
                found = self._watched.get(spec)
                if found is None:
                    found = EndpointProbe(self._around, spec, pool.engine, health, models.get(name))
                    found.task = self._spawn(found.run(), f"probes of {spec.name}")
                else:
                    found.change(pool.engine, health, models.get(name))
                watched[spec] = found
        for spec, watch in self._watched.items():
            if spec not in watched:
                watch.end()
                if _no_longer_probed(spec, table, pools) and watch.record.state in ("down", "suspect"):
                    self._say(spec, HealthChange("up", "it is not probed any more"))
        self._watched = watched
        self._by_name = {(spec.pool, spec.name): watch for spec, watch in watched.items()}
        kept = {spec.ca for spec in watched if spec.tls}
        self._contexts = {ca: context for ca, context in self._contexts.items() if ca in kept}

    def on_event(self, event: EndpointEvent) -> None:
        """Take an event of the data plane about an endpoint: what fails is looked at soon and often."""
        watch = self._by_name.get((event.pool, event.endpoint))
        # What comes of our own word is no news of the endpoint.
        if watch is not None and not self._reporting:
            watch.on_event(event)

    def latest(self, pool: str, endpoint: str) -> tuple[float, ProbeFinding] | None:
        """Return the time of the last probe's end and its finding; None without one."""
        watch = self._by_name.get((pool, endpoint))
        return watch.latest if watch is not None else None

    async def stop(self) -> None:
        """End all probes; returns when their sockets are closed."""
        for watch in self._watched.values():
            watch.end()
        self._watched, self._by_name = {}, {}
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _say(self, spec: EndpointSpec, change: HealthChange) -> None:
        """Tell of a change."""
        self._reporting = True
        try:
            self._report(ProbeVerdict(spec.pool, spec.name, spec.incarnation, change.state, change.why, change.readmit))
        finally:
            self._reporting = False

    async def _asker(self, spec: EndpointSpec, port: int | None) -> OneShotClient:
        """Return the client that probes this endpoint. Raises OSError where its `tls.ca` can't be loaded."""
        context = await self._context(spec) if spec.tls else None
        return OneShotClient(
            spec, port=port, agent=self._agent, wheel=self._wheel, buffer=self._buffer, context=context,
            resolve=self._resolve,
        )  # fmt: skip

    async def _context(self, spec: EndpointSpec) -> ssl.SSLContext:
        """One a CA file, made off the loop: reading the system's authorities takes 10 ms or more."""
        found = self._contexts.get(spec.ca)
        if found is None:
            found = await asyncio.to_thread(client_context, TlsSettings(ca=spec.ca))
            self._contexts[spec.ca] = found
        return found

    def _spawn(self, work: Coroutine[object, object, None], name: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            task.get_loop().call_exception_handler({"message": f"{task.get_name()} failed", "exception": error})


def _no_longer_probed(spec: EndpointSpec, table: Table, pools: Mapping[str, PoolSettings]) -> bool:
    """Return whether this endpoint is still in the table and its pool is not probed any more."""
    pool = table.pools.get(spec.pool)
    return pool is not None and spec in pool.endpoints and pools[spec.pool].health is None


def _models(table: Table) -> dict[str, str]:
    """By pool, the model to ask for: the first name of a route to it, as the engine knows it."""
    found: dict[str, str] = {}
    for route in table.routes:
        name = route.upstream_model or route.model
        if name is not None and not is_glob(name):
            found.setdefault(route.pool, name)
    return found
