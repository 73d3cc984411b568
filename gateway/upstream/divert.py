"""Diversion to the route's fallback chain of an answer that is the engine's own error (policy key `routes[].fallback`).

No byte of the answer has gone to the client yet (DESIGN rule 1), so the chain may still answer in its place.
"""

from typing import Final

from gateway import errors
from gateway.exchange import Exchange
from gateway.relay.relay import HOLD_LIMIT, Relay
from policies.request.routing import RouteMatch
from policies.resilience.fallback import TOO_LONG, FailureKind, falls, next_member, says_too_long
from policies.resilience.outcome import Outcome

_SATURATED: Final = frozenset({429, 503})


async def divert_to_fallback_if_needed(exchange: Exchange, route: RouteMatch, outcome: Outcome, relay: Relay) -> None:
    """Raise the error that enters the route's fallback chain. Return where the engine's answer goes to the client: the
    route has no chain, the answer is no failure of the pool, or no step of the chain is left."""
    if not route.route.fallback:
        return
    status = relay.first_event_error or relay.status
    if status == 400:
        if _left(exchange, route, FailureKind(TOO_LONG, too_long=True)) and await _reads_too_long(relay):
            raise _with_reason(errors.ContextTooLong("The prompt is longer than the pool's engines take."), TOO_LONG)
    elif falls(outcome.label, route.route.retry) and _left(exchange, route, FailureKind(outcome.label)):
        if status in _SATURATED:
            busy = errors.NoEndpoint("The engines take no more work now. Try again.", retry_after=1)
            raise _with_reason(busy, outcome.label)
        raise _with_reason(errors.UpstreamFailed(f"The engine failed with status {status}."), outcome.label)


def _left(exchange: Exchange, route: RouteMatch, failure: FailureKind) -> bool:
    """Return whether a later step may answer; room in its pool is checked on entry."""
    return next_member(route.route.fallback, exchange.attempt.fallback_step, failure, lambda _: True) is not None


def _with_reason(error: errors.GatewayError, why: str) -> errors.GatewayError:
    error.why = why
    return error


async def _reads_too_long(relay: Relay) -> bool:
    """Read the whole of a short answer and return whether it reports a prompt that is too long."""
    length = dict(relay.headers).get(b"content-length", b"")
    if not relay.stream and not (length.isdigit() and int(length) <= HOLD_LIMIT):
        return False
    while not relay.stream and not relay.over:
        await relay.change()
    return relay.error is None and says_too_long(relay.held)
