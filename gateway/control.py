"""The control side: owns the policy file, the keys and the workers, and hands the data plane finished tables.

A changed file or SIGHUP builds a whole new table and swaps one reference; a broken, truncated or vanished file keeps
the last good one and says so
(log line, metric). It meets the data plane only through `DataPlane.install` and the events that it emits.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from backends.events import EndpointEvent
from backends.keyfile import KeyFileError, load_keys
from backends.plane import DataPlane
from backends.tables import build_table
from backends.workers.supervisor import Supervisor, WorkerEvent, WorkerView
from gateway.observe.log import fields
from gateway.observe.metrics import Metrics
from policies.document import PolicyError, load
from policies.identity import KeyRecord, records
from policies.settings import Policy

log = logging.getLogger("sluice.control")

# How often the files are looked at, seconds: one stat call each. A revoked key must stop within 2 s.
WATCH_EVERY = 0.5
_WORKER_STATES = {"backing_off": "backoff"}

Signature = tuple[int, int, int] | None


class Supervise(Protocol):
    """Makes the supervisor, given what it calls back."""

    def __call__(
        self, policy: Policy, changed: Callable[[], None], report: Callable[[WorkerEvent], None]
    ) -> Supervisor: ...


@dataclass(frozen=True, slots=True)
class Keys:
    """What was read of the keys file."""

    records: Mapping[bytes, KeyRecord]
    demo_key: str | None = None
    """The text of a public key, where an example has one."""
    warnings: tuple[tuple[str, Mapping[str, object]], ...] = ()
    """What is to be said of it: an event and its fields."""


class StartError(Exception):
    """The gateway cannot start; the text is for the operator, every mistake on a line of its own."""


class Control:
    """The one owner of everything that is decided outside a request."""

    def __init__(self, path: Path, *, metrics: Metrics, supervise: Supervise) -> None:
        self._path = path
        self._metrics = metrics
        self._supervise = supervise
        self._plane: DataPlane | None = None
        self._supervisor: Supervisor | None = None
        self._keys = Keys({})
        self._following = False
        self._frozen = False
        self._generation = 0
        self._seen: dict[str, Signature] = {}
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
            self._keys = _read_keys(policy, first=True)
        except PolicyError as error:
            raise StartError("\n".join(str(mistake) for mistake in error.mistakes)) from None
        except KeyFileError as error:
            raise StartError(
                f"{error}\nauth.api_keys.file: make a key with `sluice keys create --file FILE --tenant T --plan P`"
            ) from None
        self._seen = {path: _signature(path) for path in self._files(policy)}
        return policy

    @property
    def demo_key(self) -> str | None:
        """The text of an example's public key."""
        return self._keys.demo_key

    async def start(self, plane: DataPlane) -> None:
        """Install the first table and start the workers; returns without waiting for them. Raises OSError for what
        keeps a table from being made, before any worker is started."""
        _warn(self._keys)
        self._plane = plane
        self._generation = 1
        self._supervisor = self._supervise(self.policy, self._changed, self._report)
        self.install()
        self._following = True
        await self._supervisor.start()
        views = self._supervisor.workers()
        self._first_round = {view.name for view in views}
        self._count_round(views)
        self._watcher = asyncio.get_running_loop().create_task(self._watch(), name="policy watch")

    def freeze(self) -> None:
        """The gateway is ending: no policy is read any more, so that no worker is started for one."""
        self._frozen = True
        if self._watcher is not None:
            self._watcher.cancel()

    async def stop(self, *, hurry: bool) -> None:
        """End the workers and the watching. May be called again, in a hurry, while it runs."""
        self._following = False
        self.freeze()
        if self._supervisor is not None:
            await self._supervisor.stop(hurry=hurry)

    # -- tables out

    def install(self) -> None:
        """Build a table of what is true now and hand it over."""
        assert self._plane is not None and self._supervisor is not None, "started"
        views = self._supervisor.workers()
        table = build_table(self.policy, generation=self._generation, workers=views, keys=self._keys.records)
        self._plane.install(table)
        self._metrics.policy_loaded(self._generation)
        pairs = [(pool.name, name) for pool in table.pools.values() for name in pool.known]
        named = [
            (route.model, route.pool)
            for route in table.routes
            if route.model is not None and not set("*?[") & set(route.model)
        ]
        leaving = set(self._plane.retired) - set(pairs)
        self._metrics.known(
            pools=table.pools, routes=named, endpoints=pairs, leaving=leaving,
            workers=[(view.pool, view.name) for view in views],
        )  # fmt: skip
        # The data plane shows the states of those that are in the table.
        shown = {(pool.name, spec.name) for pool in table.pools.values() for spec in pool.endpoints}
        for pair in set(pairs) - shown:
            self._metrics.endpoint(*pair).state("down")
        for pair in leaving:
            self._metrics.endpoint(*pair).state("draining")
        for view in views:
            self._metrics.worker(view.pool, view.name).state(_WORKER_STATES.get(view.state, view.state))
        self._count_round(views)

    def _count_round(self, views: Sequence[WorkerView]) -> None:
        if self._first_round is not None:
            self._first_round -= {view.name for view in views if view.state == "ready" or view.reason}
            if not self._first_round:
                self.settled.set()

    # -- events in

    def endpoint_failed(self, event: EndpointEvent) -> None:
        """The data plane found nobody at an endpoint, or thinks differently of it."""
        level = logging.INFO if event.kind in ("returned", "breaker_half_open", "breaker_closed") else logging.WARNING
        what = fields(pool=event.pool, endpoint=event.endpoint or None, reason=event.reason, **event.figures)
        log.log(level, f"endpoint_{event.kind}" if event.endpoint else f"pool_{event.kind}", extra=what)

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
            if self._frozen:
                log.info("policy_not_read", extra=fields(why=why, reason="the gateway is shutting down"))
                return
            # Taken before the files are read: a change meanwhile is seen again, and nothing is read twice for one.
            self._seen.update({path: _signature(path) for path in self._seen})
            try:
                policy = await asyncio.to_thread(load, str(self._path), secrets=True)
                keys = await asyncio.to_thread(_read_keys, policy, first=not self._keys.records)
            except (PolicyError, KeyFileError) as error:
                self._refused([str(one) for one in error.mistakes] if isinstance(error, PolicyError) else [str(error)])
                return
            _warn(keys)
            if policy.server != self.policy.server or policy.observe != self.policy.observe:
                log.warning("restart_needed", extra=fields(reason="server and observe are read at start only"))
                policy = replace(policy, server=self.policy.server, observe=self.policy.observe)
            before = self.policy, self._keys, self._generation
            self.policy, self._keys, self._generation = policy, keys, self._generation + 1
            try:
                self.install()
            except OSError as error:
                self.policy, self._keys, self._generation = before
                self._refused([f"{self._path.name}: {error.strerror or error}"])
                return
            self._seen = {path: self._seen.get(path, _signature(path)) for path in self._files(policy)}
            assert self._supervisor is not None, "started"
            await self._supervisor.reconcile(policy.pools)
            log.info("policy_loaded", extra=fields(generation=self._generation, why=why, keys=len(keys.records)))

    def _refused(self, mistakes: list[str]) -> None:
        self._metrics.reload_failed()
        for mistake in mistakes[:20]:
            log.error("policy_refused", extra=fields(mistake=mistake, kept=self._generation))

    async def _watch(self) -> None:
        """Look at the files' identities twice a second. A file that is half written now is looked at again once it
        changes."""
        while True:
            await asyncio.sleep(WATCH_EVERY)
            now = {path: _signature(path) for path in self._seen}
            if now != self._seen:
                changed = [os.path.basename(path) for path in now if now[path] != self._seen[path]]
                self._seen.update(now)
                await self.reload(f"{', '.join(changed)} changed")

    def _files(self, policy: Policy) -> list[str]:
        keys = policy.auth.api_keys
        return [str(self._path)] if keys is None or keys.file is None else [str(self._path), str(keys.file)]


def _signature(path: str) -> Signature:
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


def _read_keys(policy: Policy, *, first: bool) -> Keys:
    """What the keys file says. A key whose plan is gone is left out. Logs nothing itself: at the start there is no log
    yet, and on a reload it runs in a thread."""
    if policy.auth.api_keys is None or policy.auth.api_keys.file is None:
        return Keys({})
    path = Path(policy.auth.api_keys.file)
    if first and policy.auth.anonymous is not None and not path.exists():
        missing = fields(file=str(path), so="only anonymous requests are served until it is there")
        return Keys({}, warnings=(("keys_file_missing", missing),))
    entries = load_keys(path)
    found, problems = records(entries, policy.plans)
    demo_key = next((entry.labels["demo_key"] for entry in entries if "demo_key" in entry.labels), None)
    return Keys(found, demo_key, tuple(("key_left_out", fields(problem=problem)) for problem in problems[:20]))


def _warn(keys: Keys) -> None:
    for event, what in keys.warnings:
        log.warning(event, extra=what)
