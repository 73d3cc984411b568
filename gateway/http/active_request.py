"""The request under way on a client connection: driven, ended by its clocks or by its client's leaving; refused where
it never was one."""

import asyncio
from collections.abc import Coroutine
from typing import Any, Protocol

from backends.http1.timer_wheel import TimerWheel
from gateway.errors import BodyTimeout, GatewayError, HeaderTimeout
from gateway.http.bad_requests import PartialHead, answer
from gateway.http.connection import ClientConnection
from gateway.http.driver import RequestDriver
from gateway.http.request import ClientGone, ClientRequest
from gateway.http.timers import WireSettings


class RequestHandler(Protocol):
    """Who takes requests."""

    def open(self, cycle: ClientRequest) -> Coroutine[Any, Any, None] | None:
        """The coroutine that answers a request, or None for one that is answered by the ASGI application."""

    def refuse(self, cycle: ClientRequest, error: GatewayError) -> Coroutine[Any, Any, None]:
        """The coroutine that answers what was no request; method and path are empty where nobody knows them."""


class ActiveRequest(ClientConnection):
    """What of a connection is about its one request; `gateway.http.protocol` reads them and takes them by turns."""

    conn: Any
    """The parser, which writes the replies' framing too."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        door: RequestHandler | None,
        drives: set[RequestDriver],
        wheel: TimerWheel,
        settings: WireSettings,
    ) -> None:
        """`drives` are those of all connections of a listener."""
        super().__init__(loop, wheel, settings)
        self._door = door
        self._drives = drives
        self.drive: RequestDriver | None = None
        """Who answers it; None where an ASGI application does."""
        self._partial: PartialHead | None = None
        """Of the next request, while its head is not whole."""
        self._fresh = False
        """Whether its head is here and nobody has been told of it."""
        self._turn = False
        """Whether it is over and the next one may be taken."""

    @property
    def answering(self) -> bool:
        """Whether a request is here of which the reply is not wholly given."""
        return self.cycle is not None and not self.cycle.complete

    @property
    def busy(self) -> bool:
        """Whether a reply is not wholly given, or has not wholly left."""
        return self.answering or self.transport.get_write_buffer_size() > 0

    # -- who answers

    def replied(self) -> None:
        """A reply has ended."""
        raise NotImplementedError

    def _drive(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self.drive = RequestDriver(coroutine, self.loop, self._drive_ended)
        self._drives.add(self.drive)
        self.drive.start()

    def _drive_ended(self, drive: RequestDriver) -> None:
        self._drives.discard(drive)
        if self.drive is drive:
            self.drive = None

    # -- who and what ends it

    def _left(self) -> None:
        cycle = self.cycle
        if cycle is None or cycle.complete or cycle.disconnected:
            return
        cycle.disconnected = True
        cycle.arrived()
        if self.drive is not None and (cycle.heirs is None or not cycle.heirs.left(self.drive)):
            self.drive.throw(ClientGone())
        if self.write_paused:
            self.transport.abort()

    def limit_passed(self) -> None:
        """Whether that ends the request under way, its timekeeper knows."""
        drive, cycle = self.drive, self.cycle
        if drive is None or cycle is None or cycle.timekeeper is None:
            return
        verdict = cycle.timekeeper.overdue(self._settings.clock())
        if isinstance(verdict, GatewayError):
            drive.throw(verdict)
        else:
            self.limit(verdict)

    def head_late(self) -> None:
        """A client that has sent nothing is not told: it is idle, or there to hold connections."""
        if self._partial is None:
            self.transport.close()
        else:
            self._settings.timed_out("header")
            self._refuse(HeaderTimeout("The request's head was not here in time (server.header_timeout)."))

    def body_late(self) -> None:
        cycle = self.cycle
        if cycle is None or cycle.complete or not cycle.more_body or cycle.body_due is None:
            return
        left = cycle.body_due - self.loop.time()
        if left > 0:
            self._clocks.watch_body(left)
        else:
            self._settings.timed_out("body")
            self._refuse(BodyTimeout("The request's body was not here in time (server.body_timeout)."))

    # -- what is no request

    def _refuse(self, error: GatewayError) -> None:
        """Answer what is not HTTP, too large or too late, and stop listening."""
        cycle, started = self.cycle, not self._fresh
        self._fresh = self._turn = False
        if cycle is None or cycle.complete:
            partial = self._partial or PartialHead(self._settings.clock())
            cycle = self.cycle = ClientRequest(self, partial.request(), [], partial.began)
            started = False
        # Whatever of it was read, what follows can't be: the reply says that the connection ends.
        cycle.more_body = True
        if not started and self._door is not None:
            self._drive(self._door.refuse(cycle, error))
        elif self.drive is not None:
            # Its body can't be read, or is late: the pipeline tells, counts and logs.
            self.drive.throw(error)
        elif not cycle.begun:
            answer(cycle, error)
            # A control route that reads the body has nobody to answer any more.
            cycle.disconnected = True
            cycle.arrived()
        if not cycle.complete:
            self._left()
            self.linger()
