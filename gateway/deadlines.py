"""What may run out while a request is under way, and which of it has: the total deadline, the attempt's time, the time
to the first content, the time between two reads of a stream.

All of them share the one lazy timer of the client's connection (`gateway.clocks`): a request that is quick moves no
timer, and a stream's reads touch none. When the timer fires it asks here.
"""

import math
from collections.abc import Callable
from typing import Final

from gateway.errors import AttemptTimeout, DeadlineExceeded, FirstByteTimeout, GatewayError, IdleTimeout
from gateway.relay import Relay
from policies.settings import Timeouts

# The connection's timer keeps the loop's time, which is rounded to milliseconds: it may fire so much too early.
_ROUNDING: Final = 0.001


class Deadlines:
    """The times of one request, in seconds of one monotonic clock; infinity is no limit."""

    __slots__ = ("_attempt_at", "_clock", "_first_at", "_first_byte", "_idle", "_limit", "_relay", "_timeouts",
                 "_total_at", "hurried")  # fmt: skip

    def __init__(
        self, clock: Callable[[], float], limit: Callable[[float | None], None], timeouts: Timeouts, *, started: float,
        stream: bool, hurry: float | None,
    ) -> None:  # fmt: skip
        """`limit` sets the connection's timer, `started` is when the request's first byte came, `hurry` the time that
        the client leaves us, which lowers the route's total and never raises it."""
        self._clock = clock
        self._limit = limit
        self._timeouts = timeouts
        total = timeouts.total
        self.hurried = hurry is not None and (total is None or hurry < total)
        """Whether the client's own deadline is the one that counts."""
        if self.hurried:
            total = hurry
        self._total_at = math.inf if total is None else started + total
        first_byte = timeouts.first_byte if stream else timeouts.first_byte_plain
        self._first_byte = math.inf if first_byte is None else first_byte
        self._attempt_at = self._first_at = math.inf
        self._idle: float | None = None
        self._relay: Relay | None = None

    def left(self, now: float) -> float | None:
        """Seconds to the total deadline; None without one."""
        return None if self._total_at == math.inf else self._total_at - now

    def attempting(self, now: float) -> None:
        """An attempt begins."""
        attempt = self._timeouts.attempt
        self._attempt_at = math.inf if attempt is None else now + attempt
        self._first_at = math.inf

    def connecting(self, now: float) -> None:
        """It needs a connection, which has a timeout of its own."""
        self._first_at = math.inf
        self._watch(now)

    def sent(self, now: float) -> None:
        """The request has been sent: from here on the first content is waited for."""
        self._first_at = now + self._first_byte
        self._watch(now)

    def relaying(self, relay: Relay, now: float) -> None:
        """The answer has begun to go to the client; only a stream may not pause for long."""
        self._first_at = math.inf
        self._relay = relay
        idle = self._timeouts.idle if relay.stream else None
        if idle is not None:
            self._idle = idle
            self._watch(now, idle)
        elif self._first_byte != math.inf:
            self._watch(now)

    def resting(self, now: float) -> None:
        """No attempt is under way; the next one comes after a wait."""
        self._attempt_at = self._first_at = math.inf
        self._watch(now)

    def overdue(self) -> float | GatewayError:
        """Asked by the connection's timer: what is over, or the seconds to the next look."""
        now = self._clock() + _ROUNDING
        if self._total_at <= now:
            return DeadlineExceeded("The answer took longer than the request's deadline allows.")
        if self._attempt_at <= now:
            return AttemptTimeout("The engine's answer took longer than the route's attempt timeout.")
        if self._first_at <= now:
            return FirstByteTimeout("The engine sent no content in time.")
        quiet_at = self._quiet_at()
        if quiet_at <= now:
            return IdleTimeout("The engine's stream stood still for too long.")
        return min(self._total_at, self._attempt_at, self._first_at, quiet_at) - now + _ROUNDING

    def _quiet_at(self) -> float:
        """When the stream will have stood still for too long. While its client does not read, it is the client that
        stands still (`server.write_timeout`)."""
        relay = self._relay
        if relay is None or self._idle is None:
            return math.inf
        return (self._clock() if relay.held_up else relay.quiet_since) + self._idle

    def _watch(self, now: float, at_most: float = math.inf) -> None:
        due = min(self._total_at, self._attempt_at, self._first_at, now + at_most)
        if due != math.inf:
            self._limit(due - now)
