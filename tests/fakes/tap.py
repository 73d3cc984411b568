"""A TCP tap: hands bytes on in both directions as they come and keeps a copy of every connection.

    with Tap("127.0.0.1", 8001) as tap:       # clients connect to tap.port
        ...
        tap.connections[0].to_server          # every byte that the client's side sent

It runs in a thread with a loop of its own, so that blocking clients can be watched. It knows nothing of HTTP: a
half-close is handed on as a half-close and a reset as a reset, and a side that reads slowly slows the other down.
"""

import asyncio
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

_RESET = struct.pack("ii", 1, 0)


@dataclass(slots=True)
class Tapped:
    """One connection. Times are of `time.monotonic`, in seconds; None while it has not happened."""

    to_server: bytearray = field(default_factory=bytearray)
    to_client: bytearray = field(default_factory=bytearray)
    client_left: float | None = None
    server_left: float | None = None


class _Side(asyncio.Protocol):
    """One of the two sockets; `other` is the one that gets what this one reads."""

    def __init__(self, copy: bytearray, on_left: Callable[[], None], on_closed: Callable[["_Side"], None]) -> None:
        self._copy = copy
        self._on_left = on_left
        self._on_closed = on_closed
        self._ended = False
        # What was asked for before this side was connected.
        self._early: Callable[[], None] | None = None
        self._waiting: list[bytes | None] = []
        self.transport: asyncio.Transport | None = None
        self.other: _Side | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for data in self._waiting:
            self._write(data)
        self._waiting.clear()
        if self._early is not None:
            self._early()

    def data_received(self, data: bytes) -> None:
        self._copy += data
        assert self.other is not None
        self.other.take(data)

    def eof_received(self) -> bool:
        self._on_left()
        assert self.other is not None
        self._ended = True
        self.other.take(None)
        if not self.other._ended:
            return True
        # Both have said their last: asyncio closes this one on False once it has written everything.
        self.other.close()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._on_left()
        self._on_closed(self)
        if self.other is not None and exc is not None:
            self.other.reset()
        elif self.other is not None:
            self.other.close()

    def pause_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.resume_reading()

    def take(self, data: bytes | None) -> None:
        """Hand on bytes, or the end (None); kept until this side is connected."""
        if self.transport is None:
            self._waiting.append(data)
        else:
            self._write(data)

    def _write(self, data: bytes | None) -> None:
        assert self.transport is not None
        if self.transport.is_closing():
            return
        if data is None:
            self.transport.write_eof()
        else:
            self.transport.write(data)

    def reset(self) -> None:
        """Close with RST."""
        if self.transport is None:
            self._early = self.reset
        elif (sock := self.transport.get_extra_info("socket")).fileno() >= 0:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.transport.abort()

    def close(self) -> None:
        """Close once everything is written."""
        if self.transport is None:
            self._early = self.close
        else:
            self.transport.close()


class Tap:
    """Listens on a free port of 127.0.0.1 between `with` and its end; every connection gets one to the server."""

    def __init__(self, host: str, port: int) -> None:
        self._server = (host, port)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=f"tap-{port}", daemon=True)
        self._open: set[_Side] = set()
        self._dials: set[asyncio.Task[None]] = set()
        self.connections: list[Tapped] = []
        self.port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    async def _listen(self) -> None:
        self._listener = await self._loop.create_server(self._accept, "127.0.0.1", 0)
        self.port = self._listener.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        self._listener.close()
        for dial in list(self._dials):
            dial.cancel()
        await asyncio.gather(*self._dials, return_exceptions=True)
        for side in list(self._open):
            side.reset()
        # The aborted transports close their sockets in the next turn of the loop.
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    def _accept(self) -> _Side:
        tapped = Tapped()
        self.connections.append(tapped)

        def client_left() -> None:
            tapped.client_left = tapped.client_left or time.monotonic()

        def server_left() -> None:
            tapped.server_left = tapped.server_left or time.monotonic()

        client = _Side(tapped.to_server, client_left, self._open.discard)
        server = _Side(tapped.to_client, server_left, self._open.discard)
        client.other, server.other = server, client
        self._open |= {client, server}
        dial = self._loop.create_task(self._dial(client, server))
        self._dials.add(dial)
        dial.add_done_callback(self._dials.discard)
        return client

    async def _dial(self, client: _Side, server: _Side) -> None:
        try:
            await self._loop.create_connection(lambda: server, *self._server)
        except OSError:
            self._open.discard(server)
            # The server refuses: the nearest to that on an accepted connection.
            client.reset()
