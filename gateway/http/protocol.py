"""One client connection: uvicorn's place for a protocol, zttp's parser, and what a gateway needs and uvicorn's own
protocols lack.

A client's leaving is told at once, also by a FIN and also while a pipelined request waits; requests start without a
task; replies are written by direct calls; every refusal has our error body. Its times are kept by
`gateway.http.timers`.
"""

import asyncio
from typing import Any, Final

import zttp

from backends.http1.timer_wheel import TimerWheel
from gateway.http.active_request import ActiveRequest, RequestHandler
from gateway.http.asgi import AsgiRequest
from gateway.http.bad_requests import (
    MAX_LINE,
    PartialHead,
    RefusedRequest,
    head_size,
    nothing_waits,
    refusal,
    too_large,
)
from gateway.http.driver import RequestDriver
from gateway.http.request import ClientRequest
from gateway.http.timers import WireSettings

# A client may send this much ahead of its turn; beyond it we stop reading, and then its leaving goes unseen until
# its turn.
AHEAD_LIMIT: Final = 64 * 1024
_CR: Final = ord("\r")


class ClientProtocol(ActiveRequest):
    """Protocol of one accepted connection (`gateway.http.accept`), in the place of one of uvicorn's protocols."""

    def __init__(
        self,
        config: Any,
        server_state: Any,
        app_state: Any,
        _loop: Any = None,
        *,
        handler: RequestHandler | None,
        drivers: set[RequestDriver],
        wheel: TimerWheel,
        settings: WireSettings,
    ) -> None:
        """The first four are uvicorn's (0.54)."""
        super().__init__(
            _loop or asyncio.get_running_loop(), handler=handler, drivers=drivers, wheel=wheel, settings=settings
        )
        self.conn: Any = zttp.Connection(zttp.SERVER)
        self._app = config.loaded_app
        self._state = server_state
        self._handling = False
        self._ahead = 0
        self._head_bytes = 0
        self._fed = 0

    # -- the connection's life

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._state.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._state.connections.discard(self)
        super().connection_lost(exc)
        # It holds this: a reference cycle that only the garbage collector would find.
        if self.driver is None:
            self.request = None
        else:
            self.driver.ended = self._forget

    def _forget(self, driver: RequestDriver) -> None:
        self._driver_ended(driver)
        self.request = None

    def shutdown(self) -> None:
        """Finish the active request and take no more (uvicorn's interface). The connection waits for a request that
        has come in part, so that the client gets a 503."""
        if self.request is not None and self.answering:
            self.request.keep_alive = False
        elif not self._head_bytes and self._lingered < 0:
            self.transport.close()

    # -- reading

    def data_received(self, data: bytes) -> None:
        if self._lingered >= 0:
            self._discard(len(data))
            return
        request = self.request
        if request is None or request.complete:
            if data[0] == _CR and not self._head_bytes and (request is None or nothing_waits(request, self._fed)):
                # Some clients end a body with an empty line too many (RFC 9112 section 2.2); zttp takes it amiss.
                data = data.lstrip(b"\r\n")
                if not data:
                    return
            self._head_bytes += len(data)
        elif request.more_body:
            self._fed += len(data)
        else:
            self._wait_its_turn(len(data))
        try:
            event = self.conn.receive_event(data)
        except zttp.RemoteProtocolError as error:
            if self._head_bytes:
                self._note(data)
            self._refuse(refusal(str(error), self._partial, self._settings.max_head))
            return
        self._handle(event)
        if self._head_bytes and self._lingered < 0:
            self._head_grows(data)

    def _wait_its_turn(self, size: int) -> None:
        """A pipelined request, or the beginning of one."""
        self._ahead += size
        if self._ahead > AHEAD_LIMIT:
            self._pause_reading()

    def _head_grows(self, data: bytes) -> None:
        """A head is not whole yet."""
        partial = self._note(data)
        if self._head_bytes > self._settings.max_head:
            self._refuse(too_large(partial.line_whole, self._settings.max_head))

    def _note(self, data: bytes) -> PartialHead:
        """Remember what must be known of a head that does not come whole."""
        partial, settings = self._partial, self._settings
        if partial is None:
            partial = self._partial = PartialHead(settings.clock())
            self._clocks.head_began()
        partial.feed(data, min(settings.max_head, MAX_LINE))
        return partial

    def _handle(self, event: Any) -> None:
        """Take the parser's events, start the request that they complete, and go on with the next one that waits.

        A loop and not a recursion: a client may have pipelined a hundred requests that are all refused on the spot.
        """
        conn = self.conn
        self._handling = True
        try:
            while True:
                while event is not zttp.NEED_DATA:
                    kind = type(event)
                    if kind is zttp.Request:
                        self._head(event)
                    elif kind is zttp.Data:
                        self._body(event.data)
                    elif kind is zttp.EndOfMessage:
                        self._body_end()
                    else:
                        # Nothing else comes of a server's HTTP/1.1 connection that is never fed an end.
                        raise zttp.RemoteProtocolError(f"unexpected {kind.__name__}")
                    event = conn.next_event()
                if self._fresh and self.request is not None:
                    self._fresh = False
                    self._start(self.request)
                if not self._turn:
                    return
                self._turn = False
                conn.start_next_cycle()
                event = conn.next_event()
        except zttp.RemoteProtocolError as error:
            self._refuse(refusal(str(error), self._partial, self._settings.max_head))
        except RefusedRequest as refused:
            self._refuse(refused.error)
        finally:
            self._handling = False

    def _head(self, event: Any) -> None:
        headers = event.headers.to_list(lowercase_names=True)
        settings = self._settings
        self.request = ClientRequest(self, event, headers, settings.clock())
        self._clocks.busy()
        size = self._fed = self._head_bytes
        self._head_bytes = 0
        self._fresh = True
        if self._partial is not None:
            self._partial = None
            self._clocks.head_came()
        if size > settings.max_head and head_size(event, headers) > settings.max_head:
            raise RefusedRequest(too_large(len(event.target) <= settings.max_head, settings.max_head))

    def _body(self, data: bytes) -> None:
        request = self.request
        assert request is not None, "a body belongs to a request"
        request.parts.append(data)
        if not self._fresh:
            if sum(map(len, request.parts)) > AHEAD_LIMIT:
                self._pause_reading()
            request.arrived()

    def _body_end(self) -> None:
        request = self.request
        assert request is not None, "a body belongs to a request"
        request.more_body = False
        if not self._fresh:
            request.arrived()

    def _start(self, request: ClientRequest) -> None:
        coroutine = self._handler.open(request) if self._handler is not None else None
        if coroutine is not None:
            # As `_run` does it: a call less for each request.
            driver = self.driver = RequestDriver(coroutine, self.loop, self._driver_ended)
            self._drivers.add(driver)
            driver.start()
            return
        address = self.transport.get_extra_info("sockname")
        server = address[:2] if isinstance(address, tuple) else ("unix", 0)
        answer = AsgiRequest(request).answer(self._app, (request.client or self.address, 0), server)
        task = self.loop.create_task(answer, name=f"{request.method} {request.raw_path[:64]!r}")
        self._state.tasks.add(task)
        task.add_done_callback(self._state.tasks.discard)

    def replied(self) -> None:
        """A reply has ended: the next request may be waiting already."""
        self._state.total_requests += 1
        self._clocks.idle()
        if self._lingered >= 0 or self.transport.is_closing():
            return
        self._head_bytes, self._ahead = self._ahead, 0
        self.resume_reading()
        self._turn = True
        if not self._handling:
            self._handle(zttp.NEED_DATA)
            if self._head_bytes and self._lingered < 0:
                self._head_grows(b"")
