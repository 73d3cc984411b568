"""The client's side of the wire: uvicorn's server with a protocol of ours. The only module that imports uvicorn, zttp and uvloop.

uvicorn gives sockets, parsing (zttp) and ASGI; `ClientProtocol` adds what a gateway needs and uvicorn lacks: a client's leaving is told at once,
also by a FIN and also while a pipelined request waits; replies are written by direct calls (an ASGI message a chunk costs 3 us more);
a stalled reader is given up; every refusal has our error body.
"""

import asyncio
import functools
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

import uvloop
import zttp
from uvicorn import Config, Server
from uvicorn.protocols.http.zttp_impl import RequestResponseCycle, ZttpProtocol

from backends.wheel import TimerWheel
from gateway.errors import GatewayError, HeadersTooLarge, InvalidRequest, error_body

Headers = list[tuple[bytes, bytes]]
ASGIApp = Callable[[Any, Any, Any], Awaitable[None]]

# A pipelining client may send this much ahead of its turn; beyond it we stop reading, and then its leaving goes unseen until its turn.
AHEAD_LIMIT = 64 * 1024
# Back-pressure begins at this many unsent bytes; at most one upstream read (64 KiB) is added to it.
WRITE_HIGH_WATER = 64 * 1024
# How long, and for how many bytes, a refused client may go on sending before we stop listening (RFC 9112 section 9.6).
LINGER_SECONDS, LINGER_BYTES = 2.0, 1 << 20
# An idle keep-alive connection of a client ends after this long: above the 60 s that common load balancers keep theirs.
CLIENT_KEEP_ALIVE = 75.0


class Pump(Protocol):
    """What feeds a reply: told to pause while the client reads too slowly."""

    def pause(self) -> None: ...
    def resume(self) -> None: ...


@dataclass(frozen=True, slots=True)
class WireSettings:
    """Limits of a client connection: sizes in bytes, times in seconds."""

    clock: Callable[[], float]
    """Monotonic, in seconds."""
    max_head: int = 32 * 1024
    write_timeout: float | None = 60.0
    keep_alive: float = CLIENT_KEEP_ALIVE


class ClientCycle(RequestResponseCycle):
    """One client request with its reply: ASGI for control routes, direct calls (`start`, `write`, `finish`, `cut`) for the pipeline."""

    protocol: "ClientProtocol"
    head_started: float = 0.0
    on_gone: Callable[[], None] | None = None
    pump: Pump | None = None
    stalled = False
    plain = False
    """An HTTP/1.0 client and a body of unknown length: unframed bytes, then close."""

    def start(self, status: int, headers: Headers, *, length_known: bool) -> None:
        """Queue the head of the reply; it leaves with the first `write` or `finish`."""
        self.response_started = True
        self.waiting_for_100_continue = False
        self.bodyless = self.scope["method"] == "HEAD" or status in (204, 304)
        if self.more_body or not self.keep_alive:
            headers = [*headers, (b"connection", b"close")]
        if not self.bodyless and not length_known:
            if self.scope["http_version"] == "1.0":
                self.plain, self.keep_alive = True, False
                head = [b"HTTP/1.1 %d \r\n" % status, *(b"%b: %b\r\n" % pair for pair in headers), b"connection: close\r\n\r\n"]
                self.transport.write(b"".join(head))
                return
            self.chunked_encoding = True
            headers = [*headers, (b"transfer-encoding", b"chunked")]
        self.conn.send_response(status, headers)

    def write(self, data: bytes) -> None:
        """Send body bytes now; back-pressure comes through `pump`."""
        if self.plain:
            self.transport.write(data)
        elif not self.bodyless:
            self.conn.send_data(data)
            self.transport.write(self.conn.data_to_send())

    def finish(self, data: bytes = b"") -> None:
        """Send the last bytes and end the reply cleanly; the connection goes on to the next request if both sides want it."""
        self.response_complete = True
        self.message_event.set()
        if self.plain:
            self.transport.write(data)
        else:
            if data and not self.bodyless:
                self.conn.send_data(data)
            self.conn.end_message()
            self.transport.write(self.conn.data_to_send())
        if self.more_body:
            self.protocol.linger()
        elif not self.keep_alive or self.conn.should_close():
            self.transport.close()
        self.on_response()

    def cut(self) -> None:
        """Close the connection once what was written has left, without the terminating chunk: the client sees a broken body."""
        self.response_complete = True
        self.message_event.set()
        if not self.plain:
            self.transport.write(self.conn.data_to_send())
        self.transport.close()


