"""The clocks of one client connection: idle, a head or a body that does not come, the limit of the request under way, a
reader that stalls, a refused client that still sends. All of them are lazy: they are set once and look again when they
fire, so that a request which comes in one read sets none."""

import asyncio
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from backends.http1.timer_wheel import Timer, TimerWheel

# An idle keep-alive connection of a client ends after this long: above the 60 s that common load balancers keep theirs.
CLIENT_KEEP_ALIVE: Final = 75.0
# How long a refused client that still sends may pause, and how long it may go on in all: most SDKs read no answer
# before all of their body has left (RFC 9112 section 9.6; the times are nginx's).
LINGER_PAUSE, LINGER_SECONDS = 5.0, 30.0


def _nobody_counts(kind: str) -> None:
    """Ignore the timeout: the default counter."""


@dataclass(frozen=True, slots=True)
class WireSettings:
    """Limits of a client connection: sizes in bytes, times in seconds, None is off."""

    clock: Callable[[], float]
    """Monotonic, in seconds, finer than the loop's (which uvloop rounds to milliseconds)."""
    max_head: int = 32 * 1024
    header_timeout: float | None = 10.0
    """Seconds for the first head from the start of the connection, for later heads from their first byte."""
    body_timeout: float | None = 60.0
    """Seconds from the end of the head to the end of the body."""
    write_timeout: float | None = 60.0
    keep_alive: float = CLIENT_KEEP_ALIVE
    linger_pause: float = LINGER_PAUSE
    timed_out: Callable[[str], None] = _nobody_counts
    """Called with the kind of each timeout that has passed: header, body or write."""


class TimedConnection(Protocol):
    """Callbacks of a connection whose timers have expired."""

    def head_late(self) -> None:
        """Handle a head that has not come, or not wholly, in time."""

    def body_late(self) -> None:
        """Check whether the body is late."""

    def limit_passed(self) -> None:
        """Check the timeouts of the active request."""

    def reader_stalled(self) -> None:
        """Handle a client that has read nothing for `write_timeout`."""


class _NoOwner:
    """Owner of timers whose connection is gone; does nothing."""

    def head_late(self) -> None: ...
    def body_late(self) -> None: ...
    def limit_passed(self) -> None: ...
    def reader_stalled(self) -> None: ...


NOBODY: Final = _NoOwner()


