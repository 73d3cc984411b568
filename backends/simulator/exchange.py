"""One request and its answer, as the code that makes the answer sees them: whole bytes out, and a call when the client
has left."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from backends.simulator.ticker import Ticker

Headers = Iterable[tuple[bytes, bytes]]


class ResponseHeads(Protocol):
    """Writer of response heads, with the server's timer (`backends.simulator.wire.SimulatorWire`)."""

    ticker: Ticker

    def head(self, status: int, headers: Headers, framing: bytes, keep_alive: bool) -> bytes: ...


class ResponseConnection(Protocol):
    """Connection that an answer is written to (`backends.simulator.wire.SimulatorConnection`)."""

    paused: bool

    @property
    def heads(self) -> ResponseHeads: ...
    def write(self, data: bytes) -> None: ...
    def next(self, keep_alive: bool) -> None: ...
    def close(self) -> None: ...
    def reset(self) -> None: ...


class SimulatorRequest:
    """One request, whole. `headers` has lower-case names; of a repeated one the last value."""

    __slots__ = ("body", "headers", "keep_alive", "method", "path", "query")

    def __init__(
        self, method: str, path: str, query: str, headers: dict[str, str], body: bytes, keep_alive: bool
    ) -> None:
        self.method = method
        self.path = path
        self.query = query
        self.headers = headers
        self.body = body
        self.keep_alive = keep_alive


class SimulatorExchange:
    """Answer to one request: `respond`, or `begin`, `send`... and `finish`. After the end, or once the client
    left, calls do nothing.

    `on_end(gone)` is called exactly once: when the last byte was handed over (False) or when the client left or was
    cut off (True). While `writable` is False the client is not reading: stop sending, `on_writable` is called when it
    goes on.
    """

    __slots__ = ("_connection", "ended", "keep_alive", "on_end", "on_writable", "request")

    def __init__(self, connection: ResponseConnection, request: SimulatorRequest) -> None:
        self._connection = connection
        self.request = request
        self.keep_alive = request.keep_alive
        self.ended = False
        self.on_end: Callable[[bool], None] | None = None
        self.on_writable: Callable[[], None] | None = None

    @property
    def wire(self) -> ResponseHeads:
        return self._connection.heads

    @property
    def writable(self) -> bool:
        return not self._connection.paused

    def respond(self, status: int, headers: Headers, body: bytes) -> None:
        """Send a whole answer with its content-length (no body bytes for HEAD)."""
        if self.ended:
            return
        head = self.wire.head(status, headers, b"content-length: %d\r\n" % len(body), self.keep_alive)
        self._connection.write(head if self.request.method == "HEAD" else head + body)
        self._end(gone=False)

    def begin(self, status: int, headers: Headers) -> None:
        """Send the head of a chunked answer now."""
        if not self.ended:
            self._connection.write(self.wire.head(status, headers, b"transfer-encoding: chunked\r\n", self.keep_alive))

    def send(self, events: Iterable[bytes]) -> None:
        """Send each event in an HTTP chunk of its own, as uvicorn frames vLLM's events; one write for all of them."""
        if not self.ended:
            self._connection.write(b"".join([b"%x\r\n%b\r\n" % (len(event), event) for event in events]))

    def finish(self) -> None:
        """Send the terminating chunk."""
        if not self.ended:
            self._connection.write(b"0\r\n\r\n")
            self._end(gone=False)

    def write(self, data: bytes) -> None:
        """Write bytes as they are, for answers that are wrong on purpose."""
        if not self.ended:
            self._connection.write(data)

    def done(self) -> None:
        """End an answer that was written by `write` alone."""
        self._end(gone=False)

    def close(self) -> None:
        """Send FIN after the written bytes, whether the answer is whole or not."""
        self._end(gone=True)
        self._connection.close()

    def reset(self) -> None:
        """Send RST once the written bytes have left this machine; the client can still read them."""
        self._end(gone=True)
        self._connection.reset()

    def gone(self) -> None:
        self._end(gone=True)

    def _end(self, *, gone: bool) -> None:
        if self.ended:
            return
        self.ended = True
        self.on_writable = None
        notify, self.on_end = self.on_end, None
        if notify is not None:
            notify(gone)
        if not gone:
            self._connection.next(self.keep_alive)