class ClientProtocol(ZttpProtocol):
    """One client connection."""

    def __init__(
        self, config: Config, server_state: Any, app_state: Any, _loop: Any = None, *, wheel: TimerWheel, settings: WireSettings
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._wheel = wheel
        self._settings = settings
        self._ahead = 0
        self._head_bytes = 0
        self._lingered = -1
        self._idle_since = self.loop.time()
        self._idle_entry: Any = None
        self._stall_entry: Any = None
        self._stall_size = 0

    # -- the connection's life

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self.transport.set_write_buffer_limits(high=WRITE_HIGH_WATER)
        self._idle_entry = self._wheel.arm(self._settings.keep_alive, self._idle)

    def connection_lost(self, exc: Exception | None) -> None:
        for entry in (self._idle_entry, self._stall_entry):
            if entry is not None:
                self._wheel.cancel(entry)
        self._idle_entry = self._stall_entry = None
        super().connection_lost(exc)
        self._client_left()

    def eof_received(self) -> None:
        """A FIN is leaving, as in nginx: it can't be told from a close. Returning None closes the transport."""
        self._client_left()

    def _client_left(self) -> None:
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            return
        cycle.disconnected = True
        cycle.message_event.set()
        callback, cycle.on_gone = cycle.on_gone, None
        if callback is not None:
            callback()
        if not self.transport.is_closing() and self.flow.write_paused:
            self.transport.abort()

    def _idle(self) -> None:
        """One lazy timer a connection, not one a request: it looks when the connection last became idle."""
        busy = self.cycle is not None and not self.cycle.response_complete
        left = self._settings.keep_alive - (self.loop.time() - self._idle_since)
        if not busy and left <= 0:
            self._idle_entry = None
            self.transport.close()
        else:
            self._idle_entry = self._wheel.arm(self._settings.keep_alive if busy else left, self._idle)

    def linger(self) -> None:
        """Let a client that still sends read our answer: a close now would reset the connection under it."""
        self._lingered = 0
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._stall_entry = self._wheel.arm(LINGER_SECONDS, self.transport.abort)

    # -- reading

    def data_received(self, data: bytes) -> None:
        if self._lingered >= 0:
            self._lingered += len(data)
            if self._lingered > LINGER_BYTES:
                self.transport.abort()
            return
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            self._head_bytes += len(data)
        elif not cycle.more_body:
            self._ahead += len(data)
            if self._ahead > AHEAD_LIMIT:
                self.flow.pause_reading()
        try:
            self.handle_events(self.conn.receive_event(data))
        except zttp.RemoteProtocolError as error:
            self._refuse(str(error))
            return
        if self._head_bytes > self._settings.max_head and (self.cycle is None or self.cycle.response_complete):
            self._refuse("message exceeded configured size limit")

    def handle_events(self, event: Any) -> None:
        while event is not zttp.NEED_DATA and event is not zttp.CONNECTION_CLOSED:
            kind = type(event)
            if kind is zttp.Request:
                self._begin(event)
            elif kind is zttp.Data:
                self.cycle.body += event.data
                if len(self.cycle.body) > AHEAD_LIMIT:
                    self.flow.pause_reading()
                self.cycle.message_event.set()
            elif kind is zttp.EndOfMessage:
                self.cycle.more_body = False
                self.cycle.message_event.set()
            event = self.conn.next_event()

    def _begin(self, event: Any) -> None:
        headers = event.headers.to_list(lowercase_names=True)
        raw_path = event.path
        self.scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": event.http_version.decode("ascii"),
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,
            "method": event.method.decode("ascii"),
            "root_path": "",
            "path": raw_path.decode("latin-1"),
            "raw_path": raw_path,
            "query_string": event.query,
            "headers": headers,
        }
        self.cycle = cycle = ClientCycle(
            scope=self.scope,
            conn=self.conn,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=[],
            message_event=asyncio.Event(),
            expect_100_continue=event.expect_continue,
            on_response=self.on_response_complete,
        )
        cycle.protocol = self
        cycle.head_started = self._settings.clock()
        cycle.more_body = not event.end_stream
        self.scope["extensions"] = {"sluice": cycle}
        head_bytes, self._head_bytes = self._head_bytes, 0
        if head_bytes > self._settings.max_head and _head_size(event, headers) > self._settings.max_head:
            self._refuse("message exceeded configured size limit")
            return
        task = self.loop.create_task(cycle.run_asgi(self.app))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    def on_response_complete(self) -> None:
        """The reply has ended: read the next request, which may have been waiting."""
        self.server_state.total_requests += 1
        if self.transport.is_closing() or self._lingered >= 0:
            return
        self._idle_since = self.loop.time()
        self._head_bytes, self._ahead = self._ahead, 0
        self.flow.resume_reading()
        self.conn.start_next_cycle()
        try:
            self.handle_events(self.conn.next_event())
        except zttp.RemoteProtocolError as error:
            self._refuse(str(error))

    # -- writing

    def pause_writing(self) -> None:
        self.flow.pause_writing()
        if self._lingered >= 0:
            return
        if self.cycle is not None and self.cycle.pump is not None:
            self.cycle.pump.pause()
        if self._settings.write_timeout is not None and self._stall_entry is None:
            self._stall_size = self.transport.get_write_buffer_size()
            self._stall_entry = self._wheel.arm(self._settings.write_timeout, self._stalled)

    def resume_writing(self) -> None:
        self.flow.resume_writing()
        if self._stall_entry is not None and self._lingered < 0:
            self._wheel.cancel(self._stall_entry)
            self._stall_entry = None
        if self.cycle is not None and self.cycle.pump is not None:
            self.cycle.pump.resume()

    def _stalled(self) -> None:
        """The client read nothing for `write_timeout`: give it up. One that reads slowly gets as long again."""
        self._stall_entry = None
        size = self.transport.get_write_buffer_size()
        if size < self._stall_size and self._settings.write_timeout is not None:
            self._stall_size = size
            self._stall_entry = self._wheel.arm(self._settings.write_timeout, self._stalled)
            return
        if self.cycle is not None:
            self.cycle.stalled = True
        self.transport.abort()

    def _refuse(self, why: str) -> None:
        """Answer a request that is not HTTP, or too large a head, and stop."""
        error: GatewayError = InvalidRequest(f"The request is not valid HTTP/1.1: {why}.")
        if "size limit" in why:
            error = HeadersTooLarge(f"The request's head is over {self._settings.max_head} bytes: send a shorter URL or fewer headers.")
        begun = self.cycle is not None and not self.cycle.response_complete and self.cycle.response_started
        if not begun:
            body = error_body(error, "openai")
            self.transport.write(
                b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b"
                % (error.status, error.code.encode(), len(body), body)
            )
        self._client_left()
        self.linger()


