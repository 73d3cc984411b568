"""The life of a gateway, from the reading of its policy to its end. `Gateway` is the whole program, which
`gateway.process.run` runs until a signal ends it; what answers requests in it is put together in `gateway.wiring`."""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from backends.http1.timer_wheel import TimerWheel
from backends.probes.prober import Prober
from backends.workers.launch import WorkerLauncher
from backends.workers.supervisor import Supervisor, WorkerEvent
from gateway import __version__
from gateway.admin.actions import AdminActions
from gateway.admin.overview import Overview
from gateway.admin.routes import admin_routes, client_routes
from gateway.admin.status import GatewayStatus
from gateway.control.control_plane import ControlPlane
from gateway.control.policy_loader import StartError
from gateway.http.accept import most_clients
from gateway.http.listener import ClientListener
from gateway.http.timers import WireSettings
from gateway.limits.usage import UsageReporter
from gateway.observe.loop_lag import watch_lag
from gateway.observe.metrics import Metrics
from gateway.process.log_outputs import LogOutputs
from gateway.process.shutdown import Shutdown
from gateway.wiring import Wiring, WiringInputs
from policies.config.settings import Policy, ServerSettings


class Gateway:
    """The program: `async with Gateway(path)` starts it and ends it. Raises StartError where it can't start."""

    def __init__(self, policy_path: Path | str) -> None:
        self._path = Path(policy_path)
        self._lag: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Read the policy, listen, start the workers; serves from its return on."""
        rng, wall = random.Random(), time.time  # noqa: TID251  the wall clock: for what stands on a date
        self.metrics = Metrics(version=__version__)
        self.control = ControlPlane(self._path, metrics=self.metrics, supervise=self._supervisor)
        policy = self.control.policy
        self.metrics.limit_series(policy.observe.metrics.max_series, policy.observe.metrics.labels)
        self.logs = LogOutputs(policy.observe, rng)
        self.wheel = TimerWheel(asyncio.get_running_loop())
        means = WiringInputs(
            metrics=self.metrics, wheel=self.wheel, rng=rng, clock=time.monotonic, wall=wall,
            epoch=wall() - time.monotonic(),
        )  # fmt: skip
        self.data = Wiring(self.control, self.logs.access, means)
        self.plane = self.data.plane
        self._prober = self._make_prober()
        self._status = GatewayStatus(
            self.plane, self.metrics, self.logs.access, wall(), self.control, self.data.authentication,
            UsageReporter(lambda: self.data.limiter.store),
        )  # fmt: skip
        self._listen(policy.server)
        try:
            await self._open()
        except BaseException:
            await self._end()
            raise

    async def reload(self) -> None:
        """SIGHUP: read the files again, open the logs again."""
        self.logs.reopen()
        await self.control.reload("SIGHUP")

    async def leave(self, why: str, hurry: asyncio.Event) -> None:
        """End in order: lame duck, drain, then `stop`; whenever `hurry` is set, without more waiting."""
        server = self.control.policy.server
        shutdown = Shutdown(
            clients=self._clients, router=self.data.router, lame_duck=server.lame_duck, drain=server.drain, hurry=hurry,
            streams=lambda: int(self.metrics.open_streams.value), clock=time.monotonic,
        )  # fmt: skip
        self._status.leaving = True
        self.control.freeze()
        await shutdown.run(why)
        await self._end(hurry, shutdown.done)

    async def stop(self) -> None:
        """End now: no new work, clients under way are told, workers' groups are ended, logs are written."""
        hurry = asyncio.Event()
        hurry.set()
        await self._end(hurry)

    # -- looked at from outside

    @property
    def address(self) -> str:
        """Address of the client port: `host:port` or `unix:PATH`."""
        return self._clients.address

    @property
    def admin_address(self) -> str:
        """Address of the admin port."""
        return self._admin.address

    @property
    def client_connections(self) -> int:
        """Client connections open now."""
        return self._clients.connections

    @property
    def client_requests(self) -> int:
        """Client requests being answered now."""
        return self._clients.requests

    # -- what is started, and its end, in reverse

    async def _open(self) -> None:
        """Take the addresses before any worker is started: a busy port should cost nothing."""
        try:
            self._clients.bind()
            self._admin.bind()
            await self.control.start(self.plane, self._prober, self.data.follow)
        except OSError as error:
            raise StartError(error.strerror or str(error)) from None
        await self._admin.start()
        await self.data.stores.started()
        await self.data.cache.started()
        await self._clients.start()
        loop = asyncio.get_running_loop()
        self._lag = loop.create_task(watch_lag(self.metrics.loop_lag, loop), name="loop lag")

    async def _end(self, hurry: asyncio.Event | None = None, done: Callable[[], None] = lambda: None) -> None:
        """End open requests with an answer or abort them, then the workers, then the admin port: operators may look
        until then."""
        if self._lag is not None:
            self._lag.cancel()
        await self._clients.stop()
        await self._end_workers(hurry)
        await self._admin.stop()
        await self.data.webhooks.stop()
        await self.data.cache.stop()
        await self.data.stores.stop()
        self.plane.close()
        done()
        await self.logs.close()

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

    # -- the control side and the listeners

    def _make_prober(self) -> Prober:
        return Prober(
            plane=self.plane, report=self.plane.apply_verdict, meters=self.metrics, wheel=self.wheel,
            clock=time.monotonic, rng=random.Random(), agent=f"sluice-probe/{__version__}",
        )  # fmt: skip

    def _supervisor(
        self, policy: Policy, changed: Callable[[], None], report: Callable[[WorkerEvent], None]
    ) -> Supervisor:
        loop = asyncio.get_running_loop()
        launcher = WorkerLauncher(warn=logging.getLogger("sluice.worker").warning, clock=loop.time)
        return Supervisor(
            policy.pools, launcher=launcher, changed=changed, report=report, line=_worker_line, clock=loop.time,
            chance=random.Random().random, drained=self._drained,
        )  # fmt: skip

    async def _drained(self, worker: str) -> None:
        """Wait until no attempt is under way on a worker that is to go; the supervisor bounds it by `stop.drain`."""
        while self.plane.busy(worker):  # noqa: ASYNC110  nobody else waits for it, and not often
            await asyncio.sleep(0.05)

    def _listen(self, server: ServerSettings) -> None:
        """Make the listeners; they listen once they are opened."""
        wire = WireSettings(
            clock=time.monotonic, max_head=server.max_head, header_timeout=server.header_timeout,
            body_timeout=server.body_timeout, write_timeout=server.write_timeout,
        )  # fmt: skip
        self._clients = ClientListener(
            client_routes(self._status), str(server.listen), handler=self.data.router, wheel=self.wheel,
            settings=replace(wire, timed_out=self.metrics.timed_out), most=most_clients(),
        )  # fmt: skip
        console = AdminActions(Overview(self.plane, self.control, self.data.admission, time.monotonic), self.control)
        token = None if server.admin_token is None else server.admin_token.value
        operators = admin_routes(self._status, console, bound=server.admin, token=token)
        self._admin = ClientListener(operators, str(server.admin), handler=None, wheel=self.wheel, settings=wire)


def _worker_line(worker: str, text: str) -> None:
    """Log a line that a worker printed, under the worker's name."""
    # The text is the event, so that only what repeats itself is held back.
    logging.getLogger("sluice.worker").info(f"{worker}: {text}")
