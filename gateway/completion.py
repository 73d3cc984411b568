"""What is told of a request once it is over: one count, one log line, and the figures of its answer."""

from collections.abc import Callable

from gateway.exchange import Exchange
from gateway.observe.access_log import AccessLog
from gateway.observe.metrics import Metrics
from gateway.relay.relay import Relay
from gateway.relay.stream_tap import StreamTap


class Completion:
    """Called once an exchange, at its end, after everything that was taken has been given back."""

    def __init__(self, metrics: Metrics, access: AccessLog | None, clock: Callable[[], float]) -> None:
        self._metrics = metrics
        self._access = access
        self._clock = clock

    def settle(self, exchange: Exchange) -> None:
        """Count and log it."""
        now = self._clock()
        relay = exchange.relay
        if relay is not None and relay.tap is not None:
            self._answer(exchange, relay, relay.tap)
        tenant = exchange.principal.tenant if exchange.principal is not None else None
        if exchange.gone:
            self._metrics.client_gone(exchange.gone_in or exchange.phase)
            exchange.status, exchange.error = 499, "client_gone"
        # A name that no route has may be anything; the log has it, the metrics do not.
        model = exchange.model if exchange.route is not None else None
        self._metrics.finished(
            exchange.route, model, exchange.pool, tenant, exchange.stream, exchange.status, now - exchange.started
        )
        if self._access is not None:
            self._access.write(exchange.record(now))

    def _answer(self, exchange: Exchange, relay: Relay, tap: StreamTap) -> None:
        metrics, model, pool = self._metrics, exchange.model, exchange.pool
        assert pool is not None, "an answer came from a pool"
        strip = relay.strip
        if strip is None:
            exchange.size_out, exchange.events = tap.size, tap.events
            exchange.usage = prompt, completion = tap.usage()
        else:
            exchange.size_out, exchange.events = tap.size - strip.less, tap.events - bool(strip.taken)
            exchange.usage = prompt, completion = tap.usage(strip.taken)
        if prompt is not None or completion is not None:
            tenant = exchange.principal.tenant if exchange.principal is not None else None
            metrics.tokens(model, tenant, prompt or 0, completion or 0)
        if exchange.dispatched is None or relay.began_at is None or exchange.released is None:
            return
        if exchange.attempts == 1:
            # Of several attempts the time between is the engines' and the backoff's, not ours.
            metrics.overhead(exchange.dispatched - exchange.received + exchange.released - relay.began_at)
        if relay.stream:
            metrics.first_byte(model or "", pool)(relay.began_at - exchange.dispatched)
            if completion is not None and completion > 1:
                metrics.output_token(model or "", pool)((relay.last_at - relay.began_at) / (completion - 1))
