"""The door to httptools, and the simulator's HTTP/1.1: requests off a socket, answers onto it byte for byte as they
were asked for.

A server library would mend, buffer or finish what a fault wants broken. Here an answer's bytes are written as they
are, a reset is a real RST (SO_LINGER 0), and an answer can end at any byte. One request at a time is answered on a
connection; one more is read ahead. Like uvicorn: a client's FIN counts as leaving, and an idle connection is closed
after `keep_alive` seconds.
"""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import termios
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol, cast

import httptools

from backends.simulator.exchange import Headers, SimulatorExchange, SimulatorRequest
from backends.simulator.ticker import Ticker

SERVER = b"sluice-simulator"
MAX_HEAD = 64 * 1024
"""Bytes of a request's head; llhttp itself has no limit."""
_PHRASES = {
    100: b"Continue",
    200: b"OK",
    204: b"No Content",
    307: b"Temporary Redirect",
    400: b"Bad Request",
    401: b"Unauthorized",
    403: b"Forbidden",
    404: b"Not Found",
    405: b"Method Not Allowed",
    408: b"Request Timeout",
    413: b"Content Too Large",
    422: b"Unprocessable Entity",
    429: b"Too Many Requests",
    431: b"Request Header Fields Too Large",
    500: b"Internal Server Error",
    501: b"Not Implemented",
    502: b"Bad Gateway",
    503: b"Service Unavailable",
    504: b"Gateway Timeout",
}


class Handler(Protocol):
    """Handler of requests."""

    def exchange(self, connection: SimulatorConnection, request: SimulatorRequest) -> SimulatorExchange:
        """Return the exchange through which the answer to this request goes."""

    def handle(self, exchange: SimulatorExchange) -> None:
        """Answer `exchange.request`, now or later."""


class SimulatorWire:
    """State that all connections of one simulator share: the handler, the timer, and the connections themselves."""

    def __init__(self, handler: Handler, ticker: Ticker, keep_alive: float) -> None:
        self.handler = handler
        self.ticker = ticker
        self.keep_alive = keep_alive
        self.connections: set[SimulatorConnection] = set()
        self.changed: Callable[[], None] = lambda: None
        """Called when a connection came or went."""
        self._date = (0, b"")

    def connection(self) -> SimulatorConnection:
        return SimulatorConnection(self)

    def date(self) -> bytes:
        now = int(time.time())  # noqa: TID251 - the Date field of RFC 9110 is wall time
        if self._date[0] != now:
            # Not email.utils.formatdate: its imports take 2 MB.
            self._date = (now, time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(now)).encode())
        return self._date[1]

    def head(self, status: int, headers: Headers, framing: bytes, keep_alive: bool) -> bytes:
        """The head of an answer: `framing` is its content-length or transfer-encoding line with CRLF, or nothing."""
        rows = b"".join(b"%b: %b\r\n" % row for row in headers)
        end = b"\r\n" if keep_alive else b"connection: close\r\n\r\n"
        return b"HTTP/1.1 %d %b\r\ndate: %b\r\nserver: %b\r\n%b%b%b" % (
            status,
            _PHRASES.get(status, b"Unknown"),
            self.date(),
            SERVER,
            framing,
            rows,
            end,
        )


