"""The control side: owns the policy file, the keys, the workers, the probes and the operators' orders, and hands the
data plane finished tables.

A changed file or SIGHUP builds a whole new table and swaps one reference; a broken, truncated or vanished file keeps
the last good one and says so (log line, metric). It meets the data plane through `DataPlane.install`, the probes'
`DataPlane.apply_verdict`, and the events that it emits.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from backends.control.events import EndpointEvent
from backends.control.table import Forced
from backends.control.table_builder import build_table
from backends.data_plane import DataPlane, TableView
from backends.identity.jwks import KeySources
from backends.probes.prober import Prober
from backends.workers.supervisor import Supervisor, WorkerEvent, WorkerView
from gateway.auth import issuers
from gateway.auth.api_keys import StoreKeySource, read_keys
from gateway.control.operator_orders import OperatorOrders
from gateway.control.policy_loader import LoadedPolicy, UnreadablePart, read_again, read_first
from gateway.control.readiness import WorkerFirstRound
from gateway.control.watched_files import WatchedFiles
from gateway.observe import events
from gateway.observe import table_metrics as tables
from gateway.observe.log import fields
from gateway.observe.metrics import Metrics
from policies.config.settings import Policy
from policies.resilience.health import ProbeFinding

log = logging.getLogger("sluice.control")

# How often the files are looked at, seconds: one stat call each. A revoked key must stop within 2 s.
WATCH_EVERY = 0.5


class SupervisorFactory(Protocol):
    """Makes the supervisor, given what it calls back."""

    def __call__(
        self, policy: Policy, changed: Callable[[], None], report: Callable[[WorkerEvent], None]
    ) -> Supervisor: ...


class ControlPlane:
    """Owner of everything that is decided outside a request."""

    def __init__(self, path: Path, *, metrics: Metrics, supervise: SupervisorFactory) -> None:
        self._path = path
        self._metrics = metrics
        self._supervise = supervise
        self._plane: DataPlane | None = None
        self._prober: Prober | None = None
        self._installed: Callable[[TableView], None]
        self._supervisor: Supervisor | None = None
        self._stored = StoreKeySource(self._take_stored, metrics.store_error)
        self.issuers = KeySources(
            clock=time.monotonic, rng=random.Random(), changed=self._changed, say=issuers.log_issuer_event
        )  # fmt: skip
        """Fetcher of the keys of token issuers."""
        self._following = False
        self.leaving = False
        """True once the gateway shuts down: no policy is read and no order is taken."""
        self.orders = OperatorOrders()
        self.news: dict[str, EndpointEvent] = {}
        """By name, the last change of each endpoint."""
        self._generation = 0
        self._watcher: asyncio.Task[None] | None = None
        self._reloading = asyncio.Lock()
        self._first_round = WorkerFirstRound()
        self.settled = self._first_round.settled
        self._reading = read_first(path)
        self._files = WatchedFiles(self._reading.paths(path))

    # -- start and end

    @property
    def policy(self) -> Policy:
        """Policy in force."""
        return self._reading.policy

    @property
    def round_over(self) -> bool:
        """True once the first round is over: every worker was ready or failed once, every endpoint was probed once."""
        return self.settled.is_set() and self._prober is not None and self._prober.round_over

    @property
    def demo_key(self) -> str | None:
        """The text of an example's public key."""
        return self._reading.keys.demo_key

    async def start(self, plane: DataPlane, prober: Prober, installed: Callable[[TableView], None]) -> None:
        """Install the first table, start the probes and the workers; returns without waiting for them. Raises OSError
        for what keeps a table from being made, before any worker is started. `installed` is called after each table."""
        self._reading.key_files.warn()
        self._plane, self._prober, self._installed = plane, prober, installed
        self._generation = 1
        self._supervisor = self._supervise(self.policy, self._changed, self._report)
        self.issuers.follow(self.policy.auth.jwt)
        await self._find_keys()
        self._reading.keys.warn()
        self.install()
        self._following = True
        await self._supervisor.start()
        self._first_round.begin(self._supervisor.workers())
        self._watcher = asyncio.get_running_loop().create_task(self._watch(), name="policy watch")

    def freeze(self) -> None:
        """Stop reading the policy, so that shutdown starts no worker."""
        self.leaving = True
        if self._watcher is not None:
            self._watcher.cancel()

    async def stop(self, *, hurry: bool) -> None:
        """End the workers and the watching. May be called again, in a hurry, while it runs."""
        self._following = False
        self.freeze()
        await self.issuers.stop()
        await self._stored.stop()
        if self._prober is not None:
            await self._prober.stop()
        if self._supervisor is not None:
            await self._supervisor.stop(hurry=hurry)

    # -- tables out

    def install(self) -> None:
        """Build a table of the present state and install it in the data plane."""
        assert self._plane is not None and self._prober is not None and self._supervisor is not None, "started"
        views, reading = self._supervisor.workers(), self._reading
        table = build_table(
            reading.policy, generation=self._generation, workers=views, keys=reading.keys.records,
            drained=self.orders.drained, forced=self.orders.forced,
            issuers=issuers.issuers_of(reading.policy, reading.key_files, self.issuers), keys_known=reading.keys.known,
        )  # fmt: skip
        self._plane.install(table)
        assert self._plane.view is not None, "just installed"
        self._installed(self._plane.view)
        self._prober.follow(table, self.policy.pools)
        tables.show(self._metrics, table, workers=views, retired=self._plane.retired, forced=self.orders.forced)
        self._first_round.see(views)

    def drain(self, endpoint: str) -> None:
        """Send an endpoint nothing new. Raises OSError where no table can be built, and keeps the orders before."""
        self._order(self.orders.drain(endpoint))

    def resume(self, endpoint: str) -> None:
        """Send a drained endpoint requests again. Raises OSError as `drain` does."""
        self._order(self.orders.resume(endpoint))

    def force(self, endpoint: str, state: Forced | None) -> None:
        """Hold an endpoint's breakers in one state; None lets outcomes decide. Raises OSError as `drain` does."""
        self._order(self.orders.force(endpoint, state))

    def _order(self, orders: OperatorOrders) -> None:
        before, self.orders = self.orders, orders
        try:
            self.install()
        except OSError:
            self.orders = before
            raise

    def workers(self) -> Sequence[WorkerView]:
        """Every worker as it is now."""
        return self._supervisor.workers() if self._supervisor is not None else []

    def last_probe(self, pool: str, endpoint: str) -> tuple[float, ProbeFinding] | None:
        """Return the time and the finding of the endpoint's last probe; None without one."""
        return self._prober.latest(pool, endpoint) if self._prober is not None else None

    # -- events in

    def on_event(self, event: EndpointEvent) -> None:
        """Handle an event of an endpoint from the data plane."""
        if self._prober is not None:
            self._prober.on_event(event)
        if event.endpoint and event.kind != "failed":
            self.news[event.endpoint] = event
        events.log_endpoint_event(event)

    def _changed(self) -> None:
        """Handle a changed worker. Raises nothing into the supervisor: the last good table stays."""
        if not self._following:
            return
        try:
            self.install()
        except OSError as error:
            log.error("table_refused", extra=fields(reason=error.strerror or str(error), kept=self._generation))

    def _report(self, event: WorkerEvent) -> None:
        worker = self._metrics.worker(event.pool, event.worker)
        if event.kind == "ready":
            worker.started(event.seconds)
        elif event.kind == "died":
            worker.restarted()
        events.log_worker_event(event)

    # -- the files

    async def reload(self, why: str) -> None:
        """Read policy and keys again and put them in force, or keep those in force and log the mistakes."""
        async with self._reloading:
            if self.leaving:
                log.info("policy_not_read", extra=fields(why=why, reason="the gateway is shutting down"))
                return
            # Taken before the files are read: a change meanwhile is seen again, and nothing is read twice for one.
            self._files.look()
            try:
                reading = await read_again(self._path, self._reading, self._stored.entries)
            except UnreadablePart as error:
                self._refused(error.mistakes)
                return
            if self.leaving:
                return
            reading.key_files.warn()
            if not reading.serves_as(self._reading):
                log.warning("restart_needed", extra=fields(reason="server and observe are read at start only"))
                reading = reading.with_servers_of(self._reading)
            try:
                await self._put_in_force(reading)
            except OSError as error:
                self._refused([f"{self._path.name}: {error.strerror or error}"])
                return
            self._files.follow(reading.paths(self._path))
            assert self._supervisor is not None, "started"
            await self._supervisor.reconcile(self.policy.pools)
            self._forget(self._reading.endpoints())
            keys = len(self._reading.keys.records)
            log.info("policy_loaded", extra=fields(generation=self._generation, why=why, keys=keys))

    async def _put_in_force(self, reading: LoadedPolicy) -> None:
        """Put a policy in force. Raises OSError where no table can be built, and keeps the policy before."""
        before, self._reading = self._reading, reading
        self._generation += 1
        self.issuers.follow(self.policy.auth.jwt)
        try:
            if not reading.keeps_keys_as(before):
                await self._find_keys()
            self._reading.keys.warn()
            self.install()
        except OSError:
            self._reading = before
            self._generation -= 1
            self.issuers.follow(self.policy.auth.jwt)
            if not reading.keeps_keys_as(before):
                await self._find_keys()
            raise

    def _forget(self, names: Set[str]) -> None:
        """Drop orders and events of endpoints that the policy no longer has: another may get the name later."""
        self.orders = self.orders.kept(names)
        self.news = {name: event for name, event in self.news.items() if name in names}

    def _refused(self, mistakes: list[str]) -> None:
        self._metrics.reload_failed()
        for mistake in mistakes[:20]:
            log.error("policy_refused", extra=fields(mistake=mistake, kept=self._generation))

    async def _find_keys(self) -> None:
        """Read the keys in the store, where the policy has them there, and watch them. Raises OSError."""
        if await self._stored.follow(self.policy):
            await self._read_stored()

    async def _read_stored(self) -> None:
        keys = await asyncio.to_thread(read_keys, self.policy, first=False, stored=self._stored.entries)
        self._reading = replace(self._reading, keys=keys)

    async def _take_stored(self) -> None:
        """Put changed keys of the store in force."""
        async with self._reloading:
            if not self._following or self._stored.entries is None:
                return
            await self._read_stored()
            self._reading.keys.warn()
            self._changed()

    async def _watch(self) -> None:
        """Read again what has changed. A file that is half written now is read again once it changes."""
        while True:
            await asyncio.sleep(WATCH_EVERY)
            changed = self._files.look()
            if changed:
                await self.reload(f"{', '.join(changed)} changed")
