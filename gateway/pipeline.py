"""THE ORDER: what happens to a request, from the first byte in to the last byte out (DESIGN section 2).

`Pipeline._answer` is the table of contents. Whatever is taken is given back by leaving its `with` block or in `finally`.
"""

import asyncio
import functools
import logging
from collections.abc import Callable
from typing import Final

from backends.endpoint import Endpoint
from backends.http1 import Connection
from backends.upstream import UpstreamError
from backends.plane import DataPlane, EndpointFailed, View
from backends.pool import Pool
from backends.wheel import TimerWheel
from gateway import errors
from gateway.client import ClientGone
from gateway.exchange import Exchange
from gateway.headers import Headers, downstream_filter, upstream_filter, upstream_head
from gateway.observe.access_log import AccessLog
from gateway.observe.metrics import Metrics
from gateway.relay import Relay
from policies import outcome as outcomes
from policies.describe import Call, Refused, describe, refuse_engine_fields, rewrite_model
from policies.identity import AuthenticationError, Principal
from policies.outcome import Outcome
from policies.paths import with_model
from policies.routing import Routed, RouteRefused

log = logging.getLogger("sluice.pipeline")

# Over this size a body is scanned in a thread (FAULTS row 45).
SCAN_ON_LOOP: Final = 1 << 20


