"""One request and its answer, as what makes the answer sees them: whole bytes out, and word when the client has
left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from backends.simulator.wire import SimulatorConnection, SimulatorWire

Headers = Iterable[tuple[bytes, bytes]]


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
    """The answer to one request: `respond`, or `begin`, `send`... and `finish`. After the end, or once the client
    left, calls do nothing.

    `on_end(gone)` is called exactly once: when the last byte was handed over (False) or when the client left or was
    cut off (True). While `writable` is False the client is not reading: stop sending, `on_writable` is called when it
    goes on.
    """

    __slots__ = ("_connection", "ended", "keep_alive", "on_end", "on_writable", "request")

    def __init__(self, connection: SimulatorConnection, request: SimulatorRequest) -> None:
        self._connection = connection
        self.request = request
        self.keep_alive = request.keep_alive
        self.ended = False
        self.on_end: Callable[[bool], None] | None = None
        self.on_writable: Callable[[], None] | None = None

    @property
    def wire(self) -> SimulatorWire:
        return self._connection.wire

    @property
    def writable(self) -> bool:
        return not self._connection.paused

    def respond(self, status: int, headers: Headers, body: bytes) -> None:
        """A whole answer with its content-length (no body bytes for HEAD)."""
        if self.ended:
            return
        head = self.wire.head(status, headers, b"content-length: %d\r\n" % len(body), self.keep_alive)
        self._connection.write(head if self.request.method == "HEAD" else head + body)
        self._end(gone=False)

    def begin(self, status: int, headers: Headers) -> None:
        """The head of a chunked answer, sent now."""
        if not self.ended:
            self._connection.write(self.wire.head(status, headers, b"transfer-encoding: chunked\r\n", self.keep_alive))

    def send(self, events: Iterable[bytes]) -> None:
        """Each event in an HTTP chunk of its own, as uvicorn frames what vLLM yields; one write for all of them."""
        if not self.ended:
            self._connection.write(b"".join([b"%x\r\n%b\r\n" % (len(event), event) for event in events]))

    def finish(self) -> None:
        """The terminating chunk."""
        if not self.ended:
            self._connection.write(b"0\r\n\r\n")
            self._end(gone=False)

    def write(self, data: bytes) -> None:
        """Bytes as they are, for answers that are wrong on purpose."""
        if not self.ended:
            self._connection.write(data)

    def done(self) -> None:
        """What was written by hand is the whole answer."""
        self._end(gone=False)

    def close(self) -> None:
        """FIN after what was written, whether the answer is whole or not."""
        self._end(gone=True)
        self._connection.close()

    def reset(self) -> None:
        """RST, after what was written has left this machine; what the client has not read by then it can still read."""
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