class ConnectionTimers:
    """Timers of one client connection, on the shared timer wheel."""

    # What most connections never need stands in the class.
    _head_due: float | None = None
    _head_timer: Timer | None = None
    _body_timer: Timer | None = None

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        wheel: TimerWheel,
        settings: WireSettings,
        owner: TimedConnection,
    ) -> None:
        self._time = loop.time
        self._wheel = wheel
        self._settings = settings
        self._owner: TimedConnection = owner
        self._transport: asyncio.Transport
        # Just before now, so that no later moment is the same: uvloop's clock counts whole milliseconds.
        self._made = math.nextafter(loop.time(), 0.0)
        self._idle_since: float | None = self._made
        self._due: float | None = None
        self._total_at = 0.0
        self._idle_timer: Timer | None = None
        self._stall_timer: Timer | None = None
        self._total_timer: Timer | None = None
        self._stall_size = 0

    def start(self, transport: asyncio.Transport) -> None:
        """Start the timers of a new connection."""
        self._transport = transport
        self._idle_timer = self._wheel.arm(self._patience(), self._idle)

    def stop(self) -> None:
        """Cancel all timers and release the owner, so that no reference cycle is left for the collector."""
        for timer in (self._idle_timer, self._stall_timer, self._total_timer, self._head_timer, self._body_timer):
            if timer is not None:
                self._wheel.cancel(timer)
        self._idle_timer = self._stall_timer = self._total_timer = self._head_timer = self._body_timer = None
        self._owner = NOBODY

    # -- idle

    @property
    def idle_since(self) -> float | None:
        """Time since which no request is under way, by the loop's clock; None while one is."""
        return self._idle_since

    def busy(self) -> None:
        """Note that a request is under way."""
        self._idle_since = None

    def idle(self) -> None:
        """Note that the reply has ended and the connection is idle."""
        self._idle_since = self._time()
        self._due = None

    def _patience(self) -> float:
        """Return the idle limit in seconds: before the first request the header timeout, after it `keep_alive`."""
        keep, head = self._settings.keep_alive, self._settings.header_timeout
        return min(keep, head) if head is not None and self._idle_since == self._made else keep

    def _idle(self) -> None:
        left = patience = self._patience()
        if self._idle_since is not None and self._head_due is None:
            left = patience - (self._time() - self._idle_since)
        if left <= 0:
            self._owner.head_late()
        else:
            self._idle_timer = self._wheel.arm(left, self._idle)

    # -- a head, a body

    def head_began(self) -> None:
        """Start the header timer for a partial head. The head of the first request is timed from the connection's
        start."""
        timeout = self._settings.header_timeout
        if timeout is None or self._idle_since == self._made:
            return
        self._head_due = self._time() + timeout
        if self._head_timer is None or not self._head_timer.armed:
            self._head_timer = self._wheel.arm(timeout, self._head)

    def head_came(self) -> None:
        """Stop the header timer: the head is whole."""
        self._head_due = None

    def _head(self) -> None:
        if self._head_due is None:
            return
        left = self._head_due - self._time()
        if left > 0:
            self._head_timer = self._wheel.arm(left, self._head)
        else:
            self._owner.head_late()

    def watch_body(self, seconds: float) -> None:
        """Call `body_late` in so many seconds, or sooner."""
        if self._body_timer is None or not self._body_timer.armed:
            self._body_timer = self._wheel.arm(seconds, self._owner.body_late)

    # -- the limit of the request under way

    def limit(self, seconds: float | None) -> None:
        """Check the active request in so many seconds; the last call counts. The timer is moved only when it would
        fire too late."""
        if seconds is None:
            return
        due = self._due = self._time() + seconds
        timer = self._total_timer
        if timer is None or not timer.armed:
            self._total_timer = self._wheel.arm(seconds, self._total)
            self._total_at = due
        elif due < self._total_at:
            self._wheel.rearm(timer, seconds)
            self._total_at = due

    def _total(self) -> None:
        if self._due is None:
            return
        left = self._due - self._time()
        if left > 0 and self._total_timer is not None:
            self._wheel.rearm(self._total_timer, left)
            self._total_at = self._due
        else:
            self._owner.limit_passed()

    # -- a reader that stalls

    def write_paused(self) -> None:
        """Start the stall timer: the client reads too slowly."""
        if self._settings.write_timeout is not None and self._stall_timer is None:
            self._stall_size = self._transport.get_write_buffer_size()
            self._stall_timer = self._wheel.arm(self._settings.write_timeout, self._stalled)

    def write_resumed(self) -> None:
        """Stop the stall timer: the client has read."""
        if self._stall_timer is not None:
            self._wheel.cancel(self._stall_timer)
            self._stall_timer = None

    def _stalled(self) -> None:
        """The client read nothing for `write_timeout`: give it up. One that reads slowly gets as long again."""
        self._stall_timer = None
        if self._transport.get_write_buffer_size() < self._stall_size:
            self.write_paused()
        else:
            self._owner.reader_stalled()

    # -- a refused client that still sends

    def linger(self, received: Callable[[], int]) -> None:
        """Close the connection of a refused client once the client pauses, or after LINGER_SECONDS. `received` returns
        how many bytes the client has sent."""
        if self._idle_timer is not None:
            self._wheel.cancel(self._idle_timer)
        self._head_due = None
        self._linger_on(received, -1, self._time() + LINGER_SECONDS)

    def _linger_on(self, received: Callable[[], int], seen: int, until: float) -> None:
        if self._transport.is_closing():
            return
        now = received()
        if self._time() >= until or now == seen:
            self._transport.abort()
        else:
            again = functools.partial(self._linger_on, received, now, until)
            self._wheel.arm(self._settings.linger_pause, again)
