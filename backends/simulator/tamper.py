"""Faults of an answer on the wire: each fault is an exchange whose head, body and end pass through it.

A fault that keeps bytes back says that it is not `writable`; what makes the answer then waits as it would for a client
that does not read, and its slot stays taken. So a stalled request looks to /metrics as one of a hung engine does:
running, and yielding nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from backends.simulator.exchange import Headers, SimulatorExchange, SimulatorRequest
from backends.simulator.faults import Fault
from backends.simulator.refusals import Refusal, in_stream
from backends.simulator.wire import SimulatorConnection


class Tampered(SimulatorExchange):
    """Passes everything on through `head`, `body` and `end`, which a fault overrides."""

    __slots__ = ("_chunked", "fault")

    def __init__(self, connection: SimulatorConnection, request: SimulatorRequest, fault: Fault) -> None:
        super().__init__(connection, request)
        self.fault = fault
        self._chunked = False

    def respond(self, status: int, headers: Headers, body: bytes) -> None:
        if self.ended:
            return
        self.head(self.wire.head(status, headers, b"content-length: %d\r\n" % self.length(body), self.keep_alive))
        if self.request.method != "HEAD":
            self.body(body)
        self.end()

    def begin(self, status: int, headers: Headers) -> None:
        if not self.ended:
            self._chunked = True
            self.head(self.wire.head(status, headers, b"transfer-encoding: chunked\r\n", self.keep_alive))

    def send(self, events: Iterable[bytes]) -> None:
        for event in events:
            if not self.ended:
                self.body(event)

    def finish(self) -> None:
        if not self.ended:
            self.end()

    def length(self, body: bytes) -> int:
        return len(body)

    def head(self, data: bytes) -> None:
        self.write(data)

    def body(self, payload: bytes) -> None:
        self.write(self.framed(payload))

    def end(self) -> None:
        if self._chunked:
            self.write(b"0\r\n\r\n")
        self.done()

    def framed(self, payload: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(payload), payload) if self._chunked else payload

    def later(self, delay: float, callback: Callable[[], None]) -> None:
        self.wire.ticker.after(delay, callback)


class CutOff(Tampered):
    """reset_at, close_at: exactly `at` bytes of the body, then RST or FIN; an unfinished chunk's size was already
    told.
    """

    __slots__ = ("_left",)

    def __init__(self, connection: SimulatorConnection, request: SimulatorRequest, fault: Fault) -> None:
        super().__init__(connection, request, fault)
        self._left = None if fault.options["at"] is None else fault.integer("at")

    def head(self, data: bytes) -> None:
        super().head(data)
        if self._left == 0:
            self._cut()

    def body(self, payload: bytes) -> None:
        if self.ended:
            return
        if self._left is None or len(payload) < self._left:
            if self._left is not None:
                self._left -= len(payload)
            self.write(self.framed(payload))
            return
        if len(payload) == self._left:
            self.write(self.framed(payload))
        else:
            size = b"%x\r\n" % len(payload) if self._chunked else b""
            self.write(size + payload[: self._left])
        self._cut()

    def end(self) -> None:
        self._cut()

    def _cut(self) -> None:
        if self.ended:
            return
        if self.fault.kind == "reset_at":
            self.reset()
        else:
            self.close()


class Stall(Tampered):
    """stall: silence from a place on, for a while or until the fault is deleted."""

    __slots__ = ("_events", "_held", "_open")

    def __init__(self, connection: SimulatorConnection, request: SimulatorRequest, fault: Fault) -> None:
        super().__init__(connection, request, fault)
        self._events = 0
        self._held: list[Callable[[], None]] | None = None
        self._open = False

    @property
    def writable(self) -> bool:
        return self._held is None and super().writable

    def head(self, data: bytes) -> None:
        if self.fault.options["where"] == "head":
            self._stall()
        self._do(lambda: self.write(data))
        if self.fault.options["where"] == "content":
            self._stall()

    def body(self, payload: bytes) -> None:
        if self.fault.options["where"] == "event" and self._events >= self.fault.integer("after"):
            self._stall()
        self._events += 1
        self._do(lambda: self.write(self.framed(payload)))

    def end(self) -> None:
        self._do(super().end)

    def thaw(self) -> None:
        """Go on: what was held goes out, and what makes the answer is told that it may."""
        held, self._held = self._held, None
        for act in held or ():
            if not self.ended:
                act()
        if self.on_writable is not None:
            self.on_writable()

    def _stall(self) -> None:
        if self._held is None and not self._open:
            self._open, self._held = True, []
            seconds = self.fault.seconds("for")
            if seconds is not None:
                self.later(seconds, self.thaw)

    def _do(self, act: Callable[[], None]) -> None:
        if self._held is None:
            act()
        else:
            self._held.append(act)


class Drip(Tampered):
    """drip: a few bytes at a time."""

    __slots__ = ("_finish", "_slow", "_started", "_waiting")

    def __init__(self, connection: SimulatorConnection, request: SimulatorRequest, fault: Fault) -> None:
        super().__init__(connection, request, fault)
        self._waiting = bytearray()
        self._slow = 0
        """Number of bytes of `_waiting` that follow at once instead of dripping."""
        self._started = False
        self._finish = False

    @property
    def writable(self) -> bool:
        return not self._waiting and super().writable

    def head(self, data: bytes) -> None:
        if self.fault.options["part"] == "body":
            self.write(data)
        else:
            self._add(data)

    def body(self, payload: bytes) -> None:
        self._add_body(self.framed(payload))

    def end(self) -> None:
        if self._chunked:
            self._add_body(b"0\r\n\r\n")
        self._finish = True
        if not self._waiting:
            self.done()

    def _add_body(self, data: bytes) -> None:
        if self.fault.options["part"] == "head":
            if not self._waiting:
                self.write(data)
                return
            self._slow += len(data)
        self._add(data)

    def _add(self, data: bytes) -> None:
        self._waiting += data
        if not self._started:
            self._started = True
            self._drop()

    def _drop(self) -> None:
        if self.ended:
            return
        size = min(self.fault.integer("bytes"), len(self._waiting) - self._slow)
        self.write(bytes(self._waiting[:size]))
        del self._waiting[:size]
        if len(self._waiting) == self._slow:
            self.write(bytes(self._waiting))
            self._waiting.clear()
            self._slow = 0
        if self._waiting:
            self.later(self.fault.seconds("every") or 0.0, self._drop)
            return
        self._started = False
        if self._finish:
            self.done()
        elif self.on_writable is not None:
            self.on_writable()


class WrongLength(Tampered):
    """wrong_length: a content-length that lies. Too long: FIN follows the body. Too short: bytes follow the answer."""

    __slots__ = ()

    def length(self, body: bytes) -> int:
        return max(0, len(body) + self.fault.integer("by"))

    def end(self) -> None:
        if self.fault.integer("by") > 0 and not self._chunked:
            self.close()
        else:
            super().end()


class ErrorEvent(Tampered):
    """error_event: under 200, an error in the path's dialect; `[DONE]` behind it where vLLM sends one."""

    __slots__ = ("_events",)

    def __init__(self, connection: SimulatorConnection, request: SimulatorRequest, fault: Fault) -> None:
        super().__init__(connection, request, fault)
        self._events = 0

    def body(self, payload: bytes) -> None:
        if self.ended:
            return
        if not self._chunked or self._events < self.fault.integer("after"):
            self._events += 1
            super().body(payload)
            return
        refusal = Refusal.of_status(self.fault.integer("code"))
        for event in in_stream(self.request.path, refusal, done=self.fault.options["done"] is True):
            super().body(event)
        super().end()


TAMPERED: dict[str, type[Tampered]] = {
    "reset_at": CutOff,
    "close_at": CutOff,
    "stall": Stall,
    "drip": Drip,
    "wrong_length": WrongLength,
    "error_event": ErrorEvent,
}
