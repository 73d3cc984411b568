"""The clocks of one client connection: idle, the request's total deadline, a reader that stalls, a refused client that
still sends. All of them are lazy: they are set once and look again when they fire, so a request sets none."""

import asyncio
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from backends.wheel import Timer, TimerWheel

# An idle keep-alive connection of a client ends after this long: above the 60 s that common load balancers keep theirs.
CLIENT_KEEP_ALIVE: Final = 75.0
# How long a refused client that still sends may pause, and how long it may go on in all: most SDKs read no answer
# before all of their body has left (RFC 9112 section 9.6; the times are nginx's).
LINGER_PAUSE, LINGER_SECONDS = 5.0, 30.0


@dataclass(frozen=True, slots=True)
class WireSettings:
    """Limits of a client connection: sizes in bytes, times in seconds."""

    clock: Callable[[], float]
    """Monotonic, in seconds, finer than the loop's (which uvloop rounds to milliseconds)."""
    max_head: int = 32 * 1024
    write_timeout: float | None = 60.0
    keep_alive: float = CLIENT_KEEP_ALIVE
    linger_pause: float = LINGER_PAUSE


class Clocks:
    """Ends the transport when it was idle too long. `expire` is called when the request under way has passed its
    deadline, `give_up` when its client has read nothing for too long."""

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        wheel: TimerWheel,
        settings: WireSettings,
        expire: Callable[[], None],
        give_up: Callable[[], None],
    ) -> None:
        self._time = loop.time
        self._wheel = wheel
        self._settings = settings
        self._expire = expire
        self._give_up = give_up
        self._transport: asyncio.Transport
        self._idle_since: float | None = loop.time()
        self._due: float | None = None
        self._total_at = 0.0
        self._idle_timer: Timer | None = None
        self._stall_timer: Timer | None = None
        self._total_timer: Timer | None = None
        self._stall_size = 0

    def start(self, transport: asyncio.Transport) -> None:
        """The connection is made."""
        self._transport = transport
        self._idle_timer = self._wheel.arm(self._settings.keep_alive, self._idle)

    def stop(self) -> None:
        """The connection is gone."""
        for timer in (self._idle_timer, self._stall_timer, self._total_timer):
            if timer is not None:
                self._wheel.cancel(timer)

    # -- idle

    def busy(self) -> None:
        """A request has come."""
        self._idle_since = None

    def idle(self) -> None:
        """Its reply has ended."""
        self._idle_since = self._time()
        self._due = None

    def _idle(self) -> None:
        keep = self._settings.keep_alive
        left = keep if self._idle_since is None else keep - (self._time() - self._idle_since)
        if left <= 0:
            self._transport.close()
        else:
            self._idle_timer = self._wheel.arm(left, self._idle)

    # -- the total deadline

    def limit(self, seconds: float | None) -> None:
        """The request under way may take so long in all. The timer is moved only when it would fire too late."""
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
            self._expire()

    # -- a reader that stalls

    def write_paused(self) -> None:
        """The client reads too slowly."""
        if self._settings.write_timeout is not None and self._stall_timer is None:
            self._stall_size = self._transport.get_write_buffer_size()
            self._stall_timer = self._wheel.arm(self._settings.write_timeout, self._stalled)

    def write_resumed(self) -> None:
        """It has read."""
        if self._stall_timer is not None:
            self._wheel.cancel(self._stall_timer)
            self._stall_timer = None

    def _stalled(self) -> None:
        """The client read nothing for `write_timeout`: give it up. One that reads slowly gets as long again."""
        self._stall_timer = None
        if self._transport.get_write_buffer_size() < self._stall_size:
            self.write_paused()
        else:
            self._give_up()

    # -- a refused client that still sends

    def linger(self, received: Callable[[], int]) -> None:
        """End the connection once the client pauses, or after LINGER_SECONDS; `received` says how much it has sent."""
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
