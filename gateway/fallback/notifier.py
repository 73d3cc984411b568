"""What is told of a degraded answer: a count, two fields of the access log, and a person, once an incident."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from backends.webhook import Webhooks
from gateway.exchange import Exchange
from gateway.observe.metrics import Metrics
from policies.request.routing import RouteMatch
from policies.resilience.fallback import Incidents, label_of


class FallbackNotifier:
    """Of one process. `clock` is monotonic, `wall` since the epoch, both in seconds."""

    def __init__(
        self, *, metrics: Metrics, webhooks: Webhooks, clock: Callable[[], float], wall: Callable[[], float]
    ) -> None:
        self._metrics = metrics
        self._webhooks = webhooks
        self._clock = clock
        self._wall = wall
        self._incidents = Incidents()

    def well(self, route: str) -> None:
        """The route's own pool has answered."""
        self._incidents.well(route)

    def answered(self, exchange: Exchange, routed: RouteMatch, place: int, why: str) -> None:
        """The step at this place of the route's fallback has; `why` is what kept its own pool from it."""
        member = routed.route.fallback[place]
        label = exchange.degraded = label_of(member)
        exchange.degraded_why = why
        self._metrics.fallback(routed.label, label).value += 1
        hook = member.webhook
        if hook is None or not self._incidents.degraded(routed.label, place, self._clock()):
            return
        token = hook.token.value if hook.token is not None else None
        self._webhooks.tell(hook.url, token, routed.label, self._what(exchange, routed, label, why))

    def _what(self, exchange: Exchange, routed: RouteMatch, label: str, why: str) -> dict[str, Any]:
        """What happened, in names."""
        return {
            "event": "degraded",
            "time": datetime.fromtimestamp(self._wall(), UTC).isoformat(timespec="seconds"),
            "route": routed.label,
            "pool": routed.route.pool,
            "why": why,
            "degraded": label,
            "status": exchange.status,
            "request_id": exchange.request_id,
            "attempts": [{"endpoint": name, "outcome": outcome, "ms": took} for name, outcome, took in exchange.trail],
        }
