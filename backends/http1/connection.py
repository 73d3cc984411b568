"""One upstream HTTP/1.1 connection: the bytes of a request out, a validated response into a sink.

This is the hot path, and the door to httptools. llhttp does the framing. Everything is synchronous: a read of the
socket goes straight into the sink, with no task in between.
"""

import asyncio
from typing import Final, Protocol, cast

from httptools import HttpParserError, HttpResponseParser

from backends.http1.interface import Kind, Sink, UpstreamError
from backends.http1.response import ResponseReader

READ_SIZE: Final = 64 * 1024
"""Bytes of the read buffer: no more than this arrives after `pause()`."""
HEAD_LIMIT: Final = 64 * 1024
"""Bytes of a head, interim ones included; also of framing between two bytes of a body (chunk extensions, trailers)."""

# A copy of a small body is cheaper than a second buffer in the system call.
_JOIN_LIMIT: Final = 32 * 1024
_FIRST_BYTE: Final = ord("H")


class ConnectionOwner(Protocol):
    """The pool, as its connections see it."""

    def opened(self, connection: "UpstreamConnection", /) -> None:
        """Connected, handshake included."""

    def freed(self, connection: "UpstreamConnection", /) -> None:
        """An exchange is over and the connection can serve the next one."""

    def closed(self, connection: "UpstreamConnection", /) -> None:
        """Closed, by whomever and in whatever state."""


