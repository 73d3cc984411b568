"""Dispatch of one attempt on the wire: the request to an endpoint, and the release of its answer to the client."""

import asyncio
import functools
from collections.abc import Callable

from backends.http1.connection import UpstreamConnection
from backends.pool.endpoint import Endpoint
from gateway.exchange import Exchange, Phase
from gateway.http.headers import downstream_filter, reply_headers, upstream_filter, upstream_head
from gateway.http.write_batch import WriteBatch
from gateway.observe.metrics import Metrics
from gateway.relay.relay import Relay
from gateway.reply import broken_stream_event
from gateway.timeouts import arm
from policies.request.describe import rewrite_model
from policies.request.paths import with_model
from policies.request.routing import RouteMatch
from policies.request.usage.strip import UsageStrip


class Dispatch:
    """Sends the requests and releases the answers of one process's attempts; decides nothing. `clock` is monotonic, in
    seconds."""

    def __init__(self, *, metrics: Metrics, loop: asyncio.AbstractEventLoop, clock: Callable[[], float]) -> None:
        self._metrics = metrics
        self._loop = loop
        self._clock = clock
        self._batch = WriteBatch(loop)
        self._up = upstream_filter()
        self._down = downstream_filter()

    # -- to the first content

    def send(
        self, exchange: Exchange, endpoint: Endpoint, route_match: RouteMatch, connection: UpstreamConnection
    ) -> Relay:
        """Send the request and return the relay that receives the answer."""
        attempt = exchange.attempt
        relay = attempt.relay = self._relay(exchange)
        relay.attach(connection)
        head, body = self._request(exchange, endpoint, route_match)
        attempt.dispatched_at = self._clock()
        attempt.enter(Phase.FIRST_BYTE)
        exchange.request.wire.limit(attempt.first_check)
        self._batch.request(connection, head, body, relay, head_request=exchange.method == "HEAD")
        return relay

    def send_beside(
        self, exchange: Exchange, endpoint: Endpoint, route_match: RouteMatch, connection: UpstreamConnection
    ) -> Relay:
        """Send as `send` does, for attempts that run beside each other: the caller shows one of them in the exchange
        and sets the timer."""
        relay = self._relay(exchange)
        relay.attach(connection)
        try:
            head, body = self._request(exchange, endpoint, route_match)
        except BaseException:
            connection.abort()
            raise
        self._batch.request(connection, head, body, relay, head_request=exchange.method == "HEAD")
        return relay

    async def connect(self, exchange: Exchange, endpoint: Endpoint, timeout: float) -> UpstreamConnection:
        """Make a new connection, in a task of its own that is cancelled with the request. Raises UpstreamError."""
        exchange.attempt.enter(Phase.CONNECT)
        exchange.request.wire.limit(exchange.attempt.first_check)
        task = self.connecting(endpoint, timeout)
        try:
            return await task
        except BaseException:
            give_up(task)
            raise

    def connecting(self, endpoint: Endpoint, timeout: float) -> asyncio.Task[UpstreamConnection]:
        """Start a new connection; the caller takes its result or calls `give_up`."""
        return self._loop.create_task(endpoint.connect(timeout), name=f"connect {endpoint.name}")

    def _relay(self, exchange: Exchange) -> Relay:
        relay = Relay(exchange.request, self._clock, functools.partial(broken_stream_event, exchange))
        if exchange.strips_usage:
            relay.strip = UsageStrip()
        return relay

    def _request(self, exchange: Exchange, endpoint: Endpoint, route_match: RouteMatch) -> tuple[bytes, bytes]:
        """Return head and body as they go upstream: the client's bytes, save hop-by-hop headers and a renamed model."""
        body, target = exchange.body, exchange.target
        if route_match.upstream_model != exchange.model and route_match.upstream_model is not None:
            body, target = _renamed(exchange, route_match.upstream_model)
        kept = self._up.kept(exchange.headers, exchange.connection())
        if endpoint.spec.headers:
            # A client must not send a header that the operator sets: some engines read the first, others the last.
            ours = {name.lower().encode("latin-1") for name, _ in endpoint.spec.headers}
            kept = [pair for pair in kept if pair[0].replace(b"_", b"-") not in ours]
        length = len(body) if body or exchange.method == "POST" else None
        return upstream_head(endpoint.request_head(exchange.method, target), kept, exchange.request_id, length), body

    # -- from the first content on

    def release(self, exchange: Exchange, endpoint: Endpoint, relay: Relay) -> None:
        """Release an answer that has begun: head and held bytes go to the client now."""
        attempt = exchange.attempt
        attempt.enter(Phase.STREAM)
        exchange.record.status, attempt.first_content_at = relay.status, relay.began_at
        headers, length_known = reply_headers(
            self._down, relay.status, relay.headers, endpoint.origin, stream=relay.stream
        )
        if attempt.subscribers is not None:
            attempt.subscribers.begin(relay, headers, length_known=length_known)
        headers.append((b"x-request-id", exchange.request_id.encode()))
        headers.append((b"x-sluice-attempts", b"%d" % attempt.count))
        headers += endpoint.reply_headers
        headers += attempt.reply_headers
        if attempt.exhausted:
            headers.append((b"x-should-retry", b"false"))
        gap = None
        if relay.stream:
            self._metrics.open_streams.value += 1
            gap = self._metrics.gap(exchange.model or "", endpoint.spec.pool)
        relay.release(headers, length_known=length_known, gap=gap, batch=self._batch)
        attempt.released_at = self._clock()
        if relay.stream and not relay.over:
            # From here on the idle timeout of the stream may be the next one.
            arm(exchange, attempt.released_at)

    def give_back(self, exchange: Exchange, endpoint: Endpoint) -> None:
        """End the attempt at its endpoint: an upstream connection still in use is closed."""
        relay = exchange.attempt.relay
        if relay is None:
            return
        relay.close()
        if relay.stream and relay.released:
            self._metrics.open_streams.value -= 1
        if not relay.framed:
            endpoint.meter.unframed.value += 1


def give_up(connecting: asyncio.Task[UpstreamConnection]) -> None:
    """Cancel a connection that is being made: no socket and no unretrieved exception is left."""
    if not connecting.cancel() and not connecting.cancelled() and connecting.exception() is None:
        connecting.result().abort()


def _renamed(exchange: Exchange, model: str) -> tuple[bytes, bytes]:
    """Return body and target with the model's name at the engine: a declared edit (DESIGN rule 8), which leaves every
    other byte as it came."""
    if exchange.kind.model_in == "path":
        path, mark, query = exchange.target.partition(b"?")
        return exchange.body, with_model(path, model) + mark + query
    return rewrite_model(
        exchange.body, model, exchange.kind.model_in, exchange.fields.get(b"content-type")
    ), exchange.target
