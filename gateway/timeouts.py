"""What may run out while a request is under way, and which of it has: the total deadline, the attempt's time, the time
to the first content, the time between two reads of a stream, the wait for a place.

All of them share the one lazy timer of the client's connection (`gateway.http.timers`): each attempt says once when
it must be looked at first (`policies.request.routing.RouteMatch.first_looks`), a stream's reads touch nothing, and only
when the timer fires is it worked out here what is over.
"""

import math
from typing import TYPE_CHECKING, Final

from gateway.errors import (
    AttemptTimeout,
    DeadlineExceeded,
    FirstByteTimeout,
    GatewayError,
    IdleTimeout,
    InvalidRequest,
    QueueTimeout,
)
from policies.resilience.deadline import DeadlineError, time_left

if TYPE_CHECKING:
    from gateway.exchange import Exchange

# The connection's timer keeps the loop's time, which is rounded to milliseconds: it may fire so much too early.
_ROUNDING: Final = 0.001
_NEVER: Final = math.inf


def overdue(exchange: "Exchange", now: float) -> float | GatewayError | None:
    """What is over at `now`, or the seconds to the next look; None where nothing is limited."""
    total_at = exchange.started + _or_never(exchange.total)
    attempt_at = first_at = quiet_at = _NEVER
    phase, timeouts = exchange.phase, exchange.timeouts
    if phase not in ("request", "queue", "retry"):
        attempt_at = exchange.attempt_began + _or_never(timeouts.attempt)
    if phase == "first_byte" and exchange.dispatched is not None:
        first = timeouts.first_byte if exchange.stream else timeouts.first_byte_plain
        first_at = exchange.dispatched + _or_never(first)
    if phase == "stream":
        quiet_at = _quiet_at(exchange, now)
    wait_until = exchange.wait_until if phase == "queue" else _NEVER
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


def hurry(exchange: "Exchange", asked: bytes, now: float) -> None:
    """A client may leave us less time than its route does, and not more: `asked` is its x-sluice-deadline."""
    try:
        total = time_left(asked)
    except DeadlineError as error:
        raise InvalidRequest(str(error)) from None
    if exchange.total is not None and exchange.total <= total:
        return
    exchange.hurried, exchange.total = True, total
    left = exchange.started + total - now
    if left <= 0:
        raise DeadlineExceeded("The deadline had passed before the request could be sent.")
    exchange.first_look = left if exchange.first_look is None else min(left, exchange.first_look)


def _quiet_at(exchange: "Exchange", now: float) -> float:
    """When the stream will have stood still for too long. While its client does not read, it is the client that stands
    still (`server.write_timeout`)."""
    relay = exchange.relay
    if relay is None or not relay.stream:
        return _NEVER
    return (now if relay.held_up else relay.quiet_since) + _or_never(exchange.timeouts.idle)


def _or_never(seconds: float | None) -> float:
    return _NEVER if seconds is None else seconds