class Pipeline:
    """The data plane's way of answering one request. One object a process; everything about one request is in its Exchange."""

    def __init__(
        self, *, plane: DataPlane, metrics: Metrics, access: AccessLog | None, wheel: TimerWheel,
        loop: asyncio.AbstractEventLoop, clock: Callable[[], float],
    ) -> None:  # fmt: skip
        """`clock` is monotonic, in seconds, and finer than the loop's, which uvloop rounds to milliseconds."""
        self._plane = plane
        self._metrics = metrics
        self._access = access
        self._wheel = wheel
        self._loop = loop
        self._clock = clock
        self._up = upstream_filter()
        self._down = downstream_filter()

    async def serve(self, exchange: Exchange, view: View) -> None:
        """Answer one request, whatever happens. Never raises."""
        try:
            await self._answer(exchange, view)
        except errors.GatewayError as error:
            self._fail(exchange, error)
        except ClientGone:
            exchange.gone = True
            self._metrics.client_gone(exchange.phase)
        except Exception:
            log.exception("fault of ours request_id=%s", exchange.request_id)
            self._fail(exchange, errors.InternalError("The gateway failed. The operator can find the cause by the request id."))
        finally:
            self._settle(exchange)

    async def refuse(self, exchange: Exchange, error: errors.GatewayError) -> None:
        """Answer a request that has no way through the gateway; it is counted and logged like any other."""
        self._fail(exchange, error)
        self._settle(exchange)

    async def _answer(self, exchange: Exchange, view: View) -> None:
        principal = exchange.principal = self._authenticate(exchange, view)
        await self._read_body(exchange, view.table.max_body)
        call = await self._describe(exchange, principal)
        routed = self._route(exchange, view, principal, call)
        # Later issues: limit, cache and admit stand here.
        endpoint = self._choose(exchange, view.pools[routed.route.pool])
        exchange.cycle.wire.limit(routed.route.timeouts.total)
        with endpoint.slot:
            await self._attempt(exchange, endpoint, routed)

    # -- the steps, in their order

    def _authenticate(self, exchange: Exchange, view: View) -> Principal:
        fields = exchange.fields
        authorization, x_api_key = fields.get(b"authorization"), fields.get(b"x-api-key")
        if not (exchange.single(b"authorization") and exchange.single(b"x-api-key")):
            authorization = b"Bearer sent, twice"
        try:
            principal = view.authenticator.authenticate(authorization, x_api_key)
        except AuthenticationError as error:
            raise errors.InvalidApiKey(str(error)) from None
        if exchange.kind.scope not in principal.scopes:
            raise errors.ScopeNotAllowed(f"This key may not use {exchange.kind.scope}; its plan must list that scope.")
        return principal

    async def _read_body(self, exchange: Exchange, limit: int) -> None:
        """The whole body, at most `limit` bytes: refused by its declared length before a byte of it is asked for."""
        fields, cycle = exchange.fields, exchange.cycle
        if fields.get(b"transfer-encoding", b"chunked").lower() != b"chunked":
            raise errors.InvalidRequest("Only the transfer coding chunked is understood.")
        if int(fields.get(b"content-length", b"0")) > limit:
            raise errors.BodyTooLarge(f"The body is over the limit of {limit} bytes (server.max_body).")
        whole = not cycle.more_body
        exchange.body = await cycle.read_body(limit)
        if not whole:
            exchange.received = self._clock()
        if fields.get(b"content-encoding", b"identity").lower() != b"identity":
            raise errors.UnsupportedMediaType("Send the body without a content coding.")

    async def _describe(self, exchange: Exchange, principal: Principal) -> Call:
        kind, body = exchange.kind, exchange.body
        read = functools.partial(
            describe, body, kind.model_in, content_type=exchange.fields.get(b"content-type"), model=kind.model, streams=kind.streams
        )
        try:
            call = read() if len(body) <= SCAN_ON_LOOP else await asyncio.to_thread(read)
            refuse_engine_fields(call, principal.scopes)
        except Refused as error:
            raise _REFUSALS[error.code](str(error), param=error.param) from None
        exchange.stream = call.stream
        return call

    def _route(self, exchange: Exchange, view: View, principal: Principal, call: Call) -> Routed:
        try:
            routed = view.routes.find(exchange.kind, call.model, principal)
        except RouteRefused as error:
            if error.code == "model_not_allowed":
                raise errors.ModelNotAllowed(str(error), param="model") from None
            if error.code == "path_not_found":
                raise errors.PathNotFound(str(error)) from None
            raise errors.ModelNotFound(str(error), param="model") from None
        exchange.model = call.model
        exchange.upstream_model = routed.upstream_model
        exchange.route, exchange.pool = routed.label, routed.route.pool
        return routed

    def _choose(self, exchange: Exchange, pool: Pool) -> Endpoint:
        endpoint = pool.choose()
        if endpoint is None:
            raise errors.NoEndpoint(f"No endpoint of pool {pool.name} is available now. Try again shortly.", retry_after=1)
        exchange.endpoint = endpoint.name
        return endpoint

    async def _attempt(self, exchange: Exchange, endpoint: Endpoint, routed: Routed) -> None:
        """One attempt, settled once with its outcome. The free repeat after a reset of a reused connection is part of it."""
        exchange.attempts += 1
        relay = exchange.relay = Relay(exchange.cycle, self._clock, exchange.broken)
        outcome = outcomes.CLIENT_GONE
        try:
            await self._send(exchange, endpoint, routed, relay)
            if relay.error is not None and relay.began_at is None:
                raise relay.error
            self._release(exchange, endpoint, relay)
            await relay.finished()
            outcome = _outcome(relay)
        except UpstreamError as error:
            outcome = outcomes.NOT_SENT if error.kind in _NOT_SENT else outcomes.NO_ANSWER
            self._plane.emit(EndpointFailed(endpoint.spec.pool, endpoint.name, error.kind))
            raise _client_error(error) from None
        finally:
            if relay.released and relay.stream:
                self._metrics.open_streams.value -= 1
            relay.close()
            exchange.outcome = outcome.label
            endpoint.settle(outcome)

    async def _send(self, exchange: Exchange, endpoint: Endpoint, routed: Routed, relay: Relay) -> None:
        body, target = exchange.body, exchange.target
        if routed.upstream_model != exchange.model and routed.upstream_model is not None:
            body, target = _renamed(exchange, routed.upstream_model)
        kept = self._up.kept(exchange.wire_headers, exchange.fields.get(b"connection"))
        length = len(body) if body or exchange.method == "POST" else None
        head = upstream_head(endpoint.request_head(exchange.method, target), kept, exchange.request_id, length)
        head_request = exchange.method == "HEAD"
        connect = routed.route.timeouts.connect
        exchange.phase = "connect"
        connection = endpoint.take() or await self._connect(endpoint, connect)
        exchange.phase, exchange.dispatched = "first_byte", self._clock()
        relay.attach(connection)
        connection.send(head, body, relay, head_request=head_request)
        await relay.begun()
        if relay.error is not None and relay.error.kind == "reset_reused":
            relay.reset()
            connection = await self._connect(endpoint, connect)
            relay.attach(connection)
            connection.send(head, body, relay, head_request=head_request)
            await relay.begun()

    async def _connect(self, endpoint: Endpoint, timeout: float) -> Connection:
        """A fresh connection. It is made in a task of its own, which is given up with the request."""
        task = self._loop.create_task(endpoint.connect(timeout), name=f"connect {endpoint.name}")
        try:
            return await task
        except BaseException:
            if not task.cancel() and not task.cancelled() and task.exception() is None:
                task.result().abort()
            raise

    def _release(self, exchange: Exchange, endpoint: Endpoint, relay: Relay) -> None:
        """The answer has begun: from here on it belongs to the client."""
        exchange.phase, exchange.status = "stream", relay.status
        exchange.first_content = relay.began_at
        headers, length_known = self._reply_headers(exchange, endpoint, relay)
        gap = None
        if relay.stream and exchange.pool is not None:
            gap = self._metrics.gap(exchange.model, exchange.pool)
            self._metrics.open_streams.value += 1
        relay.release(headers, length_known=length_known, gap=gap)
        exchange.released = self._clock()

    def _reply_headers(self, exchange: Exchange, endpoint: Endpoint, relay: Relay) -> tuple[Headers, bool]:
        names = dict(relay.headers)
        headers = self._down.kept(relay.headers, names.get(b"connection"))
        headers.append((b"x-request-id", exchange.request_id.encode()))
        headers.append((b"x-sluice-attempts", b"%d" % exchange.attempts))
        headers += endpoint.reply_headers
        if relay.stream:
            if b"cache-control" not in names:
                headers.append((b"cache-control", b"no-cache"))
            if b"x-accel-buffering" not in names:
                headers.append((b"x-accel-buffering", b"no"))
        return headers, b"content-length" in names

    # -- how it ends

    def _fail(self, exchange: Exchange, error: errors.GatewayError) -> None:
        """Tell the client: as a status while nothing was sent, else by breaking the stream off honestly."""
        relay = exchange.relay
        if not exchange.cycle.begun:
            exchange.refuse(error)
        elif relay is not None and not exchange.cycle.complete:
            exchange.error = error.code
            relay.interrupt(errors.error_event(error, exchange.kind.family, named=exchange.kind.named_events))

    def _settle(self, exchange: Exchange) -> None:
        """One log line and one count a request; everything taken was given back before."""
        now = self._clock()
        metrics, relay = self._metrics, exchange.relay
        if relay is not None and relay.tap is not None:
            self._settle_relay(exchange, relay)
        tenant = exchange.principal.tenant if exchange.principal is not None else None
        status = 499 if exchange.gone else exchange.status
        model = exchange.model if exchange.route is not None else None
        metrics.finished(exchange.route, model, exchange.pool, tenant, exchange.stream, status, now - exchange.started)
        if self._access is not None:
            self._access.write(exchange.record(now))

    def _settle_relay(self, exchange: Exchange, relay: Relay) -> None:
        metrics, tap = self._metrics, relay.tap
        assert tap is not None and exchange.pool is not None, "a released relay has a tap and a pool"
        exchange.size_out, exchange.events = tap.size, tap.events
        exchange.usage = prompt, completion = tap.usage()
        tenant = exchange.principal.tenant if exchange.principal is not None else None
        if prompt is not None or completion is not None:
            metrics.tokens(exchange.model, tenant, prompt or 0, completion or 0)
        if exchange.dispatched is None or relay.began_at is None or exchange.released is None:
            return
        metrics.overhead(exchange.dispatched - exchange.received + exchange.released - relay.began_at)
        if relay.stream:
            metrics.first_byte(exchange.model, exchange.pool)(relay.began_at - exchange.dispatched)
            if completion is not None and completion > 1:
                metrics.output_token(exchange.model, exchange.pool)((relay.last_at - relay.began_at) / (completion - 1))


