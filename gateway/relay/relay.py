"""Relay of an upstream's answer to the client: held until the first content (DESIGN rules 1 and 2), then passed through
unchanged.

Chunks go from the upstream's socket callback straight into the client's transport, without a task switch. Back-pressure
is direct too: a client that reads slowly pauses reading from the upstream.
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

# At most this much is held back while no content has come (DESIGN rule 1); bytes.
HOLD_LIMIT: Final = 64 * 1024
# After so many reads, or one so large, the passed bytes are parsed: a stream keeps at most 64 KiB for that.
PARSE_EVERY: Final = 32
PARSE_AT_ONCE: Final = 2048


class Relay:
    """One answer: `Sink` of the upstream connection and `ReadControl` of the client's reply."""

    status = 0
    stream = False
    """True for a 200 event stream."""
    framed = True
    """False for a body that ends with its connection: its end is not distinct from a break."""
    tap: StreamTap | None = None
    ended = False
    released = False
    """True once a byte of the answer may have gone to the client."""
    error: UpstreamError | None = None
    first_event_error: int | None = None
    began_at: float | None = None
    """Clock time of the first content of a stream, or of the first body byte or the end of any other answer."""
    reading_paused = False
    """True while reading from the engine is paused because the client reads too slowly."""
    _parsed_at = 0.0
    _resumed_at = 0.0
    strip: UsageStrip | None = None
    """Removes the usage that the gateway requested from the stream."""
    copy: CopySink | None = None
    """Receiver of a copy (`gateway.cache.coalescing`)."""
    _connection: UpstreamConnection | None = None
    _first: FirstContent | None = None
    _gap: Callable[[float], None] | None = None
    _write: Callable[[bytes], None]
    _held_size = 0
    _passing = False
    _waiter: Signal | None = None

    def __init__(
        self, request: ClientRequest, clock: Callable[[], float], on_break: Callable[["Relay"], bytes]
    ) -> None:
        self._request = request
        self._clock = clock
        self._on_break = on_break
        self._held: list[bytes] = []
        self._seen: list[bytes] = []
        self._times: list[float] = []
        self.headers: Headers = []

    # -- called by the attempt

    def attach(self, connection: UpstreamConnection) -> None:
        """Set the connection that feeds this relay, from the moment the request is sent."""
        self._connection = connection

    @property
    def over(self) -> bool:
        """Return whether the answer has ended or broken off."""
        return self.ended or self.error is not None

    @property
    def last_at(self) -> float:
        """Clock time of the last read that brought content; 0.0 before the first."""
        times = self._times
        return times[-1] if times else self._parsed_at

    @property
    def quiet_since(self) -> float:
        """Clock time since which the engine has sent nothing although it could; a pause that the client caused does not
        count."""
        return max(self.last_at, self._resumed_at)

    @property
    def held(self) -> bytes:
        """Body bytes that are held back."""
        return b"".join(self._held)

    def change(self) -> Signal:
        """Return a signal that is set when the answer begins, ends or fails, whichever comes next."""
        self._waiter = waiter = Signal()
        return waiter

    def report_to(self, signal: Signal) -> None:
        """Report the next change to a signal that other relays set too; otherwise as `change`."""
        self._waiter = signal

    def release(
        self, headers: Headers, *, length_known: bool, gap: Callable[[float], None] | None, batch: WriteBatch
    ) -> None:
        """Write the head and all held bytes to the client; what follows passes straight through."""
        self.released = True
        tap = self.tap = StreamTap(stream=self.stream)
        request = self._request
        request.start(self.status, headers, length_known=length_known)
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
            batch.answer(request, data)
            return
        request.attach_source(self if copy is None else copy)
        request.write(data)
        if self.error is not None:
            self._break()
        else:
            self._gap = gap
            self._write = writer(request, self.copy, self.strip)
            self._passing = True

    def replace_client(self, request: ClientRequest) -> None:
        """Write to another client request from now on: the detached one of a client that left."""
        self._request = request
        if self._passing:
            self._write = writer(request, self.copy, self.strip)

    def close(self) -> None:
        """Leave the upstream: a connection still in use is closed at once, which aborts the request at the engine."""
        self._request.pump = None
        self._passing = False
        self._parse_passed()
        # The callback holds the exchange, which holds this relay: a cycle that only the garbage collector would find.
        self._on_break = _no_event
        if self.error is not None:
            # Another cycle: the traceback of a raised error holds frames that hold this relay.
            self.error.__traceback__ = None
        connection, self._connection = self._connection, None
        if connection is not None and not self.ended and self.error is None:
            connection.abort()

    @property
    def end_seen(self) -> bool:
        """Return whether the stream has carried its own end mark (`[DONE]`, `message_stop`, `response.completed`)."""
        self._parse_passed()
        return self.tap is not None and self.tap.end_seen

    @property
    def allows_error_event(self) -> bool:
        """Return whether an error event may follow: only in a chunked event stream that is not encoded."""
        return self.stream and not any(name == b"content-length" for name, _ in self.headers)

    def interrupt(self, event: bytes) -> None:
        """Break a released answer off for a reason of the gateway's; `event` goes out where the stream allows one."""
        self._passing = False
        self._parse_passed()
        self._cut_after(event if self.allows_error_event else b"")

    # -- called by the upstream connection (Sink)

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
            if len(self._seen) >= PARSE_EVERY or len(data) > PARSE_AT_ONCE:
                self._parse_passed()
            return
        self._held.append(data)
        self._held_size += len(data)
        if self.began_at is None and (self._first is None or self._begins(data)):
            self._begin()

    def _parse_passed(self) -> None:
        """Parse what has passed since the last time: gaps, usage, errors. Many reads at a time, because the parser and
        its data leave the processor's cache between single reads."""
        seen, times = self._seen, self._times
        if not seen:
            return
        gap, last = self._gap, max(self._parsed_at, self._resumed_at)
        if gap is not None:
            for moment in times:
                gap(moment - last)
                last = moment
        self._parsed_at = times[-1]
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
        self._parse_passed()
        if self._connection is not None:
            self.framed = self._connection.framed
        if self._passing:
            last = self.strip.end() if self.strip is not None else b""
            self._request.finish(last)
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
        self.began_at = self._parsed_at = self._clock()
        self._wake()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            waiter.set()

    def _break(self) -> None:
        """Break off (DESIGN rule 5): the client gets all that came, an error event where the dialect has one, and never
        a clean end."""
        self._passing = False
        self._parse_passed()
        self._cut_after(self._on_break(self))

    def _cut_after(self, event: bytes) -> None:
        held = self.strip.end() if self.strip is not None else b""
        if held:
            self._request.write(held)
        if self.copy is not None:
            self.copy.write(held)
            self.copy.broke()
        break_off(self._request, event, between_events=self.tap is None or self.tap.between_events)

    # -- called by the client's connection (ReadControl)

    def pause(self) -> None:
        self.reading_paused = True
        if self._connection is not None and not self.over:
            self._connection.pause()

    def resume(self) -> None:
        self._parse_passed()
        self.reading_paused, self._resumed_at = False, self._clock()
        if self._connection is not None and not self.over:
            self._connection.resume()


def _no_event(_relay: Relay) -> bytes:
    return b""
