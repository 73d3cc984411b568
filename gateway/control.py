"""The control side: owns the policy file, the keys, the workers, the probes and the operators' orders, and hands the
data plane finished tables.

A changed file or SIGHUP builds a whole new table and swaps one reference; a broken, truncated or vanished file keeps
the last good one and says so (log line, metric). It meets the data plane through `DataPlane.install`, the probes'
`DataPlane.tell`, and the events that it emits.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Sequence, Set
from dataclasses import replace
from errno import EINVAL
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from backends.events import EndpointEvent
from backends.jwks import KeySources
from backends.keyfile import KeyFileError
from backends.plane import DataPlane, View
from backends.probes import Prober
from backends.tables import build_table
from backends.workers.spec import workers_of
from backends.workers.supervisor import Supervisor, WorkerEvent, WorkerView
from gateway import issuers
from gateway.files import Files
from gateway.issuers import IssuerFileError, KeyFiles, read_key_files
from gateway.keys import Keys, read_keys
from gateway.observe import events, tables
from gateway.observe.log import fields
from gateway.observe.metrics import Metrics
from gateway.orders import Orders
from policies.document import PolicyError, load
from policies.health import Finding
from policies.settings import Policy

if TYPE_CHECKING:
    from gateway.stored_keys import StoredKeys

log = logging.getLogger("sluice.control")

# How often the files are looked at, seconds: one stat call each. A revoked key must stop within 2 s.
WATCH_EVERY = 0.5


class Supervise(Protocol):
    """Makes the supervisor, given what it calls back."""

    def __call__(
        self, policy: Policy, changed: Callable[[], None], report: Callable[[WorkerEvent], None]
    ) -> Supervisor: ...


class StartError(Exception):
    """The gateway cannot start; the text is for the operator, every mistake on a line of its own."""


class Control:
    """The one owner of everything that is decided outside a request."""

    def __init__(self, path: Path, *, metrics: Metrics, supervise: Supervise) -> None:
        self._path = path
        self._metrics = metrics
        self._supervise = supervise
        self._plane: DataPlane | None = None
        self._prober: Prober | None = None
        self._installed: Callable[[View], None]
        self._supervisor: Supervisor | None = None
        self._keys = Keys({})
        self._stored: StoredKeys | None = None
        self._key_files = KeyFiles({})
        self.issuers = KeySources(
            clock=time.monotonic, rng=random.Random(), changed=self._changed, say=issuers.tell
        )  # fmt: skip
        """Who fetches the keys of those who issue tokens."""
        self._following = False
        self.leaving = False
        """Whether the gateway is ending: no policy is read and no order taken any more."""
        self.orders = Orders()
        self.news: dict[str, EndpointEvent] = {}
        """By name, the last change of each endpoint."""
        self._generation = 0
        self._files = Files()
        self._watcher: asyncio.Task[None] | None = None
        self._reloading = asyncio.Lock()
        self._first_round: set[str] | None = None
        self.settled = asyncio.Event()
        """Set once every worker was ready or failed once: from then on, waiting longer means waiting for a repair."""
        self.policy = self._load_first()

    # -- start and end

    def _load_first(self) -> Policy:
        try:
            policy = load(str(self._path), secrets=True)
            self._keys = read_keys(policy, first=True)
            self._key_files = read_key_files(policy)
        except PolicyError as error:
            raise StartError("\n".join(str(mistake) for mistake in error.mistakes)) from None
        except KeyFileError as error:
            raise StartError(
                f"{error}\nauth.api_keys.file: make a key with `sluice keys create --file FILE --tenant T --plan P`"
            ) from None
        except IssuerFileError as error:
            raise StartError(f'{error}\nauth.jwt[].jwks.file: a JWK Set, {{"keys": [...]}}') from None
        self._files = Files(self._paths(policy))
        return policy

    @property
    def round_over(self) -> bool:
        """Whether a first round is over: every worker was ready or failed once, every endpoint was probed once."""
        return self.settled.is_set() and self._prober is not None and self._prober.round_over

    @property
    def demo_key(self) -> str | None:
        """The text of an example's public key."""
        return self._keys.demo_key

    async def start(self, plane: DataPlane, prober: Prober, installed: Callable[[View], None]) -> None:
        """Install the first table, start the probes and the workers; returns without waiting for them. Raises OSError
        for what keeps a table from being made, before any worker is started. `installed` is called after each table."""
        self._key_files.warn()
        self._plane, self._prober, self._installed = plane, prober, installed
        self._generation = 1
        self._supervisor = self._supervise(self.policy, self._changed, self._report)
        self.issuers.follow(self.policy.auth.jwt)
        await self._follow_keys(self.policy)
        self._keys.warn()
        self.install()
        self._following = True
        await self._supervisor.start()
        views = self._supervisor.workers()
        self._first_round = {view.name for view in views}
        self._count_round(views)
        self._watcher = asyncio.get_running_loop().create_task(self._watch(), name="policy watch")

    def freeze(self) -> None:
        """The gateway is ending: no policy is read any more, so that no worker is started for one."""
        self.leaving = True
        if self._watcher is not None:
            self._watcher.cancel()

    async def stop(self, *, hurry: bool) -> None:
        """End the workers and the watching. May be called again, in a hurry, while it runs."""
        self._following = False
        self.freeze()
        await self.issuers.stop()
        if self._stored is not None:
            await self._stored.stop()
        if self._prober is not None:
            await self._prober.stop()
        if self._supervisor is not None:
            await self._supervisor.stop(hurry=hurry)

    # -- tables out

    def install(self) -> None:
        """Build a table of what is true now and hand it over."""
        assert self._plane is not None and self._prober is not None and self._supervisor is not None, "started"
        views = self._supervisor.workers()
        table = build_table(
            self.policy, generation=self._generation, workers=views, keys=self._keys.records,
            drained=self.orders.drained, forced=self.orders.forced,
            issuers=issuers.issuers_of(self.policy, self._key_files, self.issuers), keys_known=self._keys.known,
        )  # fmt: skip
        self._plane.install(table)
        assert self._plane.view is not None, "just installed"
        self._installed(self._plane.view)
        self._prober.follow(table, self.policy.pools)
        tables.show(self._metrics, table, workers=views, retired=self._plane.retired, forced=self.orders.forced)
        self._count_round(views)

    def give(self, orders: Orders) -> None:
        """Put an operator's orders in force. Raises OSError where no table can be made, and keeps those before."""
        before, self.orders = self.orders, orders
        try:
            self.install()
        except OSError:
            self.orders = before
            raise

    def workers(self) -> Sequence[WorkerView]:
        """Every worker as it is now."""
        return self._supervisor.workers() if self._supervisor is not None else []

    def last_probe(self, pool: str, endpoint: str) -> tuple[float, Finding] | None:
        """When its last probe was over, and what it found; None without one."""
        return self._prober.latest(pool, endpoint) if self._prober is not None else None

    def _count_round(self, views: Sequence[WorkerView]) -> None:
        if self._first_round is not None:
            self._first_round -= {view.name for view in views if view.state == "ready" or view.reason}
            if not self._first_round:
                self.settled.set()

    # -- events in

    def heard(self, event: EndpointEvent) -> None:
        """The data plane found nobody at an endpoint, or thinks differently of it."""
        if self._prober is not None:
            self._prober.heard(event)
        if event.endpoint and event.kind != "failed":
            self.news[event.endpoint] = event
        events.tell(event)

    def _changed(self) -> None:
        """A worker's state is another. Nothing may be raised into the supervisor: the last good table stays."""
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
        level = logging.WARNING if event.kind == "died" else logging.INFO
        what = fields(
            worker=event.worker,
            pool=event.pool,
            pid=event.pid,
            reason=event.reason or None,
            seconds=round(event.seconds, 3),
        )
        log.log(level, f"worker_{event.kind}", extra=what)

    # -- the files

    async def reload(self, why: str) -> None:
        """Read policy and keys again and put them in force, or keep what is in force and say what is wrong."""
        async with self._reloading:
            if self.leaving:
                log.info("policy_not_read", extra=fields(why=why, reason="the gateway is shutting down"))
                return
            # Taken before the files are read: a change meanwhile is seen again, and nothing is read twice for one.
            self._files.look()
            try:
                policy = await asyncio.to_thread(load, str(self._path), secrets=True)
                stored = None if self._stored is None else self._stored.entries
                keys = await asyncio.to_thread(read_keys, policy, first=not self._keys.records, stored=stored)
                key_files = await asyncio.to_thread(read_key_files, policy)
            except (PolicyError, KeyFileError, IssuerFileError) as error:
                self._refused([str(one) for one in error.mistakes] if isinstance(error, PolicyError) else [str(error)])
                return
            if self.leaving:
                return
            key_files.warn()
            if policy.server != self.policy.server or policy.observe != self.policy.observe:
                log.warning("restart_needed", extra=fields(reason="server and observe are read at start only"))
                policy = replace(policy, server=self.policy.server, observe=self.policy.observe)
            before = self.policy, self._keys, self._key_files, self._generation
            self.policy, self._keys, self._key_files, self._generation = policy, keys, key_files, self._generation + 1
            self.issuers.follow(policy.auth.jwt)
            elsewhere = (policy.store, policy.auth.api_keys) != (before[0].store, before[0].auth.api_keys)
            try:
                if elsewhere:
                    await self._follow_keys(policy)
                self._keys.warn()
                self.install()
            except OSError as error:
                self.policy, self._keys, self._key_files, self._generation = before
                self.issuers.follow(self.policy.auth.jwt)
                if elsewhere:
                    await self._follow_keys(self.policy)
                self._refused([f"{self._path.name}: {error.strerror or error}"])
                return
            self._files.follow(self._paths(policy))
            assert self._supervisor is not None, "started"
            await self._supervisor.reconcile(policy.pools)
            self._forget(_names(policy))
            log.info("policy_loaded", extra=fields(generation=self._generation, why=why, keys=len(self._keys.records)))

    def _forget(self, names: Set[str]) -> None:
        """Of endpoints that the policy has no more, nothing is kept: another may have the name one day."""
        self.orders = self.orders.kept(names)
        self.news = {name: event for name, event in self.news.items() if name in names}

    def _refused(self, mistakes: list[str]) -> None:
        self._metrics.reload_failed()
        for mistake in mistakes[:20]:
            log.error("policy_refused", extra=fields(mistake=mistake, kept=self._generation))

    async def _follow_keys(self, policy: Policy) -> None:
        """Read the keys in the store, where the policy has them there, and follow them from now on. Raises OSError."""
        before, self._stored = self._stored, None
        if before is not None:
            await before.stop()
        if policy.auth.api_keys is not None and policy.auth.api_keys.store:
            # Loads redis-py: 65 ms and 11 MB, for who keeps keys there.
            from gateway.stored_keys import StoredKeys

            try:
                self._stored = StoredKeys(policy.store, self._take_stored)
            except ValueError as error:
                raise OSError(EINVAL, f"store.url: {error}") from None
            await self._stored.start()
            self._keys = await asyncio.to_thread(read_keys, policy, first=False, stored=self._stored.entries)

    async def _take_stored(self) -> None:
        """There are other keys in the store."""
        async with self._reloading:
            if self._stored is None or not self._following:
                return
            self._keys = await asyncio.to_thread(read_keys, self.policy, first=False, stored=self._stored.entries)
            self._keys.warn()
            self._changed()

    async def _watch(self) -> None:
        """Read again what has changed. A file that is half written now is read again once it changes."""
        while True:
            await asyncio.sleep(WATCH_EVERY)
            changed = self._files.look()
            if changed:
                await self.reload(f"{', '.join(changed)} changed")

    def _paths(self, policy: Policy) -> list[str]:
        keys = policy.auth.api_keys
        own = [str(self._path)] if keys is None or keys.file is None else [str(self._path), str(keys.file)]
        return own + issuers.key_files(policy)


def _names(policy: Policy) -> set[str]:
    """The names of all endpoints that a policy has, workers included."""
    listed = {endpoint.name for pool in policy.pools.values() for endpoint in pool.endpoints}
    return listed | {spec.name for spec in workers_of(policy.pools)}