def _renamed(exchange: Exchange, model: str) -> tuple[bytes, bytes]:
    """Body and target with the model's name at the engine: rule 8's declared edit, which leaves every other byte as it came."""
    if exchange.kind.model_in == "path":
        path, mark, query = exchange.target.partition(b"?")
        return exchange.body, with_model(path, model) + mark + query
    return rewrite_model(exchange.body, model, exchange.kind.model_in, exchange.fields.get(b"content-type")), exchange.target


_REFUSALS: Final = {
    "unsupported_media_type": errors.UnsupportedMediaType,
    "invalid_json": errors.InvalidJson, "invalid_request": errors.InvalidRequest, "field_not_allowed": errors.FieldNotAllowed,
}  # fmt: skip
_NOT_SENT: Final = frozenset({"refused", "connect_timeout", "tls", "dns"})


def _outcome(relay: Relay) -> Outcome:
    """What the endpoint is told of an answer of which the client got at least the head."""
    if relay.error is not None:
        return outcomes.BROKEN_OFF
    failed = relay.first_event_error or (relay.tap.error if relay.tap is not None else None)
    return outcomes.of_status(failed or relay.status)


def _client_error(error: UpstreamError) -> errors.GatewayError:
    """What the client is told: the kind of failure, never the address."""
    if error.kind == "connect_timeout":
        return errors.ConnectTimeout("The engine did not accept a connection in time.")
    if error.kind in _NOT_SENT:
        return errors.UpstreamUnreachable(f"The engine could not be reached ({error.kind}).")
    if error.kind == "malformed":
        return errors.UpstreamFailed("The engine's answer was not valid HTTP.")
    return errors.UpstreamFailed("The engine closed the connection without an answer.")