class SimulatorConnection(asyncio.Protocol):
    """One client connection; also the callbacks of httptools' parser."""

    def __init__(self, wire: SimulatorWire) -> None:
        self.wire = wire
        self.paused = False
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._headers: dict[str, str] = {}
        self._head_size = 0
        self._body: list[bytes] = []
        self._ahead: deque[SimulatorRequest] = deque()
        self.exchange: SimulatorExchange | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._flushing = 0

    # -- asyncio

    @property
    def heads(self) -> SimulatorWire:
        """Writer of response heads."""
        return self.wire

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast, because uvloop's transports are not asyncio's by descent.
        self._transport = cast(asyncio.Transport, transport)
        self.wire.connections.add(self)
        self.wire.changed()

    def connection_lost(self, exc: Exception | None) -> None:
        self.wire.connections.discard(self)
        self._transport = None
        self._not_idle()
        self._ahead.clear()
        if self.exchange is not None:
            self.exchange.gone()
        self.wire.changed()

    def eof_received(self) -> None:
        # None: the transport closes, and with it the answer ends. A client that half-closes is taken to have left.
        return None

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        if self.exchange is not None and self.exchange.on_writable is not None:
            self.exchange.on_writable()

    def data_received(self, data: bytes) -> None:
        self._not_idle()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # As uvicorn: the request is answered as if nothing had been said, and is the connection's last.
            if self.exchange is None:
                self.close()
            else:
                self.exchange.keep_alive = False
        except httptools.HttpParserError:
            self._refuse(400, b"Invalid HTTP request received.")

    # -- httptools

    def on_message_begin(self) -> None:
        self._url = b""
        self._headers = {}
        self._head_size = 0
        self._body = []

    def on_url(self, url: bytes) -> None:
        self._url += url
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")
        self._count(len(name) + len(value))

    def on_headers_complete(self) -> None:
        if self._headers.get("expect", "").lower() == "100-continue" and self.exchange is None:
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        path, _, query = self._url.decode("latin-1").partition("?")
        request = SimulatorRequest(
            self._parser.get_method().decode("latin-1"),
            path,
            query,
            self._headers,
            b"".join(self._body),
            self._parser.should_keep_alive(),
        )
        if self.exchange is None and not self._ahead:
            self._handle(request)
            return
        self._ahead.append(request)
        if self._transport is not None:
            self._transport.pause_reading()

    # -- what an exchange may do

    def write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def next(self, keep_alive: bool) -> None:
        """The answer is written: close, take the request that was read ahead, or wait for one."""
        self.exchange = None
        if self._transport is None:
            return
        if not keep_alive:
            self._transport.close()
        elif self._ahead:
            # In a turn of its own: a thousand pipelined requests must not become a thousand nested calls.
            asyncio.get_running_loop().call_soon(self._handle_ahead)
        else:
            self._idle = asyncio.get_running_loop().call_later(self.wire.keep_alive, self.close)

    def close(self) -> None:
        self._not_idle()
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close without waiting for anything."""
        self._not_idle()
        if self._transport is not None:
            self._transport.abort()

    def reset(self) -> None:
        """RST once the kernel has sent what was written (SO_LINGER 0 throws away what it still holds), or after a
        second.
        """
        if self._transport is None:
            return
        sock = self._transport.get_extra_info("socket")
        unsent = self._transport.get_write_buffer_size() or _unsent(sock)
        if unsent and self._flushing < 1000:
            self._flushing += 1
            asyncio.get_running_loop().call_later(0.001, self.reset)
            return
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def _handle_ahead(self) -> None:
        if self._transport is not None and self._ahead:
            if len(self._ahead) == 1:
                self._transport.resume_reading()
            self._handle(self._ahead.popleft())

    def _handle(self, request: SimulatorRequest) -> None:
        self.exchange = exchange = self.wire.handler.exchange(self, request)
        self.wire.handler.handle(exchange)

    def _count(self, size: int) -> None:
        self._head_size += size
        if self._head_size > MAX_HEAD:
            self._refuse(431, b"Request head too large.")

    def _refuse(self, status: int, text: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            length = b"content-length: %d\r\n" % len(text)
            self.write(self.wire.head(status, [(b"content-type", b"text/plain; charset=utf-8")], length, False) + text)
            self._transport.close()

    def _not_idle(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None


def _unsent(sock: socket.socket) -> int:
    """Bytes that the other side has not acknowledged yet (Linux SIOCOUTQ)."""
    answer = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
    return int(struct.unpack("i", answer)[0])
