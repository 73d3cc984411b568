"""The upstream connections of one endpoint: kept ones newest first, new ones within a timeout."""

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from backends.http1.connection import READ_SIZE, UpstreamConnection
from backends.http1.interface import Origin, UpstreamError
from backends.http1.resolver import Address, Resolver
from backends.http1.timer_wheel import Timer, TimerWheel
from backends.http1.tls import client_context

Resolve = Callable[[str, int], Awaitable[list[Address]]]

# The deadline of `connect` is what ends a slow handshake; asyncio wants a number of its own.
_HANDSHAKE_TIMEOUT: Final = 3600.0
_DESCRIPTORS: Final = frozenset({errno.EMFILE, errno.ENFILE})


def read_buffer() -> memoryview:
    """A buffer to be shared by all pools of one event loop: 64 KiB instead of 64 KiB a connection."""
    return memoryview(bytearray(READ_SIZE))


class ConnectionPool:
    """Keep-alive connections to one origin. The one that became idle last is taken first: it is the least likely to be
    closed, and what a burst opened beyond need idles out.

    `keep_alive`: seconds for which an idle connection is kept; a server's shorter `Keep-Alive: timeout=N` is obeyed.
    `context`: what `tls.client_context` made, where several pools share one (making it takes 10 ms or more).
    Raises OSError when the CA file of `origin.tls` can't be loaded.
    """

    def __init__(
        self,
        origin: Origin,
        *,
        keep_alive: float,
        wheel: TimerWheel,
        buffer: memoryview | None = None,
        resolve: Resolve | None = None,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self.origin: Final = origin
        self._keep_alive: Final = keep_alive
        self._wheel: Final = wheel
        self._time: Final = wheel.time
        self._buffer: Final = read_buffer() if buffer is None else buffer
        self._resolve: Final = Resolver(wheel.time).resolve if resolve is None else resolve
        self._tls: Final = client_context(origin.tls) if origin.tls is not None and context is None else context
        # In the order in which they became idle.
        self._idle: dict[UpstreamConnection, None] = {}
        self._active: set[UpstreamConnection] = set()
        self._sweep_at = 0.0
        self._sweeper: Timer | None = None
        self._closed = False

    @property
    def active(self) -> int:
        """Connections that are in the hands of a caller."""
        return len(self._active)

    @property
    def idle(self) -> int:
        return len(self._idle)

    def yielded_since(self, moment: float) -> bool:
        """Return whether a connection in use has received bytes of an answer since `moment`."""
        return any(connection.yielded_at > moment for connection in self._active)

    def take(self) -> UpstreamConnection | None:
        """The connection that became idle last, if it has not idled too long."""
        idle = self._idle
        if not idle:
            return None
        now = self._time()
        while idle:
            connection, _ = idle.popitem()
            self._active.add(connection)
            if connection.idle_until > now:
                return connection
            connection.abort()
        return None

    async def connect(self, timeout: float) -> UpstreamConnection:
        """A new connection, in `timeout` seconds for name, TCP and TLS together.

        Raises UpstreamError (dns, refused, connect_timeout, tls, no_descriptor). Cancelled at any point it leaves no
        socket behind.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        with _own_errors(self.origin):
            async with asyncio.timeout_at(deadline):
                addresses = await self._resolve(self.origin.host, self.origin.port)
                if not addresses:
                    raise socket.gaierror(socket.EAI_NONAME, "the name has no address")
                for left in range(len(addresses), 1, -1):
                    # A dead address must leave time for the others.
                    share = (deadline - loop.time()) / left
                    try:
                        async with asyncio.timeout(share):
                            return await self._dial(loop, *addresses[-left])
                    except OSError as error:
                        if _out_of_descriptors(error):
                            raise
                return await self._dial(loop, *addresses[-1])

    def close(self) -> None:
        """Close what is idle now, and what is in use when its exchange ends."""
        self._closed = True
        for connection in list(self._idle):
            connection.abort()

    async def _dial(self, loop: asyncio.AbstractEventLoop, host: str, port: int) -> UpstreamConnection:
        connection = UpstreamConnection(self, self._buffer)
        options: dict[str, Any] = {}
        tls = self.origin.tls
        if self._tls is not None and tls is not None:
            options = {
                "ssl": self._tls,
                "server_hostname": tls.server_name or self.origin.host,
                "ssl_handshake_timeout": _HANDSHAKE_TIMEOUT,
            }
        try:
            await loop.create_connection(lambda: connection, host, port, **options)
        except BaseException:
            connection.abort()
            raise
        return connection

    # -- what connections tell us (http1.Owner)

    def opened(self, connection: UpstreamConnection) -> None:
        self._active.add(connection)

    def freed(self, connection: UpstreamConnection) -> None:
        limit = self._keep_alive
        told = connection.idle_limit
        if told is not None and told < limit:
            limit = told
        if self._closed or limit <= 0:
            connection.abort()
            return
        self._active.discard(connection)
        until = connection.idle_until = self._time() + limit
        self._idle[connection] = None
        if self._sweeper is None or until < self._sweep_at:
            self._sweep_in(limit, until)

    def closed(self, connection: UpstreamConnection) -> None:
        self._active.discard(connection)
        self._idle.pop(connection, None)

    def _sweep_in(self, seconds: float, at: float) -> None:
        self._sweep_at = at
        if self._sweeper is None:
            self._sweeper = self._wheel.arm(seconds, self._sweep)
        else:
            self._wheel.rearm(self._sweeper, seconds)

    def _sweep(self) -> None:
        """Close what has idled too long: one timer a pool, not one a connection, and none while all are in use."""
        self._sweeper = None
        now = self._time()
        for connection in [connection for connection in self._idle if connection.idle_until <= now]:
            connection.abort()
        if self._idle:
            until = min(connection.idle_until for connection in self._idle)
            self._sweep_in(until - now, until)


@contextmanager
def _own_errors(origin: Origin) -> Iterator[None]:
    """Foreign exceptions of connecting stop here."""
    try:
        yield
    except OSError as error:
        if _out_of_descriptors(error):
            raise UpstreamError("no_descriptor", str(error)) from error
        raise _of_os_error(error, origin) from error
    except UnicodeError as error:
        raise UpstreamError("dns", str(error)) from error


def _of_os_error(error: OSError, origin: Origin) -> UpstreamError:
    if isinstance(error, TimeoutError):
        return UpstreamError("connect_timeout", str(error) or "no connection in time")
    if isinstance(error, socket.gaierror):
        return UpstreamError("dns", str(error))
    # After TCP has connected only the handshake can be reset.
    handshake = isinstance(error, ConnectionError) and not isinstance(error, ConnectionRefusedError)
    if isinstance(error, ssl.SSLError) or (handshake and origin.tls is not None):
        return UpstreamError("tls", str(error))
    return UpstreamError("refused", str(error))


def _out_of_descriptors(error: OSError) -> bool:
    """Return whether the gateway itself lacked descriptors. A resolver that can't open its socket or its files says
    only that it knows no address, so that we look ourselves."""
    if not isinstance(error, socket.gaierror):
        return error.errno in _DESCRIPTORS
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as found:
        return found.errno in _DESCRIPTORS
    return False
