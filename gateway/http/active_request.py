"""The request under way on a client connection: started, ended by a timeout or by its client, or refused."""

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
    """Handler of the requests of a listener (`gateway.router.ClientRouter`)."""

    def open(self, request: ClientRequest) -> Coroutine[Any, Any, None] | None:
        """Return the coroutine that answers a request; None where the ASGI application answers."""

    def refuse(self, request: ClientRequest, error: GatewayError) -> Coroutine[Any, Any, None]:
        """Return the coroutine that answers a malformed request; method and path are empty where they are unknown."""


class ActiveRequest(ClientConnection):
    """Part of a client connection that manages its one active request; `gateway.http.protocol` parses requests and
    starts them one after another."""

    conn: Any
    """Parser, which also writes the framing of replies."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        handler: RequestHandler | None,
        drivers: set[RequestDriver],
        wheel: TimerWheel,
        settings: WireSettings,
    ) -> None:
        """`drivers` holds the drivers of all connections of a listener."""
        super().__init__(loop, wheel, settings)
        self._handler = handler
        self._drivers = drivers
        self.driver: RequestDriver | None = None
        """Driver of the active request; None where an ASGI application answers."""
        self._partial: PartialHead | None = None
        """Head of the next request while incomplete."""
        self._fresh = False
        """True while the request's head has been parsed and its handler has not been started."""
        self._turn = False
        """True once the request has ended and the next one may start."""

    @property
    def answering(self) -> bool:
        """True while the reply to the active request is incomplete."""
        return self.request is not None and not self.request.complete

    @property
    def busy(self) -> bool:
        """True while a reply is incomplete or has unsent bytes."""
        return self.answering or self.transport.get_write_buffer_size() > 0

    # -- who answers

    def replied(self) -> None:
        """A reply has ended."""
        raise NotImplementedError

    def _run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self.driver = RequestDriver(coroutine, self.loop, self._driver_ended)
        self._drivers.add(self.driver)
        self.driver.start()

    def _driver_ended(self, driver: RequestDriver) -> None:
        self._drivers.discard(driver)
        if self.driver is driver:
            self.driver = None

    # -- who and what ends it

    def _left(self) -> None:
        request = self.request
        if request is None or request.complete or request.disconnected:
            return
        request.disconnected = True
        request.arrived()
        if self.driver is not None and (request.successors is None or not request.successors.client_left(self.driver)):
            self.driver.throw(ClientGone())
        if self.write_paused:
            self.transport.abort()

    def limit_passed(self) -> None:
        """Check the timeouts of the active request, which throw an error into it or set the next check."""
        driver, request = self.driver, self.request
        if driver is None or request is None or request.timekeeper is None:
            return
        verdict = request.timekeeper.overdue(self._settings.clock())
        if isinstance(verdict, GatewayError):
            driver.throw(verdict)
        else:
            self.limit(verdict)

    def head_late(self) -> None:
        """Close an idle connection without an answer; refuse a partial head with HeaderTimeout."""
        if self._partial is None:
            self.transport.close()
        else:
            self._settings.timed_out("header")
            self._refuse(HeaderTimeout("The request's head was not here in time (server.header_timeout)."))

    def body_late(self) -> None:
        request = self.request
        if request is None or request.complete or not request.more_body or request.body_due is None:
            return
        left = request.body_due - self.loop.time()
        if left > 0:
            self._clocks.watch_body(left)
        else:
            self._settings.timed_out("body")
            self._refuse(BodyTimeout("The request's body was not here in time (server.body_timeout)."))

    # -- what is no request

    def _refuse(self, error: GatewayError) -> None:
        """Refuse a request that is malformed, too large or late, and stop reading further requests."""
        request, started = self.request, not self._fresh
        self._fresh = self._turn = False
        if request is None or request.complete:
            partial = self._partial or PartialHead(self._settings.clock())
            request = self.request = ClientRequest(self, partial.request(), [], partial.began)
            started = False
        # Whatever of it was read, what follows can't be: the reply says that the connection ends.
        request.more_body = True
        if not started and self._handler is not None:
            self._run(self._handler.refuse(request, error))
        elif self.driver is not None:
            # Its body can't be read, or is late: the pipeline tells, counts and logs.
            self.driver.throw(error)
        elif not request.begun:
            answer(request, error)
            # A control route that reads the body has nobody to answer any more.
            request.disconnected = True
            request.arrived()
        if not request.complete:
            self._left()
            self.linger()
