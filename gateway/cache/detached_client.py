"""Stands in for a client that has left while others want its answer: takes everything, and keeps the request's time.

A request's time is kept by its client's connection (`gateway.http.timers`), which is gone: here it is the timer
wheel's.
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


class DetachedClient(ClientRequest):
    """A reply that goes nowhere."""

    def __init__(self, left: ClientRequest) -> None:
        self.__dict__.update(left.__dict__)
        self.disconnected = True
        self.pump = None

    def start(self, status: int, headers: Headers, *, length_known: bool) -> None:
        self.begun = True

    def fed_by(self, pump: ReadControl) -> None:
        """It reads as fast as anybody."""

    def writer(self) -> Callable[[bytes], None]:
        return self.write

    def write(self, data: bytes) -> None:
        """Nobody is there."""

    def finish(self, data: bytes = b"") -> None:
        self.complete = True

    def cut(self) -> None:
        self.complete = True


class DetachedWire:
    """The connection of one: nothing but its time."""

    write_paused = False
    transport: Any = None
    conn: Any = None

    def __init__(self, exchange: Exchange, drive: RequestDriver, wheel: TimerWheel, clock: Callable[[], float]) -> None:
        left = exchange.cycle.wire
        self.loop: asyncio.AbstractEventLoop = left.loop
        self.address = left.address
        self._exchange = exchange
        self._drive = drive
        self._wheel = wheel
        self._clock = clock
        self._timer: Timer | None = None

    def resume_reading(self) -> None: ...
    def await_body(self, cycle: ClientRequest) -> None: ...
    def replied(self) -> None: ...
    def linger(self) -> None: ...

    def limit(self, seconds: float | None) -> None:
        """As `ClientWire.limit`, a tick of the wheel less exactly."""
        if self._timer is not None:
            self._wheel.cancel(self._timer)
            self._timer = None
        if seconds is not None:
            self._timer = self._wheel.arm(max(seconds, 0.0), self._look)

    def _look(self) -> None:
        self._timer = None
        if self._exchange.cycle.timekeeper is None:
            return
        verdict = self._exchange.overdue(self._clock())
        if isinstance(verdict, GatewayError):
            self._drive.throw(verdict)
        else:
            self.limit(verdict)


def absent(exchange: Exchange, drive: RequestDriver, wheel: TimerWheel, clock: Callable[[], float]) -> DetachedClient:
    """Who takes the place of an exchange's client that has left."""
    cycle = DetachedClient(exchange.cycle)
    cycle.wire = cast(ClientWire, DetachedWire(exchange, drive, wheel, clock))
    # The connection's own timer has nothing to end any more.
    exchange.cycle.timekeeper = None
    cycle.timekeeper = exchange
    verdict = exchange.overdue(clock())
    cycle.wire.limit(0.0 if isinstance(verdict, GatewayError) else verdict)
    return cycle
