"""Timeouts of a request: which one has expired, or the seconds to the next check.

    timeout            policy key                            runs                                      error
    total              timeouts.total, x-sluice-deadline     from the request's start to its end       DeadlineExceeded
    queue              pools.*.queue.wait                    while the request waits for a slot        QueueTimeout
    attempt            timeouts.attempt                      from the choice of an endpoint            AttemptTimeout
    first byte         timeouts.first_byte[_plain]           from dispatch to the first content        FirstByteTimeout
    idle               timeouts.idle                         between two reads of a stream             IdleTimeout

The timeout of a connection being made (`timeouts.connect`) belongs to `backends.http1.connection_pool`; those of the
client's own connection (head, body, write, keep-alive) to `gateway.http.timers`.

All of them share the one lazy timer of the client's connection: each attempt sets once when its first check is due
(`policies.request.routing.RouteMatch.first_looks`), a stream's reads touch nothing, and only when the timer fires this
module works out what has expired.
"""

import math
from typing import Final

from gateway.errors import (
    AttemptTimeout,
    DeadlineExceeded,
    FirstByteTimeout,
    GatewayError,
    IdleTimeout,
    InvalidRequest,
    QueueTimeout,
)
from gateway.exchange import Exchange, Phase
from policies.resilience.deadline import DeadlineError, time_left

# The connection's timer keeps the loop's time, which is rounded to milliseconds: it may fire so much too early.
_ROUNDING: Final = 0.001
_NEVER: Final = math.inf
_BEFORE_ATTEMPT: Final = frozenset({Phase.REQUEST, Phase.QUEUE, Phase.RETRY})


class RequestTimeouts:
    """Timekeeper of one exchange, for the timer of its client's connection (`gateway.http.request.Timekeeper`)."""

    __slots__ = ("_exchange",)

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def overdue(self, now: float) -> float | GatewayError | None:
        """Return the error of the timeout that has expired, the seconds to the next check, or None for no timeout."""
        return overdue(self._exchange, now)


def overdue(exchange: Exchange, now: float) -> float | GatewayError | None:
    """Return the error of the timeout that has expired at `now`, the seconds to the next check, or None for no
    timeout."""
    attempt, timeouts = exchange.attempt, exchange.timeouts
    total_at = exchange.started + _or_never(exchange.total)
    attempt_at = first_at = quiet_at = _NEVER
    phase = attempt.phase
    if phase not in _BEFORE_ATTEMPT:
        attempt_at = attempt.began_at + _or_never(timeouts.attempt)
    if phase is Phase.FIRST_BYTE and attempt.dispatched_at is not None:
        first = timeouts.first_byte if exchange.stream else timeouts.first_byte_plain
        first_at = attempt.dispatched_at + _or_never(first)
    if phase is Phase.STREAM:
        quiet_at = _quiet_at(exchange, now)
    wait_until = attempt.queue_deadline if phase is Phase.QUEUE else _NEVER
    late = now + _ROUNDING
    if total_at <= late:
        return DeadlineExceeded("The answer took longer than the request's deadline allows.")
    if wait_until <= late:
        return QueueTimeout("The request waited too long for a place (the pool's queue.wait). Try again later.")
    if attempt_at <= late:
        return AttemptTimeout("The engine's answer took longer than the route's attempt timeout.")
    if first_at <= late:
        return FirstByteTimeout("The engine sent no content in time.")
    if quiet_at <= late:
        return IdleTimeout("The engine's stream stood still for too long.")
    next_at = min(total_at, wait_until, attempt_at, first_at, quiet_at)
    return None if next_at == _NEVER else next_at - now


def arm(exchange: Exchange, now: float) -> None:
    """Set the connection's timer to the next check; at once where a timeout has expired."""
    verdict = overdue(exchange, now)
    exchange.request.wire.limit(0.0 if isinstance(verdict, GatewayError) else verdict)


def apply_client_deadline(exchange: Exchange, header: bytes, now: float) -> None:
    """Lower the total timeout to the client's x-sluice-deadline; a longer one changes nothing. Raises InvalidRequest,
    DeadlineExceeded."""
    try:
        total = time_left(header)
    except DeadlineError as error:
        raise InvalidRequest(str(error)) from None
    if exchange.total is not None and exchange.total <= total:
        return
    exchange.client_deadline, exchange.total = True, total
    left = exchange.started + total - now
    if left <= 0:
        raise DeadlineExceeded("The deadline had passed before the request could be sent.")
    attempt = exchange.attempt
    attempt.first_check = left if attempt.first_check is None else min(left, attempt.first_check)


def _quiet_at(exchange: Exchange, now: float) -> float:
    """Return the time at which the stream will have been idle for too long. While the client does not read, the client
    is idle and not the engine (`server.write_timeout`)."""
    relay = exchange.attempt.relay
    if relay is None or not relay.stream:
        return _NEVER
    return (now if relay.reading_paused else relay.quiet_since) + _or_never(exchange.timeouts.idle)


def _or_never(seconds: float | None) -> float:
    return _NEVER if seconds is None else seconds
