"""Notifications of a degraded answer: a count, two fields of the log record, and a webhook, once an incident."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from backends.webhook import Webhooks
from gateway.exchange import Exchange
from gateway.observe.metrics import Metrics
from policies.request.routing import RouteMatch
from policies.resilience.fallback import Incidents, label_of


class FallbackNotifier:
    """Notifier of one process. `clock` is monotonic, `wall` since the epoch, both in seconds."""

    def __init__(
        self, *, metrics: Metrics, webhooks: Webhooks, clock: Callable[[], float], wall: Callable[[], float]
    ) -> None:
        self._metrics = metrics
        self._webhooks = webhooks
        self._clock = clock
        self._wall = wall
        self._incidents = Incidents()

    def recovered(self, route: str) -> None:
        """End the route's incident: its own pool has answered."""
        self._incidents.well(route)

    def degraded(self, exchange: Exchange, route_match: RouteMatch, place: int, why: str) -> None:
        """Count and report that the fallback step at `place` has answered; `why` is the failure of the own pool."""
        member = route_match.route.fallback[place]
        label = exchange.record.degraded = label_of(member)
        exchange.record.degraded_reason = why
        self._metrics.fallback(route_match.label, label).value += 1
        hook = member.webhook
        if hook is None or not self._incidents.degraded(route_match.label, place, self._clock()):
            return
        token = hook.token.value if hook.token is not None else None
        self._webhooks.notify(hook.url, token, route_match.label, self._payload(exchange, route_match, label, why))

    def _payload(self, exchange: Exchange, route_match: RouteMatch, label: str, why: str) -> dict[str, Any]:
        """Return the webhook's payload: names, never addresses."""
        return {
            "event": "degraded",
            "time": datetime.fromtimestamp(self._wall(), UTC).isoformat(timespec="seconds"),
            "route": route_match.label,
            "pool": route_match.route.pool,
            "why": why,
            "degraded": label,
            "status": exchange.record.status,
            "request_id": exchange.request_id,
            "attempts": [
                {"endpoint": name, "outcome": outcome, "ms": took} for name, outcome, took in exchange.attempt.trail
            ],
        }
