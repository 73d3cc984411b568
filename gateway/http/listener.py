"""Listening addresses: uvicorn's server without its signal handling and main loop (ours are in
`gateway.process.run`) and without its accepting (ours is in `gateway.http.accept`), on uvloop."""

import asyncio
import contextlib
import functools
import os
import socket
import stat
from collections.abc import Awaitable, Callable
from typing import Any, Final

import uvloop
from uvicorn import Config, Server

from backends.http1.timer_wheel import TimerWheel
from gateway.errors import shutting_down
from gateway.http.accept import ADMIN_CONNECTIONS, Acceptor
from gateway.http.active_request import RequestHandler
from gateway.http.driver import RequestDriver
from gateway.http.protocol import ClientProtocol
from gateway.http.timers import WireSettings

ASGIApp = Callable[[Any, Any, Any], Awaitable[None]]

# Connections that the kernel keeps for us; it may allow fewer (net.core.somaxconn).
BACKLOG: Final = 4096


class ClientListener:
    """Listener on one address. `handler` takes requests first; requests that it leaves, and all where it is None, go
    to the ASGI application."""

    def __init__(
        self,
        app: ASGIApp,
        address: str,
        *,
        handler: RequestHandler | None,
        wheel: TimerWheel,
        settings: WireSettings,
        most: int = ADMIN_CONNECTIONS,
    ) -> None:
        """`most` connections are open at once, at most."""
        self._wheel = wheel
        self._most = most
        self._acceptor: Acceptor | None = None
        self._address = address
        self._socket: socket.socket | None = None
        self._file: tuple[int, int] | None = None
        self._drivers: set[RequestDriver] = set()
        protocol: Any = functools.partial(
            ClientProtocol, handler=handler, drivers=self._drivers, wheel=wheel, settings=settings
        )
        self._config = Config(
            app, http=protocol, loop="none", ws="none", lifespan="off", log_config=None, access_log=False,
            proxy_headers=False, server_header=False, date_header=False,
        )  # fmt: skip
        self._state = Server(self._config).server_state
        self._protocol = functools.partial(protocol, self._config, self._state, {})

    @property
    def address(self) -> str:
        """Bound address as `host:port` or `unix:PATH`, with the port that the system chose for 0."""
        return self._address

    @property
    def connections(self) -> int:
        """Client connections open now."""
        return len(self._state.connections)

    @property
    def _connections(self) -> set[ClientProtocol]:
        # uvicorn's type names its own protocols only.
        return self._state.connections  # type: ignore[return-value]

    @property
    def requests(self) -> int:
        """Requests being answered now."""
        return len(self._drivers) + len(self._state.tasks)

    @property
    def busy(self) -> bool:
        """True while an answer is under way or has unsent bytes."""
        return any(connection.busy for connection in self._connections)

    def bind(self) -> None:
        """Bind the address. Raises OSError with a message for the operator."""
        try:
            self._socket = _bind(self._address)
            if self._address.startswith("unix:"):
                self._file = _identity(self._address.removeprefix("unix:"))
            else:
                host, port = self._socket.getsockname()[:2]
                self._address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        except OSError as error:
            raise OSError(
                error.errno, f"cannot listen on {self._address}: {error.strerror}; is another program using it?"
            ) from error

    async def start(self) -> None:
        """Accept connections."""
        assert self._socket is not None, "bind first"
        self._config.load()
        loop = asyncio.get_running_loop()
        self._socket.listen(BACKLOG)
        self._acceptor = Acceptor(
            self._socket, self._protocol, connections=self._connections, most=self._most, loop=loop, wheel=self._wheel
        )
        self._acceptor.start()

    def close(self) -> None:
        """Accept nothing more; connections that are there stay."""
        self._remove_file()
        if self._acceptor is not None:
            self._acceptor.stop()
        if self._socket is not None:
            self._socket.close()

    def let_go(self, *, idle: bool = True) -> None:
        """End each connection with the answer that it is waiting for, and if `idle` those that wait for none now."""
        for connection in list(self._connections):
            if idle or connection.answering:
                connection.shutdown()

    async def stop(self, grace: float = 1.0) -> None:
        """Stop accepting, close idle connections, answer running requests with shutting_down, and abort the rest after
        `grace` seconds."""
        self.close()
        if self._acceptor is not None:
            self.let_go()
            await self._end_requests(grace)
            await self._end_connections(grace)

    def _remove_file(self) -> None:
        """Take our socket file away, not one that another gateway has put in its place since. Before the socket is
        closed: until then the file system gives the file's number to no other."""
        if self._file is None:
            return
        path = self._address.removeprefix("unix:")
        with contextlib.suppress(FileNotFoundError):
            if _identity(path) == self._file:
                os.unlink(path)
        self._file = None

    async def _end_requests(self, grace: float) -> None:
        for driver in list(self._drivers):
            driver.throw(shutting_down())
        if self._state.tasks:
            await asyncio.wait(list(self._state.tasks), timeout=grace)

    async def _end_connections(self, grace: float) -> None:
        """Close all connections after the loop's next turns, in which answers leave; abort after `grace` seconds."""
        await asyncio.sleep(0.005)
        for connection in list(self._state.connections):
            connection.transport.close()
        ended = asyncio.get_running_loop().time() + grace
        while self._state.connections and asyncio.get_running_loop().time() < ended:  # noqa: ASYNC110  uvicorn has no event for it
            await asyncio.sleep(0.01)
        for connection in list(self._state.connections):
            connection.transport.abort()


def _identity(path: str) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_dev, found.st_ino


def _bind(address: str) -> socket.socket:
    if address.startswith("unix:"):
        return _bind_unix(address.removeprefix("unix:"))
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, int(port)))
    except OSError:
        sock.close()
        raise
    return sock


def _bind_unix(path: str) -> socket.socket:
    """Bind a Unix socket; a socket file that a killed gateway left behind, and on which no process answers, is
    replaced."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if os.path.exists(path) and stat.S_ISSOCK(os.stat(path).st_mode) and sock.connect_ex(path) != 0:
            os.unlink(path)
            sock.close()
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.bind(path)
    except OSError:
        sock.close()
        raise
    return sock


def run(main: Callable[[], Awaitable[int]]) -> int:
    """Run a coroutine function on uvloop to its end and return its exit status."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main())  # type: ignore[arg-type]
