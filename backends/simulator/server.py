"""One simulator on one port: in a test, or as a process of its own."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable
from types import TracebackType
from typing import Any

from backends.simulator.engine import SimulatedEngine
from backends.simulator.exchange import SimulatorRequest
from backends.simulator.faultspec import parse
from backends.simulator.gauges import EngineGauges
from backends.simulator.routes import SimulatorRoutes
from backends.simulator.settings import SimulatorSettings
from backends.simulator.ticker import Ticker
from backends.simulator.wire import SimulatorWire

BACKLOG = 2048


class Simulator:
    """An engine without a model, listening while the `async with` lasts.

        async with Simulator(Settings(tokens=8, gap=0.02)) as sim:
            ... sim.url ...
            await sim.until(lambda: sim.running == 0)

    With `record` the requests to it are kept in `requests`. Raises OSError where the port is taken.
    """

    def __init__(self, settings: SimulatorSettings | None = None, *, record: bool = True) -> None:
        self.settings = settings or SimulatorSettings()
        self.requests: list[SimulatorRequest] = []
        self.port = 0
        self._record = record
        self._routes: SimulatorRoutes
        self._wire: SimulatorWire
        self._engine: SimulatedEngine
        self._ticker: Ticker
        self._socket: socket.socket | None = None
        self._server: asyncio.Server | None = None
        self._waiters: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []

    @property
    def url(self) -> str:
        host = f"[{self.settings.host}]" if ":" in self.settings.host else self.settings.host
        return f"http://{host}:{self.port}"

    @property
    def running(self) -> int:
        """Sequences in a slot."""
        return self._engine.running

    @property
    def waiting(self) -> int:
        """Sequences in the queue."""
        return self._engine.waiting

    @property
    def received(self) -> int:
        """Requests so far, those to /simulator/ left out."""
        return self._routes.received

    @property
    def connections(self) -> int:
        """Open client connections."""
        return len(self._wire.connections)

    @property
    def gauges(self) -> EngineGauges:
        return self._engine.gauges

    async def __aenter__(self) -> Simulator:
        loop = asyncio.get_running_loop()
        self._ticker = Ticker(loop)
        self._engine = SimulatedEngine(self.settings, self._ticker, loop.time, EngineGauges())
        self._engine.changed = self._changed
        self._routes = SimulatorRoutes(self.settings, self._engine, self.refuse)
        self._wire = self._routes.wire = SimulatorWire(self._routes, self._ticker, self.settings.keep_alive)
        self._wire.changed = self._changed
        if self._record:
            self._routes.seen = self.requests
        self._socket = _bound(self.settings.host, self.settings.port)
        self.port = self._socket.getsockname()[1]
        await self._listen()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ticker.close()
        if self._server is not None:
            self._server.close()
        if self._socket is not None:
            self._socket.close()
        self._engine.close()
        for connection in tuple(self._wire.connections):
            connection.abort()
        # A turn of the loop for the transports to let go of their sockets.
        await asyncio.sleep(0)

    def fault(self, kind: str, **fields: Any) -> None:
        """Set a fault as POST /simulator/faults does; `for_` stands for the field `for`. Raises FaultError."""
        if "for_" in fields:
            fields["for"] = fields.pop("for_")
        self._routes.add_fault(parse({"kind": kind, **fields}))

    def clear_faults(self) -> None:
        self._routes.clear_faults()

    def refuse(self, seconds: float) -> None:
        """Refuse new connections for so long; those that are there stay. The port remains ours."""
        if self._server is None or self._socket is None:
            return
        # The listener that asyncio holds is a duplicate. After shutdown() Linux refuses connections, and keeps the
        # address bound.
        self._server.close()
        self._server = None
        self._socket.shutdown(socket.SHUT_RDWR)
        self._ticker.after(seconds, self._listen_again)

    def drop_connections(self) -> None:
        """RST on every client connection, as if the process had died."""
        for connection in tuple(self._wire.connections):
            if connection.exchange is not None:
                connection.exchange.gone()
            connection.reset()

    async def until(self, true: Callable[[], bool], within: float = 5.0) -> None:
        """Wait until this is true: asked when a connection or request comes, starts or ends. Raises TimeoutError."""
        if true():
            return
        future = asyncio.get_running_loop().create_future()
        self._waiters.append((true, future))
        try:
            async with asyncio.timeout(within):
                await future
        finally:
            self._waiters = [waiter for waiter in self._waiters if waiter[1] is not future]

    def _changed(self) -> None:
        for true, future in self._waiters:
            if not future.done() and true():
                future.set_result(None)

    async def _listen(self) -> None:
        assert self._socket is not None
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._wire.connection, sock=self._socket.dup(), backlog=BACKLOG)

    def _listen_again(self) -> None:
        # Held by the name: a task that nobody holds may be collected.
        self._opening = asyncio.get_running_loop().create_task(self._listen(), name="simulator listens again")


def _bound(host: str, port: int) -> socket.socket:
    """A socket with this address, or with a free port. Raises OSError where it is taken."""
    # asyncio turns Nagle off only on a socket that says TCP; without that a first event waits 40 ms.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    if port:
        return sock
    # A port that the kernel chose is let go by the shutdown of `refuse`; one that was asked for stays bound.
    with sock:
        return _bound(host, sock.getsockname()[1])


async def serve(settings: SimulatorSettings, ready: Callable[[str], None]) -> None:
    """Run until SIGTERM or SIGINT, which end it at once; `ready` is told the URL when the port listens."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with Simulator(settings, record=False) as simulator:
        ready(simulator.url)
        await stop.wait()
