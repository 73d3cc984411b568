"""Wires every object once: `Gateway` is the whole program, which `gateway.running` runs until a signal ends it. Nothing
is fetched from a global."""

import asyncio
import contextlib
import functools
import logging
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from backends.cache.opening import make_cache
from backends.plane import DataPlane, View
from backends.probes import Prober
from backends.store.opening import Around, make_store
from backends.webhook import Webhooks
from backends.wheel import TimerWheel
from backends.workers.launch import Launcher
from backends.workers.supervisor import Supervisor, WorkerEvent
from gateway import __version__
from gateway.accepting import most_clients
from gateway.admin.guard import ASGIApp
from gateway.admin.routes import admin_routes, client_routes
from gateway.admission import Admission
from gateway.attempts import Attempts
from gateway.caching import Caching
from gateway.clocks import WireSettings
from gateway.console import Console
from gateway.control import Control
from gateway.dispatch import Dispatch
from gateway.edge import Edge
from gateway.fallback import Fallbacks
from gateway.identify import Identity
from gateway.limit_store import LimitStores, Voice
from gateway.limiting import Limiting
from gateway.observe.access_log import AccessLog
from gateway.observe.lag import watch_lag
from gateway.observe.log import Log, fields
from gateway.observe.metrics import Metrics
from gateway.overview import Overview
from gateway.pipeline import Pipeline
from gateway.reading import StartError
from gateway.server import Listener
from gateway.settle import Settlement
from gateway.shutdown import Shutdown
from gateway.status import GatewayStatus
from gateway.telling import Telling
from gateway.usage import UsageDesk
from policies.guessing import Guessing
from policies.settings import Policy


