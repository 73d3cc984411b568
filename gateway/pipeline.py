"""THE ORDER: what happens to a request, from the first byte in to the last byte out (DESIGN section 2).

`Pipeline.serve` is the table of contents: one line a policy, in order. Whatever is taken is given back by leaving its
`with` block or in `finally`.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from backends.endpoint import Endpoint
from backends.http1 import Connection
from backends.plane import DataPlane, EndpointFailed, View
from backends.pool import Pool
from backends.upstream import UpstreamError
from gateway import errors
from gateway.client import ClientGone
from gateway.exchange import Exchange
from gateway.headers import downstream_filter, reply_headers, upstream_filter, upstream_head
from gateway.observe.metrics import Metrics
from gateway.outbox import Outbox
from gateway.relay import Relay
from gateway.settle import Settlement
from gateway.words import NOT_SENT, REFUSALS, ROUTE_REFUSALS, client_error, outcome_of
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
    """The data plane's way of answering one request. One object a process; everything about one request is in its
    Exchange."""

    def __init__(
        self,
        *,
        plane: DataPlane,
        metrics: Metrics,
        settlement: Settlement,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float],
    ) -> None:
        """`clock` is monotonic, in seconds, and finer than the loop's, which uvloop rounds to milliseconds."""
        self._plane = plane
        self._metrics = metrics
        self._settlement = settlement
        self._loop = loop
        self._outbox = Outbox(loop)
        self._clock = clock
        self._up = upstream_filter()
        self._down = downstream_filter()

    async def serve(self, exchange: Exchange, view: View) -> None:
        """Answer one request, whatever happens. Never raises."""
        try:
            principal = self._authenticate(exchange, view)
            await self._body(exchange, view.table.max_body) if exchange.cycle.more_body else self._whole_body(
                exchange, view
            )
            call = (
                self._describe(exchange) if len(exchange.body) <= SCAN_ON_LOOP else await self._describe_aside(exchange)
            )
            routed = self._route(exchange, view, principal, call)
            # Later issues: limit, cache and admit stand here.
            endpoint = self._choose(exchange, view.pools[routed.route.pool])
            exchange.cycle.wire.limit(routed.route.timeouts.total)
            with endpoint.slot:
                await self._attempt(exchange, endpoint, routed)
        except errors.GatewayError as error:
            self._fail(exchange, error)
        except ClientGone:
            exchange.gone = True
        except Exception:
            log.exception("fault of ours request_id=%s", exchange.request_id)
            self._fail(
                exchange, errors.InternalError("The gateway failed. The operator can find the cause by the request id.")
            )
        finally:
            self._settlement.settle(exchange)

    async def refuse(self, exchange: Exchange, error: errors.GatewayError) -> None:
        """Answer a request that has no way through the gateway; it is counted and logged like any other."""
        self._fail(exchange, error)
        self._settlement.settle(exchange)

    # -- the steps, in their order

    def _authenticate(self, exchange: Exchange, view: View) -> Principal:
        fields = exchange.fields
        authorization, x_api_key = fields.get(b"authorization"), fields.get(b"x-api-key")
        if len(fields) != len(exchange.wire_headers):
            if exchange.repeats(b"authorization", b"x-api-key"):
                raise errors.InvalidApiKey(
                    "Several credentials were sent. Send one, as 'Authorization: Bearer KEY' or 'x-api-key: KEY'."
                )
            _refuse_repeats(exchange)
        try:
            principal = exchange.principal = view.authenticator.authenticate(authorization, x_api_key)
        except AuthenticationError as error:
            raise errors.InvalidApiKey(str(error)) from None
        if exchange.kind.scope not in principal.scopes:
            raise errors.ScopeNotAllowed(f"This key may not use {exchange.kind.scope}; its plan must list that scope.")
        return principal

    def _whole_body(self, exchange: Exchange, view: View) -> None:
        """The usual case: the body came with the head, and is here already."""
        parts = exchange.cycle.parts
        if parts:
            body = exchange.body = parts[0] if len(parts) == 1 else b"".join(parts)
            _check_framing(exchange, view.table.max_body, len(body))

    async def _body(self, exchange: Exchange, limit: int) -> None:
        """Read the body: refused by its declared length before a byte of it is asked for, or as soon as it is over
        the limit."""
        _check_framing(exchange, limit, int(exchange.fields.get(b"content-length", b"0")))
        exchange.body = await exchange.cycle.read_body(limit)
        exchange.received = self._clock()

    def _describe(self, exchange: Exchange) -> Call:
        kind, principal = exchange.kind, exchange.principal
        assert principal is not None, "authenticated before"
        try:
            call = describe(
                exchange.body,
                kind.model_in,
                content_type=exchange.fields.get(b"content-type"),
                model=kind.model,
                streams=kind.streams,
            )
            exchange.model, exchange.stream = call.model, call.stream
            if call.fields:
                refuse_engine_fields(call, principal.scopes)
        except Refused as error:
            raise REFUSALS[error.code](str(error), param=error.param) from None
        return call

    async def _describe_aside(self, exchange: Exchange) -> Call:
        """The same for a large body, in a thread: the loop has others to serve meanwhile."""
        return await asyncio.to_thread(self._describe, exchange)

    def _route(self, exchange: Exchange, view: View, principal: Principal, call: Call) -> Routed:
        try:
            routed = view.routes.find(exchange.kind, call.model, principal)
        except RouteRefused as error:
            raise ROUTE_REFUSALS[error.code](str(error), param="model") from None
        exchange.route, exchange.pool = routed.label, routed.route.pool
        return routed

    def _choose(self, exchange: Exchange, pool: Pool) -> Endpoint:
        endpoint = pool.choose()
        if endpoint is None:
            raise errors.NoEndpoint(
                f"No endpoint of pool {pool.name} is available now. Try again shortly.", retry_after=1
            )
        exchange.endpoint = endpoint.name
        return endpoint

    async def _attempt(self, exchange: Exchange, endpoint: Endpoint, routed: Routed) -> None:
        """One attempt, settled once with its outcome. The free repeat after a reset of a reused connection is part of
        it."""
        exchange.attempts += 1
        relay = exchange.relay = Relay(exchange.cycle, self._clock, exchange.broken)
        # Also of an attempt that a shutdown ends: nobody's fault either.
        outcome = outcomes.CLIENT_GONE
        try:
            head, body = self._request(exchange, endpoint, routed)
            connect = routed.route.timeouts.connect
            connection = endpoint.take() or await self._connect(exchange, endpoint, connect)
            self._send(exchange, connection, relay, head, body)
            if not relay.begun:
                await relay.change()
            if relay.error is not None and relay.error.kind == "reset_reused":
                relay = exchange.relay = Relay(exchange.cycle, self._clock, exchange.broken)
                self._send(exchange, await self._connect(exchange, endpoint, connect), relay, head, body)
                if not relay.begun:
                    await relay.change()
            if relay.error is not None and relay.began_at is None:
                raise relay.error
            self._release(exchange, endpoint, relay)
            if not relay.over:
                await relay.change()
            outcome = outcome_of(relay)
        except UpstreamError as error:
            outcome = outcomes.NOT_SENT if error.kind in NOT_SENT else outcomes.NO_ANSWER
            self._plane.emit(EndpointFailed(endpoint.spec.pool, endpoint.name, error.kind))
            raise client_error(error) from None
        except ClientGone:
            # The openai SDK closes its socket at `[DONE]`, before HTTP's own end: that client has all
            # that it asked for.
            if not relay.said_end:
                raise
            outcome = outcome_of(relay)
        except errors.DeadlineExceeded:
            outcome = outcomes.TOO_SLOW
            raise
        finally:
            relay.close()
            self._given_back(exchange, endpoint, relay, outcome)

    def _request(self, exchange: Exchange, endpoint: Endpoint, routed: Routed) -> tuple[bytes, bytes]:
        """Head and body as they go upstream: the client's bytes, save the headers that end here and a renamed model."""
        body, target = exchange.body, exchange.target
        if routed.upstream_model != exchange.model and routed.upstream_model is not None:
            body, target = _renamed(exchange, routed.upstream_model)
        kept = self._up.kept(exchange.wire_headers, exchange.connection())
        length = len(body) if body or exchange.method == "POST" else None
        return upstream_head(endpoint.request_head(exchange.method, target), kept, exchange.request_id, length), body

    async def _connect(self, exchange: Exchange, endpoint: Endpoint, timeout: float) -> Connection:
        """A fresh connection. It is made in a task of its own, which is given up with the request."""
        exchange.phase = "connect"
        task = self._loop.create_task(endpoint.connect(timeout), name=f"connect {endpoint.name}")
        try:
            return await task
        except BaseException:
            if not task.cancel() and not task.cancelled() and task.exception() is None:
                task.result().abort()
            raise

    def _send(self, exchange: Exchange, connection: Connection, relay: Relay, head: bytes, body: bytes) -> None:
        relay.attach(connection)
        exchange.phase, exchange.dispatched = "first_byte", self._clock()
        self._outbox.request(connection, head, body, relay, head_request=exchange.method == "HEAD")

    def _release(self, exchange: Exchange, endpoint: Endpoint, relay: Relay) -> None:
        """The answer has begun: from here on it belongs to the client."""
        exchange.phase, exchange.status, exchange.first_content = "stream", relay.status, relay.began_at
        headers, length_known = reply_headers(
            self._down, relay.status, relay.headers, endpoint.origin, stream=relay.stream
        )
        headers.append((b"x-request-id", exchange.request_id.encode()))
        headers.append((b"x-sluice-attempts", b"%d" % exchange.attempts))
        headers += endpoint.reply_headers
        gap = None
        if relay.stream:
            self._metrics.open_streams.value += 1
            gap = self._metrics.gap(exchange.model or "", endpoint.spec.pool)
        relay.release(headers, length_known=length_known, gap=gap, outbox=self._outbox)
        exchange.released = self._clock()

    # -- how it ends

    def _given_back(self, exchange: Exchange, endpoint: Endpoint, relay: Relay, outcome: Outcome) -> None:
        if relay.stream and relay.released:
            self._metrics.open_streams.value -= 1
        if not relay.framed:
            endpoint.meter.unframed.value += 1
        exchange.outcome = outcome.label
        endpoint.settle(outcome)

    def _fail(self, exchange: Exchange, error: errors.GatewayError) -> None:
        """Tell the client: as a status while nothing was sent, else by breaking the stream off honestly."""
        cycle, relay = exchange.cycle, exchange.relay
        if not cycle.begun:
            exchange.refuse(error)
        elif relay is not None and not cycle.complete:
            exchange.error = error.code
            relay.interrupt(errors.error_event(error, exchange.kind.family, named=exchange.kind.named_events))


