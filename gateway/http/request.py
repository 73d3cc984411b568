"""One client request with its reply, on the wire: direct calls for the pipeline (`gateway.http.asgi` for control
routes)."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from gateway.errors import BodyTooLarge, GatewayError
from gateway.http.headers import Headers

if TYPE_CHECKING:
    from gateway.http.driver import RequestDriver


class ReadControl(Protocol):
    """Flow control of the source of a reply: paused while the client reads too slowly."""

    def pause(self) -> None: ...
    def resume(self) -> None: ...


class Timekeeper(Protocol):
    """Timeouts of the request under way, checked when the time limit that was set on the wire has passed."""

    def overdue(self, now: float) -> float | GatewayError | None:
        """Return the seconds until the next check, None for no limit, or the error to throw into the request. `now` is
        on the gateway's monotonic clock."""


class Successors(Protocol):
    """Subscribers that wait for the answer to a request beside its own client."""

    def client_left(self, driver: "RequestDriver") -> bool:
        """Notify that the client has left while `drive` answers the request. Return True if the request goes on
        because a subscriber takes the client's place."""


class ClientGone(Exception):
    """Raised where a request waits when its client has left."""


class ClientWire(Protocol):
    """Client connection, as its requests use it (`gateway.http.protocol.ClientProtocol`)."""

    transport: asyncio.Transport
    conn: Any
    loop: asyncio.AbstractEventLoop
    address: str
    write_paused: bool
    """True while more unsent bytes are queued for the client than the limit allows."""

    def resume_reading(self) -> None: ...
    def await_body(self, request: "ClientRequest") -> None:
        """Start the timeout of the rest of this request's body."""

    def replied(self) -> None: ...
    def linger(self) -> None: ...
    def limit(self, seconds: float | None) -> None:
        """Check the request's timeouts in so many seconds from now; the last call counts."""