class Gateway:
    """The program: `async with Gateway(path)` starts it and ends it. Raises StartError where it can't start."""

    def __init__(self, policy_path: Path | str) -> None:
        self._path = Path(policy_path)
        self.settled: asyncio.Event

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Read the policy, listen, start the workers; serves from its return on."""
        loop = asyncio.get_running_loop()
        rng = random.Random()
        self.metrics = Metrics(version=__version__)
        self.control = control = Control(self._path, metrics=self.metrics, supervise=self._supervisor)
        policy = control.policy
        observe = policy.observe
        self.metrics.limit_series(observe.metrics.max_series, observe.metrics.labels)
        for path in _log_files(policy):
            if not path.parent.is_dir():
                raise StartError(
                    f"cannot write {path}: there is no folder {path.parent}; make it, or name another file"
                )
        self.log = Log(
            observe.log.path, level=observe.log.level, form=observe.log.format, later=functools.partial(_later, loop)
        )
        self._access = _access_log(policy, self.log, rng)
        self.wheel = TimerWheel(loop)
        clock = time.time  # noqa: TID251  the wall clock: for what expires on a date, and for `created`
        self.plane = DataPlane(loop=loop, wheel=self.wheel, meters=self.metrics, rng=rng, now=clock, emit=control.heard)
        self._prober = Prober(
            plane=self.plane, tell=self.plane.tell, meters=self.metrics, wheel=self.wheel, clock=time.monotonic,
            rng=random.Random(), agent=f"sluice-probe/{__version__}",
        )  # fmt: skip
        epoch = clock() - time.monotonic()
        self._stores = LimitStores(
            lambda: control.policy.store,
            lambda store, voice: make_store(store, Around(time.monotonic, epoch, rng, voice, voice.say)),
            lambda: Voice(self.metrics, _store_says),
        )
        self._limiting = Limiting(self._stores, self.metrics.limit_refused, f"{rng.getrandbits(64):x}")
        around = Around(time.monotonic, epoch, rng, self.metrics, _store_says)
        self._caching = Caching(
            functools.partial(make_cache, policy.store, around), count=self.metrics.cached, wheel=self.wheel,
            clock=time.monotonic, epoch=around.epoch,
        )  # fmt: skip
        self._admission = Admission(metrics=self.metrics, wheel=self.wheel, clock=time.monotonic)
        identity = Identity(self.plane, control.issuers, Guessing(time.monotonic), self.metrics.auth_failed)
        self._status = status = GatewayStatus(
            self.plane, self.metrics, self._access, clock(), control, identity, UsageDesk(lambda: self._limiting.store)
        )
        settlement = Settlement(self.metrics, self._access, time.monotonic)
        attempts = Attempts(
            dispatch=Dispatch(metrics=self.metrics, loop=loop, clock=time.monotonic), metrics=self.metrics,
            wheel=self.wheel, clock=time.monotonic, wall=clock, rng=rng,
        )  # fmt: skip
        self._webhooks = Webhooks(agent=f"sluice/{__version__}", say=_webhook_says)
        fallbacks = Fallbacks(
            limiting=self._limiting, caching=self._caching, admission=self._admission, wall=clock,
            telling=Telling(metrics=self.metrics, webhooks=self._webhooks, clock=time.monotonic, wall=clock),
        )  # fmt: skip
        pipeline = Pipeline(
            identity=identity, limiting=self._limiting, caching=self._caching, admission=self._admission,
            attempts=attempts, fallbacks=fallbacks, settlement=settlement, timed_out=self.metrics.timed_out,
            clock=time.monotonic,
        )  # fmt: skip
        self._edge = edge = Edge(plane=self.plane, pipeline=pipeline, rng=rng)
        server = policy.server
        wire = WireSettings(
            clock=time.monotonic, max_head=server.max_head, header_timeout=server.header_timeout,
            body_timeout=server.body_timeout, write_timeout=server.write_timeout,
        )  # fmt: skip
        self._clients = Listener(
            client_routes(status), str(server.listen), door=edge, wheel=self.wheel,
            settings=replace(wire, timed_out=self.metrics.timed_out), most=most_clients(),
        )  # fmt: skip
        self._admin = Listener(self._admin_app(policy), str(server.admin), door=None, wheel=self.wheel, settings=wire)
        try:
            await self._open()
        except BaseException:
            await self._end()
            raise
        self._lag = loop.create_task(watch_lag(self.metrics.loop_lag, loop), name="loop lag")

    def _admin_app(self, policy: Policy) -> ASGIApp:
        console = Console(Overview(self.plane, self.control, self._admission, time.monotonic), self.control)
        token = policy.server.admin_token
        return admin_routes(
            self._status, console, bound=policy.server.admin, token=None if token is None else token.value
        )

    async def _open(self) -> None:
        """Take the addresses before any worker is started: a busy port should cost nothing."""
        try:
            self._clients.bind()
            self._admin.bind()
            await self.control.start(self.plane, self._prober, self._follow)
        except OSError as error:
            raise StartError(error.strerror or str(error)) from None
        await self._admin.start()
        await self._stores.started()
        await self._caching.started()
        await self._clients.start()

    def _follow(self, view: View) -> None:
        """A new table is in force."""
        self._limiting.follow(view)
        self._caching.follow(view)
        self._admission.follow(view)

    def _supervisor(
        self, policy: Policy, changed: Callable[[], None], report: Callable[[WorkerEvent], None]
    ) -> Supervisor:
        loop = asyncio.get_running_loop()
        launcher = Launcher(warn=logging.getLogger("sluice.worker").warning, clock=loop.time)
        return Supervisor(
            policy.pools, launcher=launcher, changed=changed, report=report, line=_worker_line, clock=loop.time,
            chance=random.Random().random, drained=self._drained,
        )  # fmt: skip

    async def _drained(self, worker: str) -> None:
        """Wait until no attempt is under way on a worker that is to go; the supervisor bounds it by `stop.drain`."""
        while self.plane.busy(worker):  # noqa: ASYNC110  nobody else waits for it, and not often
            await asyncio.sleep(0.05)

    @property
    def address(self) -> str:
        """Where clients connect: `host:port` or `unix:PATH`."""
        return self._clients.address

    @property
    def admin_address(self) -> str:
        """Where operators connect."""
        return self._admin.address

    @property
    def client_connections(self) -> int:
        """Client connections open now."""
        return self._clients.connections

    @property
    def client_requests(self) -> int:
        """Client requests being answered now."""
        return self._clients.requests

    async def reload(self) -> None:
        """SIGHUP: read the files again, open the logs again."""
        self.log.reopen()
        if self._access is not None:
            self._access.reopen()
        await self.control.reload("SIGHUP")

    async def leave(self, why: str, hurry: asyncio.Event) -> None:
        """End in order: lame duck, drain, then `stop`; whenever `hurry` is set, without more waiting."""
        server = self.control.policy.server
        shutdown = Shutdown(
            clients=self._clients, door=self._edge, lame_duck=server.lame_duck, drain=server.drain, hurry=hurry,
            streams=lambda: int(self.metrics.open_streams.value), clock=time.monotonic,
        )  # fmt: skip
        self._status.leaving = True
        self.control.freeze()
        await shutdown.run(why)
        self._lag.cancel()
        await self._end(hurry, shutdown.done)

    async def stop(self) -> None:
        """End now: no new work, clients under way are told, workers' groups are ended, logs are written."""
        hurry = asyncio.Event()
        hurry.set()
        self._lag.cancel()
        await self._end(hurry)

    async def _end(self, hurry: asyncio.Event | None = None, done: Callable[[], None] = lambda: None) -> None:
        """What is left is told and cut, then workers end, then operators are let go: until then they may look."""
        await self._clients.stop()
        await self._end_workers(hurry)
        await self._admin.stop()
        await self._stores.stop()
        await self._caching.stop()
        await self._webhooks.stop()
        self.plane.close()
        done()
        if self._access is not None:
            await asyncio.to_thread(self._access.close)
        await asyncio.to_thread(self.log.close)

    async def _end_workers(self, hurry: asyncio.Event | None) -> None:
        """SIGTERM and `stop.kill_after` for each, but killed at once in a hurry, also in one that begins meanwhile."""
        loop = asyncio.get_running_loop()
        if hurry is None or hurry.is_set():
            await self.control.stop(hurry=True)
            return
        hurried = loop.create_task(hurry.wait(), name="hurry")
        ending = loop.create_task(self.control.stop(hurry=False), name="workers end")
        await asyncio.wait({hurried, ending}, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        if not ending.done():
            await self.control.stop(hurry=True)
        await ending


def _store_says(event: str, what: Mapping[str, object]) -> None:
    """The store of limits, or of cached answers, is lost or back."""
    level = logging.WARNING if event in ("store_lost", "cache_lost") else logging.INFO
    logging.getLogger("sluice.store").log(level, event, extra=fields(**what))


def _webhook_says(event: str, what: Mapping[str, object]) -> None:
    """What became of an operator's webhook."""
    level = logging.INFO if event == "webhook_told" else logging.WARNING
    logging.getLogger("sluice.webhook").log(level, event, extra=fields(**what))


def _worker_line(worker: str, text: str) -> None:
    """What a worker printed, under its name."""
    # The text is the event, so that only what repeats itself is held back.
    logging.getLogger("sluice.worker").info(f"{worker}: {text}")


def _later(loop: asyncio.AbstractEventLoop, seconds: float, call: Callable[[], None]) -> None:
    """From whatever thread; on a loop that has ended nothing is called any more."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(loop.call_later, seconds, call)


def _log_files(policy: Policy) -> list[Path]:
    """The logs that go to files: one that could not be written would only be missed when it is needed."""
    names = [policy.observe.log.path]
    if policy.observe.access_log is not None:
        names.append(policy.observe.access_log.path)
    return [Path(name) for name in names if name not in ("-", "stderr", "stdout")]


def _access_log(policy: Policy, own: Log, rng: random.Random) -> AccessLog | None:
    settings = policy.observe.access_log
    if settings is None:
        return None
    return AccessLog(settings.path, complain=own.complain, chance=rng.random, sample=settings.sample)
