"""Detached client: takes the place of a client that has left while subscribers wait for its answer.

The client's connection kept the request's timeouts (`gateway.http.timers`); it is gone, so the timer wheel keeps them.
"""

import asyncio
from collections.abc import Callable
from typing import Any, cast

from backends.http1.timer_wheel import Timer, TimerWheel
from gateway.errors import GatewayError
from gateway.exchange import Exchange
from gateway.http.driver import RequestDriver
from gateway.http.headers import Headers
from gateway.http.request import ClientRequest, ClientWire, ReadControl
from gateway.timeouts import overdue


class DetachedClient(ClientRequest):
    """Client request whose reply goes nowhere."""

    def __init__(self, left: ClientRequest) -> None:
        self.__dict__.update(left.__dict__)
        self.disconnected = True
        self.pump = None

    def start(self, status: int, headers: Headers, *, length_known: bool) -> None:
        self.begun = True

    def attach_source(self, pump: ReadControl) -> None:
        """Accept the writer; nothing ever pauses it."""

    def writer(self) -> Callable[[bytes], None]:
        return self.write

    def write(self, data: bytes) -> None:
        """Drop the bytes."""

    def finish(self, data: bytes = b"") -> None:
        self.complete = True

    def cut(self) -> None:
        self.complete = True


class DetachedWire:
    """Connection of a detached client: the request's timer and nothing else."""

    write_paused = False
    transport: Any = None
    conn: Any = None

    def __init__(self, exchange: Exchange, drive: RequestDriver, wheel: TimerWheel, clock: Callable[[], float]) -> None:
        left = exchange.request.wire
        self.loop: asyncio.AbstractEventLoop = left.loop
        self.address = left.address
        self._exchange = exchange
        self._drive = drive
        self._wheel = wheel
        self._clock = clock
        self._timer: Timer | None = None

    def resume_reading(self) -> None: ...
    def await_body(self, request: ClientRequest) -> None: ...
    def replied(self) -> None: ...
    def linger(self) -> None: ...

    def limit(self, seconds: float | None) -> None:
        """Set the timer as `ClientWire.limit` does, to a tick of the wheel."""
        if self._timer is not None:
            self._wheel.cancel(self._timer)
            self._timer = None
        if seconds is not None:
            self._timer = self._wheel.arm(max(seconds, 0.0), self._look)

    def _look(self) -> None:
        self._timer = None
        if self._exchange.request.timekeeper is None:
            return
        verdict = overdue(self._exchange, self._clock())
        if isinstance(verdict, GatewayError):
            self._drive.throw(verdict)
        else:
            self.limit(verdict)


def detach(exchange: Exchange, drive: RequestDriver, wheel: TimerWheel, clock: Callable[[], float]) -> DetachedClient:
    """Return the detached client that replaces the exchange's client."""
    request = DetachedClient(exchange.request)
    request.wire = cast(ClientWire, DetachedWire(exchange, drive, wheel, clock))
    # The connection's own timer has nothing to end any more.
    request.timekeeper, exchange.request.timekeeper = exchange.request.timekeeper, None
    verdict = overdue(exchange, clock())
    request.wire.limit(0.0 if isinstance(verdict, GatewayError) else verdict)
    return request
