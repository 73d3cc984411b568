"""Completion of an exchange: one count, one access-log line, and the figures of its answer."""

import time
from collections.abc import Callable

from gateway.exchange import Exchange
from gateway.observe.access_log import AccessLog, AccessLogEntry
from gateway.observe.metrics import Metrics
from gateway.relay.relay import Relay
from gateway.relay.stream_tap import StreamTap


class Completion:
    """Counts and logs every exchange of one process; `finish` runs once an exchange, at its end."""

    def __init__(self, metrics: Metrics, access: AccessLog | None, clock: Callable[[], float]) -> None:
        """`access` None: no access log. `clock` is monotonic, in seconds."""
        self._metrics = metrics
        self._access = access
        self._clock = clock

    def finish(self, exchange: Exchange) -> None:
        """Count and log the exchange; write usage and sizes of its answer into its record."""
        now = self._clock()
        relay, record = exchange.attempt.relay, exchange.record
        if relay is not None and relay.tap is not None:
            self._answer(exchange, relay, relay.tap)
        tenant = exchange.principal.tenant if exchange.principal is not None else None
        if record.client_gone:
            self._metrics.client_gone((record.gone_phase or exchange.attempt.phase).value)
            record.status, record.error = 499, "client_gone"
        # A name that no route has may be anything; the log has it, the metrics do not.
        model = exchange.model if exchange.route is not None else None
        self._metrics.finished(
            exchange.route, model, exchange.pool, tenant, exchange.stream, record.status, now - exchange.started
        )
        if self._access is not None:
            self._access.write(_entry(exchange, now))

    def _answer(self, exchange: Exchange, relay: Relay, tap: StreamTap) -> None:
        metrics, model, pool = self._metrics, exchange.model, exchange.pool
        attempt, record = exchange.attempt, exchange.record
        assert pool is not None, "an answer came from a pool"
        strip = relay.strip
        if strip is None:
            record.size_out, record.events = tap.size, tap.events
            record.usage = prompt, completion = tap.usage()
        else:
            record.size_out, record.events = tap.size - strip.less, tap.events - bool(strip.taken)
            record.usage = prompt, completion = tap.usage(strip.taken)
        if prompt is not None or completion is not None:
            tenant = exchange.principal.tenant if exchange.principal is not None else None
            metrics.tokens(model, tenant, prompt or 0, completion or 0)
        if attempt.dispatched_at is None or relay.began_at is None or attempt.released_at is None:
            return
        if attempt.count == 1:
            # Of several attempts the time between is the engines' and the backoff's, not ours.
            metrics.overhead(attempt.dispatched_at - attempt.ready_at + attempt.released_at - relay.began_at)
        if relay.stream:
            metrics.first_byte(model or "", pool)(relay.began_at - attempt.dispatched_at)
            if completion is not None and completion > 1:
                metrics.output_token(model or "", pool)((relay.last_at - relay.began_at) / (completion - 1))


def _entry(exchange: Exchange, now: float) -> AccessLogEntry:
    """Return the line of the access log, without the credential and the body."""
    attempt, record, principal = exchange.attempt, exchange.record, exchange.principal
    prompt, completion = record.usage
    first_content, overhead = attempt.first_content_at, None
    if attempt.count == 1 and attempt.released_at is not None and first_content is not None:
        assert attempt.dispatched_at is not None, "released after it was sent"
        overhead = (attempt.dispatched_at - attempt.ready_at + attempt.released_at - first_content) * 1000
    # By position, in the order of the fields: 32 names would cost 0.8 us.
    return AccessLogEntry(
        time.time() - (now - exchange.started),  # noqa: TID251  the log's wall clock
        exchange.request_id,  # request_id
        exchange.client_request_id,  # client_request_id
        exchange.client,  # client
        principal.key if principal else None,  # key
        principal.tenant if principal else None,  # tenant
        principal.plan if principal else None,  # plan
        exchange.method,  # method
        exchange.request.raw_path.decode("latin-1"),  # path
        exchange.model,  # model
        exchange.route,  # route
        exchange.pool,  # pool
        attempt.endpoint,  # endpoint
        record.status,  # status
        record.error,  # code
        exchange.stream,  # stream
        attempt.count,  # attempts
        attempt.outcome,  # outcome
        (*attempt.trail, attempt.step()) if len(attempt.trail) < attempt.count else attempt.trail,  # trail
        (now - exchange.started) * 1000,  # ms
        None if first_content is None else (first_content - exchange.started) * 1000,  # first_byte_ms
        overhead,  # overhead_ms
        None if record.queued is None else record.queued * 1000,  # queued_ms
        len(exchange.body) if record.size_in is None else record.size_in,  # bytes_in
        record.size_out,  # bytes_out
        record.events,  # events
        prompt,  # prompt_tokens
        completion,  # completion_tokens
        (record.gone_phase or attempt.phase).value if record.client_gone else None,  # client_gone
        record.degraded,  # degraded
        record.degraded_reason,  # degraded_why
        record.cache,  # cache
    )
