"""Socket side of a client connection: back-pressure both ways, end of connection, and lingering after a refusal."""

import asyncio
from typing import Final

from backends.http1.timer_wheel import TimerWheel
from gateway.http.request import ClientRequest
from gateway.http.timers import ConnectionTimers, WireSettings

# Back-pressure begins at this many unsent bytes; at most one upstream read (64 KiB) is added to it.
WRITE_HIGH_WATER: Final = 64 * 1024
# How much a refused client may go on sending while it is waited for (`gateway.http.timers`).
LINGER_BYTES: Final = 64 << 20


class ClientConnection(asyncio.Protocol):
    """Base of `gateway.http.protocol.ClientProtocol`, which parses the bytes."""

    transport: asyncio.Transport

    def __init__(self, loop: asyncio.AbstractEventLoop, wheel: TimerWheel, settings: WireSettings) -> None:
        # What each request reads stands in the instance: from the class it costs 40 ns more (Python 3.11).
        self.loop = loop
        self.request: ClientRequest | None = None
        """The request under way, or the last one."""
        self.address = "unix"
        """The client's address without its port."""
        self.write_paused = False
        self._read_paused = False
        self._lingered = -1
        """Bytes that a refused client has sent since; -1 for one that was not refused."""
        self._settings = settings
        self._clocks = ConnectionTimers(loop=loop, wheel=wheel, settings=settings, owner=self)
        self.limit = self._clocks.limit

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            self.address = str(peer[0])
        self.transport.set_write_buffer_limits(high=WRITE_HIGH_WATER)
        self._clocks.start(self.transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._clocks.stop()
        self._left()

    def eof_received(self) -> None:
        """A FIN is leaving, as in nginx: it can't be told from a close. Returning None closes the transport."""
        self._left()

    def _left(self) -> None:
        """The client has left."""
        raise NotImplementedError

    def head_late(self) -> None:
        raise NotImplementedError

    def body_late(self) -> None:
        raise NotImplementedError

    def limit_passed(self) -> None:
        raise NotImplementedError

    def reader_stalled(self) -> None:
        """Abort the connection of a client that has stopped reading."""
        self._settings.timed_out("write")
        if self.request is not None:
            self.request.stalled = True
        self.transport.abort()

    def await_body(self, request: ClientRequest) -> None:
        """Start the body timer at the first wait for more of a request's body: before that no timer is needed."""
        timeout = self._settings.body_timeout
        if timeout is not None and request.body_due is None:
            left = timeout - (self._settings.clock() - request.started)
            request.body_due = self.loop.time() + left
            self._clocks.watch_body(left)

    @property
    def idle_since(self) -> float | None:
        """Time since which no request is under way, by the loop's clock; None while one is."""
        return self._clocks.idle_since

    # -- a refused client

    def linger(self) -> None:
        """Let a client that still sends read our answer: a close now would reset the connection under it."""
        self._lingered = 0
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.resume_reading()
        self._clocks.linger(lambda: self._lingered)

    def _discard(self, size: int) -> None:
        """Discard bytes that a refused client still sends."""
        self._lingered += size
        if self._lingered > LINGER_BYTES:
            self.transport.abort()

    # -- back-pressure

    def _pause_reading(self) -> None:
        if not self._read_paused:
            self._read_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """The pipeline wants more of the body, or it is the next request's turn."""
        if self._read_paused:
            self._read_paused = False
            self.transport.resume_reading()

    def pause_writing(self) -> None:
        self.write_paused = True
        if self._lingered >= 0:
            return
        if self.request is not None and self.request.pump is not None:
            self.request.pump.pause()
        self._clocks.write_paused()

    def resume_writing(self) -> None:
        self.write_paused = False
        self._clocks.write_resumed()
        if self.request is not None and self.request.pump is not None:
            self.request.pump.resume()
