"""The upstream's answer on its way to the client: held until it begins (DESIGN section 2, rules 1 and 2), then passed through as it came.

Chunks go from the upstream's `data_received` straight into the client's transport, without a task switch: two thirds of an event's cost is the
kernel's, and a task switch would add a tenth. Back-pressure is direct too: a client that reads slowly pauses the upstream's reading.
"""

from collections.abc import Callable
from typing import Final

from backends.http1 import Connection
from backends.upstream import UpstreamError
from gateway.client import ClientCycle
from gateway.drive import Signal
from gateway.headers import Headers
from gateway.tap import Tap
from policies.first_content import FirstContent

# Rule 1: at most this much is held back while no content has come.
HOLD_LIMIT: Final = 64 * 1024


class Relay:
    """One attempt's answer: the sink of an upstream connection and the pump of the client's reply."""

    __slots__ = (
        "_clock", "_connection", "_cycle", "_done", "_first", "_gap", "_held", "_held_size", "_on_break", "_passing", "_ready",
        "began_at", "ended", "error", "first_event_error", "headers", "last_at", "released", "status", "stream", "tap",
    )  # fmt: skip

    def __init__(self, cycle: ClientCycle, clock: Callable[[], float], on_break: Callable[["Relay"], bytes]) -> None:
        self._cycle = cycle
        self._clock = clock
        self._on_break = on_break
        self._connection: Connection | None = None
        self._gap: Callable[[float], None] | None = None
        self.reset()

    def reset(self) -> None:
        """Forget an attempt of which nothing has gone to the client."""
        self._ready: Signal | None = None
        self._done: Signal | None = None
        self._first: FirstContent | None = None
        self._held: list[bytes] = []
        self._held_size = 0
        self._passing = False
        self.status = 0
        self.headers: Headers = []
        self.stream = False
        """Whether this is a 200 event stream."""
        self.tap: Tap | None = None
        self.ended = False
        self.released = False
        """Whether a byte of it may have gone to the client."""
        self.error: UpstreamError | None = None
        self.first_event_error: int | None = None
        self.began_at: float | None = None
        """Clock time of the first content of a stream, or of the first body byte or the end of any other answer."""
        self.last_at = 0.0

    # -- the coroutine's side

    def attach(self, connection: Connection) -> None:
        """The connection that feeds this relay, from the moment the request is sent."""
        self._connection = connection

    async def begun(self) -> None:
        """Wait until the answer begins, ends or fails."""
        if self.began_at is None and not self.ended and self.error is None:
            self._ready = Signal()
            await self._ready

    def release(self, headers: Headers, *, length_known: bool, gap: Callable[[float], None] | None) -> None:
        """Let the head and all that was held go to the client; what follows goes straight through."""
        self.released = True
        self.tap = Tap(stream=self.stream)
        cycle = self._cycle
        cycle.start(self.status, headers, length_known=length_known)
        held, self._held = self._held, []
        data = held[0] if len(held) == 1 else b"".join(held)
        if data:
            self.tap.feed(data)
        if self.ended:
            cycle.finish(data)
            return
        cycle.pump = self
        cycle.write(data)
        if self.error is not None:
            self._break()
        else:
            self._gap = gap
            self._passing = True

    async def finished(self) -> None:
        """Wait until the released answer has ended or broken off."""
        if not self.ended and self.error is None:
            self._done = Signal()
            await self._done

    def close(self) -> None:
        """Leave the upstream: a connection still in use is closed at once, which aborts the request in the engine."""
        self._cycle.pump = None
        self._passing = False
        if self._connection is not None and not self.ended and self.error is None:
            self._connection.abort()
        self._connection = None

    @property
    def may_tell(self) -> bool:
        """Whether an error event may follow: in a chunked event stream that is not encoded."""
        return self.stream and not any(name == b"content-length" for name, _ in self.headers)

    def interrupt(self, event: bytes) -> None:
        """Break a released answer off for a reason of ours."""
        self._passing = False
        self._cut_after(event if self.may_tell else b"")

    # -- the upstream's side (Sink)

    def on_head(self, status: int, headers: Headers) -> None:
        self.status = status
        self.headers = headers
        if status == 200 and _is_event_stream(headers):
            self.stream = True
            self._first = FirstContent()

    def on_data(self, data: bytes) -> None:
        if self._passing:
            now = self._clock()
            if self._gap is not None:
                self._gap(now - self.last_at)
            self.last_at = now
            self.tap.feed(data)  # type: ignore[union-attr]
            self._cycle.write(data)
            return
        self._held.append(data)
        self._held_size += len(data)
        if self.began_at is None and self._begins(data):
            self._begin()

    def _begins(self, data: bytes) -> bool:
        first = self._first
        if first is None:
            return True
        begins = first.feed(data)
        self.first_event_error = first.error
        return begins or self._held_size > HOLD_LIMIT

    def on_end(self) -> None:
        self.ended = True
        if self._passing:
            self._cycle.finish()
            _wake(self._done)
        elif self.began_at is None:
            self._begin()

    def on_error(self, error: UpstreamError) -> None:
        self.error = error
        if self._passing:
            self._break()
            _wake(self._done)
        else:
            _wake(self._ready)

    def _begin(self) -> None:
        self.began_at = self.last_at = self._clock()
        _wake(self._ready)

    def _break(self) -> None:
        """Rule 5: the client gets all that came, an error event where the dialect has one, and never a clean end."""
        self._passing = False
        self._cut_after(self._on_break(self))

    def _cut_after(self, event: bytes) -> None:
        if event:
            between = self.tap is None or self.tap.between_events
            self._cycle.write(event if between else b"\n\n" + event)
        self._cycle.cut()

    # -- the client's side (Pump)

    def pause(self) -> None:
        if self._connection is not None and not self.ended and self.error is None:
            self._connection.pause()

    def resume(self) -> None:
        if self._connection is not None and not self.ended and self.error is None:
            self._connection.resume()


def _is_event_stream(headers: Headers) -> bool:
    """Whether we can read the events: an encoded body's bytes tell us nothing."""
    kind = False
    for name, value in headers:
        if name == b"content-type":
            kind = value[:17].lower() == b"text/event-stream"
        elif name == b"content-encoding" and value.lower() != b"identity":
            return False
    return kind


def _wake(signal: Signal | None) -> None:
    if signal is not None:
        signal.set()