class UpstreamConnection(asyncio.BufferedProtocol):
    """A connection, idle in its pool or in use by one sink.

    `buffer` may be shared by all connections of a loop: whatever is read into it is used up before the loop goes on.
    """

    __slots__ = (
        "_began",
        "_buffer",
        "_failure",
        "_live",
        "_owner",
        "_paused",
        "_quiet",
        "_reader",
        "_reserved",
        "_sink",
        "_told",
        "_transport",
        "framed",
        "idle_until",
        "reused",
    )

    def __init__(self, owner: ConnectionOwner, buffer: memoryview) -> None:
        self._owner = owner
        self._buffer = buffer
        self._reader: ResponseReader
        self._transport: asyncio.Transport
        self._sink: Sink | None = None
        self._reserved: Sink | None = None
        self._failure = UpstreamError("no_answer", "closed before the request was sent")
        self._live = False
        self._paused = False
        self._began = False
        self._told = False
        self._quiet = 0
        self.reused = False
        """True once the connection has served an exchange."""
        self.framed = True
        """From `on_head` on: whether the body's end can be told from a broken connection; by EOF alone it can't."""
        self.idle_until = 0.0
        """Clock time until which the pool may hand it out."""

    @property
    def idle_limit(self) -> float | None:
        """Seconds for which the server lets it idle, where its last response said so."""
        return self._reader.idle_limit

    @property
    def unsent(self) -> int:
        """Bytes of the request that the kernel has not taken yet."""
        return self._transport.get_write_buffer_size() if self._live else 0

    # -- the caller's side

    @property
    def yielded_at(self) -> float:
        """`Sink.last_at` of the sink under way; 0.0 without one."""
        return self._sink.last_at if self._sink is not None else 0.0

    def reserve(self, sink: Sink) -> None:
        """Say for whom a request will be sent presently. Bytes that come before it is sent are still nobody's."""
        self._reserved = sink

    def reserved_by(self, sink: Sink) -> bool:
        """Return whether the connection still belongs to this sink; `abort` ends that."""
        return self._reserved is sink

    def send(self, head: bytes, body: bytes, sink: Sink, *, head_request: bool = False) -> None:
        """Write a whole request in one system call; its response goes to `sink`.

        `head` ends with the empty line. If the connection has died since it was taken, the sink hears of it in the
        loop's next turn, never from in here.
        """
        self._sink = sink
        self._reserved = None
        if not self._live:
            asyncio.get_running_loop().call_soon(self._report_death, sink)
            return
        self._quiet = 0
        self._reader.expect(bodiless=head_request)
        if len(body) > _JOIN_LIMIT:
            self._transport.writelines((head, body))
        else:
            self._transport.write(head + body)

    def pause(self) -> None:
        """Stop reading. What has been read is still delivered: at most READ_SIZE bytes, and the end if they hold it."""
        if self._live and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._paused:
            self._paused = False
            if self._live:
                self._transport.resume_reading()

    def abort(self) -> None:
        """Close the socket now; the sink hears nothing more. Safe in every state and inside the sink's own calls."""
        self._sink = self._reserved = None
        self._close()

    # -- the socket's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not subclasses.
        self._transport = cast(asyncio.Transport, transport)
        # Not before: parser and reader hold each other, and only a connection that was made lets them go (`_close`).
        self._reader = ResponseReader(HttpResponseParser)
        self._live = True
        self._owner.opened(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    # Long, because the usual answer comes in one read and then this is all that runs: a call less is 0.1 us less.
    def buffer_updated(self, nbytes: int) -> None:
        sink = self._sink
        if sink is None:
            self._unasked()
            return
        reader = self._reader
        problem = None
        data = self._buffer[:nbytes]
        # llhttp would skip empty lines, and speaks RTSP and ICE too.
        if not self._began and data[0] != _FIRST_BYTE:
            problem = "not HTTP"
        else:
            try:
                reader.parser.feed_data(data)
            except HttpParserError as error:
                problem = self._judge(reader, error, data)
        self._began = True
        if not self._told and reader.status and not self._announce(sink, reader, nbytes):
            return
        parts = reader.parts
        if parts:
            self._quiet = 0
            body = parts[0] if len(parts) == 1 else b"".join(parts)
            parts.clear()
            sink.on_data(body)
            if self._sink is not sink:
                return
        elif problem is None:
            problem = self._without_body(reader, nbytes)
        if problem is not None:
            self._fail(sink, UpstreamError("malformed", problem, begun=self._told))
        elif reader.complete:
            self._finish(sink, reader)

    def eof_received(self) -> None:
        self._gone(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone(exc)

    def _judge(self, reader: ResponseReader, error: HttpParserError, data: memoryview) -> str | None:
        """Return the fault in data that the parser refused; None where it is harmless."""
        if not reader.complete:
            return str(error.__context__ or error)
        # The response is whole, and something follows it; after the head that answers HEAD, perhaps nothing does.
        if reader.bodiless:
            reader.parser = HttpResponseParser(reader)
            if bytes(data).find(b"\r\n\r\n") == len(data) - 4:
                return None
        reader.keep = False
        return None

    def _without_body(self, reader: ResponseReader, nbytes: int) -> str | None:
        """Return the fault in a read that brought no body byte; None where there is none."""
        self._quiet += nbytes
        if self._quiet > HEAD_LIMIT and not reader.complete:
            return f"more than {HEAD_LIMIT} bytes of head or framing"
        return None

    def _announce(self, sink: Sink, reader: ResponseReader, nbytes: int) -> bool:
        """Tell of the head; whether the sink still wants the rest."""
        # What came before this read is in `_quiet`; only where the sum is over the limit the head itself is measured.
        if self._quiet + nbytes > HEAD_LIMIT and reader.head_size() > HEAD_LIMIT:
            self._fail(sink, UpstreamError("malformed", f"a head of more than {HEAD_LIMIT} bytes"))
            return False
        self._told = True
        # From here on it counts what frames the body; this read has had its turn.
        self._quiet = -nbytes
        self.framed = reader.framed
        sink.on_head(reader.status, reader.headers)
        return self._sink is sink

    def _unasked(self) -> None:
        """The endpoint speaks without a request: whatever it says must never meet the next one."""
        self._failure = UpstreamError("reset_reused" if self.reused else "malformed", "bytes that no request asked for")
        self._close()

    # -- the ends of an exchange: the sink is let go of before it is told, so that it may do anything

    def _finish(self, sink: Sink, reader: ResponseReader) -> None:
        self._sink = None
        # While the request is still being written nobody knows where the server will look for the next one.
        if reader.keep and reader.framed and not self._transport.get_write_buffer_size():
            self.reused = True
            self._began = self._told = False
            if self._paused:
                self.resume()
            self._owner.freed(self)
        else:
            self._close()
        sink.on_end()

    def _fail(self, sink: Sink, error: UpstreamError) -> None:
        self._sink = None
        self._close()
        sink.on_error(error)

    def _gone(self, exc: Exception | None) -> None:
        """The peer closed (`exc` is None) or the connection broke."""
        if not self._live:
            return
        detail = str(exc) if exc is not None else "closed by the endpoint"
        kind: Kind = "broken_off"
        if not self._told:
            kind = "reset_reused" if self.reused and not self._began else "no_answer"
        error = self._failure = UpstreamError(kind, detail, begun=self._told)
        sink = self._sink
        if sink is None:
            self._close()
        elif self._told and not self.framed and exc is None:
            self._sink = None
            self._close()
            sink.on_end()
        else:
            self._fail(sink, error)

    def _report_death(self, sink: Sink) -> None:
        if self._sink is sink:
            self._sink = None
            sink.on_error(self._failure)

    def _close(self) -> None:
        if self._live:
            self._live = False
            self._transport.abort()
            # Parser and reader hold each other, and so do a transport that is closed while it is still being made and
            # its connection: without this each connection would wait for the garbage collector.
            del self._reader.parser, self._transport
            self._owner.closed(self)