class ClientRequest:
    """One client request and its reply: `start`, `write`, `finish` and `cut` write the reply and never wait.
    Back-pressure goes through `pump`."""

    # What most requests never change stands in the class: setting an attribute costs 20 ns.
    disconnected = False
    """The client has left."""
    begun = False
    """The reply's head has been given."""
    complete = False
    """The reply has ended, one way or another."""
    stalled = False
    keep_alive = True
    bodyless = False
    chunked = False
    plain = False
    """An HTTP/1.0 client and a body of unknown length: unframed bytes, then close."""
    pump: ReadControl | None = None
    timekeeper: Timekeeper | None = None
    """Timeouts of the request, checked when the wire's `limit` has passed; without them the total deadline is what has
    passed."""
    client: str | None = None
    """Client address from a trusted proxy, for the control routes; else the address of the connection."""
    body_due: float | None = None
    """Deadline of the body, by the loop's clock; None while the pipeline does not wait for the body."""
    head = b""
    """Head of a chunked reply, kept until the first chunk is written with it."""
    successors: "Successors | None" = None
    """Subscribers of the answer, notified when the client leaves; None without any."""
    _arrival: asyncio.Future[None] | None = None

    def __init__(self, wire: ClientWire, request: Any, headers: Headers, now: float) -> None:
        """`request` is zttp's; `now` the time of its arrival on the gateway's monotonic clock."""
        self.wire = wire
        self.method: str = request.method.decode("ascii")
        self.raw_path: bytes = request.path
        self.query: bytes = request.query
        self.http_version: bytes = request.http_version
        self.headers = headers
        self.started = now
        self.expects_continue: bool = request.expect_continue
        self.more_body: bool = not request.end_stream
        self.parts: list[bytes] = []

    # -- the request's body

    async def read_body(self, limit: int) -> bytes:
        """Return the whole body. Raises BodyTooLarge as soon as more than `limit` bytes came, BodyTimeout when the
        body takes longer than `server.body_timeout`. Sends `100 Continue` where the client expects it."""
        size, parts = 0, []
        while True:
            size += sum(map(len, self.parts))
            parts += self.parts
            self.parts = []
            if size > limit:
                raise BodyTooLarge(f"The body is over the limit of {limit} bytes (server.max_body).")
            if not self.more_body:
                return b"".join(parts)
            await self.more()

    async def more(self) -> None:
        """Wait until more of the body has come, or the client has left; BodyTimeout is thrown in where it is late."""
        self.wire.await_body(self)
        if self.expects_continue:
            self.expects_continue = False
            self.wire.conn.send_informational(100)
            self.wire.transport.write(self.wire.conn.data_to_send())
        self.wire.resume_reading()
        self._arrival = self.wire.loop.create_future()
        await self._arrival

    def arrived(self) -> None:
        """Resume the waiter: more of the body is there, or no more will come."""
        arrival, self._arrival = self._arrival, None
        if arrival is not None and not arrival.done():
            arrival.set_result(None)

    # -- the reply

    def start(self, status: int, headers: Headers, *, length_known: bool) -> None:
        """Queue the head; it leaves with the first `write` or `finish`."""
        self.expects_continue = False
        self.bodyless = self.method == "HEAD" or status in (204, 304)
        if self.more_body or not self.keep_alive:
            headers = [*headers, (b"connection", b"close")]
        chunked = not (length_known or self.bodyless)
        if chunked:
            if self.http_version == b"1.0":
                self.plain, self.keep_alive = True, False
                lines = [
                    b"HTTP/1.1 %d \r\n" % status,
                    *(b"%b: %b\r\n" % pair for pair in headers),
                    b"connection: close\r\n\r\n",
                ]
                self.wire.transport.write(b"".join(lines))
                self.begun = True
                return
            headers = [*headers, (b"transfer-encoding", b"chunked")]
        self.wire.conn.send_response(status, headers)
        # Not before: a head that can't be written must leave room for one that says so.
        self.begun = True
        self.chunked = chunked
        if chunked:
            self.head = self.wire.conn.data_to_send()

    def attach_source(self, pump: ReadControl) -> None:
        """Attach the source of the reply's body; it is paused at once if the client has not read enough of the
        previous answer."""
        self.pump = pump
        if self.wire.write_paused:
            pump.pause()

    def writer(self) -> Callable[[bytes], None]:
        """Return the function that writes the rest of a reply that has begun. Chunks of a stream, which are never
        empty, are framed here: this saves two calls into zttp and keeps its memory out of the processor's cache."""
        if not self.chunked or self.head:
            return self.write
        send = self.wire.transport.write

        def write_chunk(data: bytes) -> None:
            send(b"%x\r\n%b\r\n" % (len(data), data))

        return write_chunk

    def write(self, data: bytes) -> None:
        """Send body bytes now."""
        if not data:
            # An empty chunk would be the end.
            return
        wire = self.wire
        if self.chunked:
            head, self.head = self.head, b""
            wire.transport.write(b"%b%x\r\n%b\r\n" % (head, len(data), data))
        elif self.plain:
            wire.transport.write(data)
        elif not self.bodyless:
            wire.conn.send_data(data)
            wire.transport.write(wire.conn.data_to_send())

    def write_all(self, chunks: list[bytes]) -> None:
        """Send body bytes in one write, each chunk framed as `write` would."""
        if not self.chunked:
            self.write(b"".join(chunks))
            return
        head, self.head = self.head, b""
        self.wire.transport.write(head + b"".join([b"%x\r\n%b\r\n" % (len(data), data) for data in chunks]))

    def finish(self, data: bytes = b"") -> None:
        """Send the last bytes and end the reply; the connection goes on to the next request if both sides want it."""
        wire = self.wire
        self.complete = True
        if self.plain:
            wire.transport.write(data)
        else:
            conn = wire.conn
            if data and not self.bodyless:
                conn.send_data(data)
            conn.end_message()
            wire.transport.write(self.head + conn.data_to_send() if self.head else conn.data_to_send())
            if self.keep_alive and conn.should_close():
                self.keep_alive = False
        if self.more_body:
            wire.linger()
        elif not self.keep_alive:
            wire.transport.close()
        wire.replied()

    def cut(self) -> None:
        """Close once what was written has left, without the terminating chunk: the client sees a broken body."""
        self.complete = True
        if not self.plain:
            self.wire.transport.write(self.head + self.wire.conn.data_to_send())
        self.wire.transport.close()