def _head_size(event: Any, headers: Headers) -> int:
    return len(event.target) + sum(len(name) + len(value) + 4 for name, value in headers)


class Listener:
    """One listening address with its uvicorn server, without uvicorn's signal handling and main loop (ours are in `gateway.app`)."""

    def __init__(self, app: ASGIApp, address: str, *, wheel: TimerWheel, settings: WireSettings) -> None:
        self._address = address
        self._socket: socket.socket | None = None
        protocol: Any = functools.partial(ClientProtocol, wheel=wheel, settings=settings)
        config = Config(
            app, http=protocol, loop="none", ws="none", lifespan="off", log_config=None, access_log=False,
            proxy_headers=False, server_header=False, date_header=False, backlog=4096,
        )  # fmt: skip
        self._server = Server(config)

    @property
    def address(self) -> str:
        """Where it listens, as `host:port` or `unix:PATH`, with the port that the system chose for 0."""
        if self._socket is None or self._address.startswith("unix:"):
            return self._address
        host, port = self._socket.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    @property
    def connections(self) -> int:
        """Client connections open now."""
        return len(self._server.server_state.connections)

    @property
    def tasks(self) -> int:
        """Requests being answered now."""
        return len(self._server.server_state.tasks)

    def bind(self) -> None:
        """Take the address. Raises OSError with a message that says what to do."""
        try:
            self._socket = _bind(self._address)
        except OSError as error:
            raise OSError(error.errno, f"cannot listen on {self._address}: {error.strerror}; is another program using it?") from error

    async def start(self) -> None:
        """Accept connections."""
        assert self._socket is not None, "bind first"
        config = self._server.config
        config.load()
        self._server.lifespan = config.lifespan_class(config)
        await self._server.startup(sockets=[self._socket])

    async def stop(self, grace: float = 1.0) -> None:
        """Accept nothing more, end idle connections, cancel what runs (it tells its clients), and after `grace` seconds cut what is left."""
        if not self._server.started:
            return
        for server in self._server.servers:
            server.close()
        state = self._server.server_state
        for connection in list(state.connections):
            connection.shutdown()
        running = list(state.tasks)
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running, timeout=grace)
        for connection in list(state.connections):
            connection.transport.abort()


def _bind(address: str) -> socket.socket:
    if address.startswith("unix:"):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.bind(address.removeprefix("unix:"))
        return sock
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, int(port)))
    except OSError:
        sock.close()
        raise
    return sock


def run(main: Callable[[], Awaitable[int]]) -> int:
    """Run a coroutine function on uvloop to its end and return its exit status."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main())  # type: ignore[arg-type]
