"""An engine's own answer that is not passed on, because the route's fallback comes first (policy key
`routes[].fallback`).

Nothing of it has gone to the client yet (DESIGN rule 1), so the chain may still answer in its place.
"""

from typing import Final

from gateway import errors
from gateway.exchange import Exchange
from gateway.relay.relay import HOLD_LIMIT, Relay
from policies.request.routing import RouteMatch
from policies.resilience.fallback import TOO_LONG, FailureKind, falls, next_member, says_too_long
from policies.resilience.outcome import Outcome

_SATURATED: Final = frozenset({429, 503})


async def hand_on(exchange: Exchange, routed: RouteMatch, outcome: Outcome, relay: Relay) -> None:
    """Raise the error that leads into the route's chain; return where the answer is the client's: there is no chain, it
    is no failure of ours, or nobody is left in the chain."""
    if not routed.route.fallback:
        return
    status = relay.first_event_error or relay.status
    if status == 400:
        if _left(exchange, routed, FailureKind(TOO_LONG, too_long=True)) and await _says_too_long(relay):
            raise _instead(errors.ContextTooLong("The prompt is longer than the pool's engines take."), TOO_LONG)
    elif falls(outcome.label, routed.route.retry) and _left(exchange, routed, FailureKind(outcome.label)):
        if status in _SATURATED:
            busy = errors.NoEndpoint("The engines take no more work now. Try again.", retry_after=1)
            raise _instead(busy, outcome.label)
        raise _instead(errors.UpstreamFailed(f"The engine failed with status {status}."), outcome.label)


def _left(exchange: Exchange, routed: RouteMatch, failure: FailureKind) -> bool:
    """Whether somebody after the present step may answer; whether a pool has room is seen when it is asked."""
    return next_member(routed.route.fallback, exchange.place, failure, lambda _: True) is not None


def _instead(error: errors.GatewayError, why: str) -> errors.GatewayError:
    error.why = why
    return error


async def _says_too_long(relay: Relay) -> bool:
    """Read the whole of a short answer, and look what it says."""
    length = dict(relay.headers).get(b"content-length", b"")
    if not relay.stream and not (length.isdigit() and int(length) <= HOLD_LIMIT):
        return False
    while not relay.stream and not relay.over:
        await relay.change()
    return relay.error is None and says_too_long(relay.held)
