"""The upstream's answer on its way to the client: held until it begins (DESIGN rules 1 and 2), then passed
through as it came.

Chunks go from the upstream's socket callback straight into the client's transport, without a task switch. Back-pressure
is direct too: a client that reads slowly pauses the upstream's reading.
"""

from collections.abc import Callable
from typing import Final

from backends.http1.connection import UpstreamConnection
from backends.http1.interface import UpstreamError
from gateway.http.driver import Signal
from gateway.http.headers import Headers, is_event_stream
from gateway.http.request import ClientRequest
from gateway.http.write_batch import WriteBatch
from gateway.relay.body_sinks import CopySink, break_off, writer
from gateway.relay.stream_tap import StreamTap
from policies.request.first_content import FirstContent
from policies.request.usage.strip import UsageStrip

# Rule 1: at most this much is held back while no content has come.
HOLD_LIMIT: Final = 64 * 1024
# So many reads, or one so large, and what has passed is looked at: a stream keeps at most 64 KiB for that.
LOOK_EVERY: Final = 32
LOOK_AT_ONCE: Final = 2048


class Relay:
    """One answer: the sink of an upstream connection and the pump of the client's reply."""

    status = 0
    stream = False
    """Whether this is a 200 event stream."""
    framed = True
    """Whether the end of the body can be told from a broken connection."""
    tap: StreamTap | None = None
    ended = False
    released = False
    """Whether a byte of it may have gone to the client."""
    error: UpstreamError | None = None
    first_event_error: int | None = None
    began_at: float | None = None
    """Clock time of the first content of a stream, or of the first body byte or the end of any other answer."""
    held_up = False
    """Whether the client reads too slowly, so that we do not read from the engine."""
    _looked_at = 0.0
    _resumed_at = 0.0
    strip: UsageStrip | None = None
    """Takes the usage that we asked for out of a stream again."""
    copy: CopySink | None = None
    """Who gets the same (`gateway.cache.coalescing`)."""
    _connection: UpstreamConnection | None = None
    _first: FirstContent | None = None
    _gap: Callable[[float], None] | None = None
    _write: Callable[[bytes], None]
    _held_size = 0
    _passing = False
    _waiter: Signal | None = None

    def __init__(self, cycle: ClientRequest, clock: Callable[[], float], on_break: Callable[["Relay"], bytes]) -> None:
        self._cycle = cycle
        self._clock = clock
        self._on_break = on_break
        self._held: list[bytes] = []
        self._seen: list[bytes] = []
        self._times: list[float] = []
        self.headers: Headers = []

    # -- the pipeline's side

    def attach(self, connection: UpstreamConnection) -> None:
        """The connection that feeds this relay, from the moment the request is sent."""
        self._connection = connection

    @property
    def over(self) -> bool:
        """Whether the answer has ended or broken off."""
        return self.ended or self.error is not None

    @property
    def last_at(self) -> float:
        """Clock time of the last read that brought content; 0.0 before the first."""
        times = self._times
        return times[-1] if times else self._looked_at

    @property
    def quiet_since(self) -> float:
        """Since when the engine has had the word and said nothing: a pause that the client made is not the engine's."""
        return max(self.last_at, self._resumed_at)

    @property
    def held(self) -> bytes:
        """What has come and is held back."""
        return b"".join(self._held)

    def change(self) -> Signal:
        """What to wait for: set when the answer begins, ends or fails, whichever comes next."""
        self._waiter = waiter = Signal()
        return waiter

    def tells(self, signal: Signal) -> None:
        """Set a signal that others set too; the same otherwise."""
        self._waiter = signal

    def release(
        self, headers: Headers, *, length_known: bool, gap: Callable[[float], None] | None, outbox: WriteBatch
    ) -> None:
        """Let the head and all that was held go to the client; what follows goes straight through."""
        self.released = True
        tap = self.tap = StreamTap(stream=self.stream)
        cycle = self._cycle
        cycle.start(self.status, headers, length_known=length_known)
        held = self._held
        data = held[0] if len(held) == 1 else b"".join(held)
        self._held = []
        if data:
            tap.begin(data)
        strip = self.strip = self.strip if self.stream else None
        if strip is not None:
            data = strip.feed(data) + strip.end() if self.ended else strip.feed(data)
        copy = self.copy
        if copy is not None:
            copy.write(data)
        if self.ended:
            if copy is not None:
                copy.finish()
            outbox.answer(cycle, data)
            return
        cycle.fed_by(self if copy is None else copy)
        cycle.write(data)
        if self.error is not None:
            self._break()
        else:
            self._gap = gap
            self._write = writer(cycle, self.copy, self.strip)
            self._passing = True

    def turn_to(self, cycle: ClientRequest) -> None:
        """Another one takes the client's place."""
        self._cycle = cycle
        if self._passing:
            self._write = writer(cycle, self.copy, self.strip)

    def close(self) -> None:
        """Leave the upstream: a connection still in use is closed at once, which aborts the request in the engine."""
        self._cycle.pump = None
        self._passing = False
        self._look()
        # It holds the exchange, which holds this: a cycle that only the garbage collector would find.
        self._on_break = _nothing_to_tell
        if self.error is not None:
            # So is this: where it was raised, its traceback holds frames that hold this.
            self.error.__traceback__ = None
        connection, self._connection = self._connection, None
        if connection is not None and not self.ended and self.error is None:
            connection.abort()

    @property
    def said_end(self) -> bool:
        """Whether the client has been told, in the stream's own words, that it is over."""
        self._look()
        return self.tap is not None and self.tap.said_end

    @property
    def may_tell(self) -> bool:
        """Whether an error event may follow: in a chunked event stream that is not encoded."""
        return self.stream and not any(name == b"content-length" for name, _ in self.headers)

    def interrupt(self, event: bytes) -> None:
        """Break a released answer off for a reason of ours."""
        self._passing = False
        self._look()
        self._cut_after(event if self.may_tell else b"")

    # -- the upstream's side (Sink)

    def on_head(self, status: int, headers: Headers) -> None:
        self.status = status
        self.headers = headers
        if status == 200 and is_event_stream(headers):
            self.stream = True
            self._first = FirstContent()

    def on_data(self, data: bytes) -> None:
        if self._passing:
            self._write(data)
            self._times.append(self._clock())
            self._seen.append(data)
            if len(self._seen) >= LOOK_EVERY or len(data) > LOOK_AT_ONCE:
                self._look()
            return
        self._held.append(data)
        self._held_size += len(data)
        if self.began_at is None and (self._first is None or self._begins(data)):
            self._begin()

    def _look(self) -> None:
        """Read along what has passed since the last time: times between reads, usage, errors. Many reads at a time,
        because what is looked at one by one has left the processor's cache each time."""
        seen, times = self._seen, self._times
        if not seen:
            return
        gap, last = self._gap, max(self._looked_at, self._resumed_at)
        if gap is not None:
            for moment in times:
                gap(moment - last)
                last = moment
        self._looked_at = times[-1]
        assert self.tap is not None, "made at the release"
        self.tap.feed(seen)
        seen.clear()
        times.clear()

    def _begins(self, data: bytes) -> bool:
        first = self._first
        assert first is not None, "only of an event stream"
        begins = first.feed(data)
        self.first_event_error = first.error
        return begins or self._held_size > HOLD_LIMIT

    def on_end(self) -> None:
        self.ended = True
        self._look()
        if self._connection is not None:
            self.framed = self._connection.framed
        if self._passing:
            last = self.strip.end() if self.strip is not None else b""
            self._cycle.finish(last)
            if self.copy is not None:
                self.copy.write(last)
                self.copy.finish()
            self._wake()
        elif self.began_at is None:
            self._begin()
        else:
            self._wake()

    def on_error(self, error: UpstreamError) -> None:
        self.error = error
        if self._passing:
            self._break()
        self._wake()

    def _begin(self) -> None:
        self.began_at = self._looked_at = self._clock()
        self._wake()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            waiter.set()

    def _break(self) -> None:
        """Rule 5: the client gets all that came, an error event where the dialect has one, and never a clean end."""
        self._passing = False
        self._look()
        self._cut_after(self._on_break(self))

    def _cut_after(self, event: bytes) -> None:
        held = self.strip.end() if self.strip is not None else b""
        if held:
            self._cycle.write(held)
        if self.copy is not None:
            self.copy.write(held)
            self.copy.broke()
        break_off(self._cycle, event, between_events=self.tap is None or self.tap.between_events)

    # -- the client's side (Pump)

    def pause(self) -> None:
        self.held_up = True
        if self._connection is not None and not self.over:
            self._connection.pause()

    def resume(self) -> None:
        self._look()
        self.held_up, self._resumed_at = False, self._clock()
        if self._connection is not None and not self.over:
            self._connection.resume()


def _nothing_to_tell(_relay: Relay) -> bytes:
    return b""