def _refuse_repeats(exchange: Exchange) -> None:
    """What says how to read the body may stand once: we would read the last, and the engine perhaps the first."""
    for name in (b"content-type", b"content-encoding", b"content-length"):
        if exchange.repeats(name):
            raise errors.InvalidRequest(f"The header {name.decode()} was sent more than once.")


def _check_framing(exchange: Exchange, limit: int, size: int) -> None:
    """Refuse what we would have to decode, and what is declared or known to be too large."""
    fields = exchange.fields
    if size > limit:
        raise errors.BodyTooLarge(f"The body is over the limit of {limit} bytes (server.max_body).")
    if b"transfer-encoding" in fields and fields[b"transfer-encoding"].lower() != b"chunked":
        raise errors.InvalidRequest("Only the transfer coding chunked is understood.")
    if b"content-encoding" in fields and fields[b"content-encoding"].lower() != b"identity":
        raise errors.UnsupportedMediaType("Send the body without a content coding.")


def _renamed(exchange: Exchange, model: str) -> tuple[bytes, bytes]:
    """Body and target with the model's name at the engine: rule 8's declared edit, which leaves every other byte as
    it came."""
    if exchange.kind.model_in == "path":
        path, mark, query = exchange.target.partition(b"?")
        return exchange.body, with_model(path, model) + mark + query
    return rewrite_model(
        exchange.body, model, exchange.kind.model_in, exchange.fields.get(b"content-type")
    ), exchange.target
