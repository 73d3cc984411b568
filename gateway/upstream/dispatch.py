"""One attempt on the wire: the request out to an endpoint, the answer's beginning in, and its release to the client."""

import asyncio
from collections.abc import Callable

from backends.http1.connection import UpstreamConnection
from backends.pool.endpoint import Endpoint
from gateway.errors import GatewayError
from gateway.exchange import Exchange
from gateway.http.headers import downstream_filter, reply_headers, upstream_filter, upstream_head
from gateway.http.write_batch import WriteBatch
from gateway.observe.metrics import Metrics
from gateway.relay.relay import Relay
from policies.request.describe import rewrite_model
from policies.request.paths import with_model
from policies.request.routing import RouteMatch
from policies.request.usage.strip import UsageStrip


class Dispatch:
    """Sends and receives for the attempts of one process; decides nothing. `clock` is monotonic, in seconds."""

    def __init__(self, *, metrics: Metrics, loop: asyncio.AbstractEventLoop, clock: Callable[[], float]) -> None:
        self._metrics = metrics
        self._loop = loop
        self._clock = clock
        self._outbox = WriteBatch(loop)
        self._up = upstream_filter()
        self._down = downstream_filter()

    # -- to the first content

    def send(self, exchange: Exchange, endpoint: Endpoint, routed: RouteMatch, connection: UpstreamConnection) -> Relay:
        """Send the request; what comes back goes into the relay."""
        relay = exchange.relay = Relay(exchange.cycle, self._clock, exchange.broken)
        if exchange.strips:
            relay.strip = UsageStrip()
        relay.attach(connection)
        head, body = self._request(exchange, endpoint, routed)
        exchange.dispatched = self._clock()
        exchange.phase = "first_byte"
        exchange.cycle.wire.limit(exchange.first_look)
        self._outbox.request(connection, head, body, relay, head_request=exchange.method == "HEAD")
        return relay

    def send_beside(
        self, exchange: Exchange, endpoint: Endpoint, routed: RouteMatch, connection: UpstreamConnection
    ) -> Relay:
        """The same where several attempts run beside each other: which of them the exchange tells of, and its limits,
        are the caller's."""
        relay = Relay(exchange.cycle, self._clock, exchange.broken)
        if exchange.strips:
            relay.strip = UsageStrip()
        relay.attach(connection)
        try:
            head, body = self._request(exchange, endpoint, routed)
        except BaseException:
            connection.abort()
            raise
        self._outbox.request(connection, head, body, relay, head_request=exchange.method == "HEAD")
        return relay

    async def connect(self, exchange: Exchange, endpoint: Endpoint, timeout: float) -> UpstreamConnection:
        """A fresh connection. It is made in a task of its own, which is given up with the request."""
        exchange.phase = "connect"
        exchange.cycle.wire.limit(exchange.first_look)
        task = self.connecting(endpoint, timeout)
        try:
            return await task
        except BaseException:
            give_up(task)
            raise

    def connecting(self, endpoint: Endpoint, timeout: float) -> asyncio.Task[UpstreamConnection]:
        """A connection that is being made; whoever asked for it takes it or gives it up."""
        return self._loop.create_task(endpoint.connect(timeout), name=f"connect {endpoint.name}")

    def _request(self, exchange: Exchange, endpoint: Endpoint, routed: RouteMatch) -> tuple[bytes, bytes]:
        """Head and body as they go upstream: the client's bytes, save the headers that end here and a renamed model."""
        body, target = exchange.body, exchange.target
        if routed.upstream_model != exchange.model and routed.upstream_model is not None:
            body, target = _renamed(exchange, routed.upstream_model)
        kept = self._up.kept(exchange.wire_headers, exchange.connection())
        if endpoint.spec.headers:
            # What the operator tells an engine, no client tells it too: some engines read the first, others the last.
            told = {name.lower().encode("latin-1") for name, _ in endpoint.spec.headers}
            kept = [pair for pair in kept if pair[0].replace(b"_", b"-") not in told]
        length = len(body) if body or exchange.method == "POST" else None
        return upstream_head(endpoint.request_head(exchange.method, target), kept, exchange.request_id, length), body

    # -- from the first content on

    def release(self, exchange: Exchange, endpoint: Endpoint, relay: Relay) -> None:
        """The answer has begun: from here on it belongs to the client."""
        exchange.phase, exchange.status, exchange.first_content = "stream", relay.status, relay.began_at
        headers, length_known = reply_headers(
            self._down, relay.status, relay.headers, endpoint.origin, stream=relay.stream
        )
        if exchange.flight is not None:
            exchange.flight.begin(relay, headers, length_known=length_known)
        headers.append((b"x-request-id", exchange.request_id.encode()))
        headers.append((b"x-sluice-attempts", b"%d" % exchange.attempts))
        headers += endpoint.reply_headers
        headers += exchange.extra_headers
        if exchange.spent:
            headers.append((b"x-should-retry", b"false"))
        gap = None
        if relay.stream:
            self._metrics.open_streams.value += 1
            gap = self._metrics.gap(exchange.model or "", endpoint.spec.pool)
        relay.release(headers, length_known=length_known, gap=gap, outbox=self._outbox)
        exchange.released = self._clock()
        if relay.stream and not relay.over:
            # Ask now what may run out next: from here on that is the stream's standing still.
            next_look = exchange.overdue(exchange.released)
            exchange.cycle.wire.limit(0.0 if isinstance(next_look, GatewayError) else next_look)

    def give_back(self, exchange: Exchange, endpoint: Endpoint) -> None:
        """The attempt has ended, one way or another: an exchange that is not over leaves its upstream."""
        relay = exchange.relay
        if relay is None:
            return
        relay.close()
        if relay.stream and relay.released:
            self._metrics.open_streams.value -= 1
        if not relay.framed:
            endpoint.meter.unframed.value += 1


def give_up(connecting: asyncio.Task[UpstreamConnection]) -> None:
    """Nobody wants it any more: no socket is left, and no exception that nobody retrieved."""
    if not connecting.cancel() and not connecting.cancelled() and connecting.exception() is None:
        connecting.result().abort()


def _renamed(exchange: Exchange, model: str) -> tuple[bytes, bytes]:
    """Body and target with the model's name at the engine: DESIGN rule 8's declared edit, which leaves every other
    byte as it came."""
    if exchange.kind.model_in == "path":
        path, mark, query = exchange.target.partition(b"?")
        return exchange.body, with_model(path, model) + mark + query
    return rewrite_model(
        exchange.body, model, exchange.kind.model_in, exchange.fields.get(b"content-type")
    ), exchange.target
