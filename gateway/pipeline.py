"""The order of policies: every step of a request, from the first byte in to the last byte out.

`Pipeline.serve` is the table of contents: one line a policy, in order. Whatever is taken is given back by leaving its
`with` block or in `finally`.
"""

import asyncio
import logging
from collections.abc import Callable

from backends.control.data_plane import TableView
from backends.pool.pool import Pool
from gateway import errors
from gateway.admission.gate import AdmissionGate
from gateway.auth.authenticate import Doubt, SlowAuthentication
from gateway.cache.response_cache import ResponseCache
from gateway.completion import Completion
from gateway.error_mapping import REFUSALS, ROUTE_REFUSALS
from gateway.exchange import Exchange
from gateway.fallback.chain import FallbackChain, FallbackRequest
from gateway.http.framing import ON_LOOP, check_framing, refuse_repeats
from gateway.http.request import ClientGone
from gateway.limits.limiter import RateLimiter
from gateway.timeouts import hurry
from gateway.upstream.attempts import Attempts
from policies.identity.principal import AuthenticationError, KeysWanted, Principal
from policies.request.describe import DescribedRequest, RefusedBody, describe, refuse_engine_fields
from policies.request.routing import RouteMatch, RouteRefused
from policies.request.usage.dialects import DIALECTS

log = logging.getLogger("sluice.pipeline")


class Pipeline:
    """The data plane's way of answering one request. One object a process; everything about one request is in its
    Exchange."""

    def __init__(
        self,
        *,
        identity: SlowAuthentication,
        limiting: RateLimiter,
        caching: ResponseCache,
        admission: AdmissionGate,
        attempts: Attempts,
        fallbacks: FallbackChain,
        settlement: Completion,
        timed_out: Callable[[str], None],
        clock: Callable[[], float],
    ) -> None:
        """`timed_out` counts a timeout of a kind; `clock` is monotonic, in seconds, and finer than the loop's, which
        uvloop rounds to milliseconds."""
        self._identity = identity
        self._limiting = limiting
        self._caching = caching
        self._admission = admission
        self._attempts = attempts
        self._fallbacks = fallbacks
        self._settlement = settlement
        self._timed_out = timed_out
        self._clock = clock

    async def serve(self, exchange: Exchange, view: TableView) -> None:
        """Answer one request, whatever happens. Never raises."""
        try:
            try:
                principal = self._authenticate(exchange, view)
            except (AuthenticationError, KeysWanted) as doubt:
                principal = await self._authenticate_later(exchange, doubt)
            await self._body(exchange, view.table.max_body) if exchange.cycle.more_body else self._whole_body(
                exchange, view
            )
            small = len(exchange.body) <= ON_LOOP
            call = self._describe(exchange, view) if small else await self._describe_aside(exchange, view)
            routed = self._route(exchange, view, principal, call)
            self._times(exchange, routed)
            if view.limits and principal.plan in view.limits:
                await self._limit(exchange, view, principal, call, routed)
            if routed.route.cache is not None and await self._caching.answered(exchange, view, principal, routed):
                return
            if not routed.route.fallback:
                await self._attempt(exchange, view.pools[routed.route.pool], routed)
            else:
                await self._fallbacks.serve(exchange, view, FallbackRequest(principal, call, routed, self._attempt))
        except errors.GatewayError as error:
            # Its frames hold it: a cycle that only the garbage collector would find.
            error.__traceback__ = None
            if isinstance(error, errors.DeadlineExceeded):
                self._timed_out("total")
            self._fail(exchange, error)
        except ClientGone:
            exchange.gone = True
        except Exception:
            log.exception("fault of ours request_id=%s", exchange.request_id)
            self._fail(
                exchange, errors.InternalError("The gateway failed. The operator can find the cause by the request id.")
            )
        finally:
            self._over(exchange)

    async def refuse(self, exchange: Exchange, error: errors.GatewayError) -> None:
        """Answer a request that has no way through the gateway; it is counted and logged like any other."""
        self._fail(exchange, error)
        self._settlement.settle(exchange)

    # -- the steps, in their order

    def _authenticate(self, exchange: Exchange, view: TableView) -> Principal:
        fields = exchange.fields
        authorization, x_api_key = fields.get(b"authorization"), fields.get(b"x-api-key")
        if len(fields) != len(exchange.wire_headers):
            if exchange.repeats(b"authorization", b"x-api-key"):
                raise AuthenticationError(
                    "malformed",
                    "Several credentials were sent. Send one, as 'Authorization: Bearer KEY' or 'x-api-key: KEY'.",
                )
            refuse_repeats(exchange)
        return self._entitle(exchange, view.authenticator.authenticate(authorization, x_api_key))

    async def _authenticate_later(self, exchange: Exchange, doubt: Doubt) -> Principal:
        """The same for what is not known to be good: a token whose issuer's keys have to be fetched first may be."""
        fields = exchange.fields
        authorization, x_api_key = fields.get(b"authorization"), fields.get(b"x-api-key")
        return self._entitle(exchange, await self._identity.later(doubt, authorization, x_api_key, exchange.client))

    def _entitle(self, exchange: Exchange, principal: Principal) -> Principal:
        exchange.principal = principal
        if exchange.kind.scope not in principal.scopes:
            scopes = ", ".join(sorted(principal.scopes)) or "nothing"
            raise errors.ScopeNotAllowed(
                f"This key may not use {exchange.kind.scope}, but {scopes}: its plan says so, or the key itself."
            )
        return principal

    def _whole_body(self, exchange: Exchange, view: TableView) -> None:
        """The usual case: the body came with the head, and is here already."""
        parts = exchange.cycle.parts
        if parts:
            body = exchange.body = parts[0] if len(parts) == 1 else b"".join(parts)
            check_framing(exchange, view.table.max_body, len(body))

    async def _body(self, exchange: Exchange, limit: int) -> None:
        """Read the body: refused by its declared length before a byte of it is asked for, or as soon as it is over
        the limit."""
        check_framing(exchange, limit, int(exchange.fields.get(b"content-length", b"0")))
        exchange.body = await exchange.cycle.read_body(limit)
        exchange.received = self._clock()

    def _describe(self, exchange: Exchange, view: TableView) -> DescribedRequest:
        kind, principal = exchange.kind, exchange.principal
        assert principal is not None, "authenticated before"
        limits = view.limits.get(principal.plan) if view.limits else None
        counts = DIALECTS.get(kind.path) if limits is not None and limits.counts else None
        try:
            call = describe(
                exchange.body,
                kind.model_in,
                content_type=exchange.fields.get(b"content-type"),
                model=kind.model,
                streams=kind.streams,
                counts=counts,
            )
            exchange.model, exchange.stream = call.model, call.stream
            if call.fields:
                refuse_engine_fields(call, principal.scopes)
        except RefusedBody as error:
            raise REFUSALS[error.code](str(error), param=error.param) from None
        return call

    async def _describe_aside(self, exchange: Exchange, view: TableView) -> DescribedRequest:
        """The same for a large body, in a thread: the loop has others to serve meanwhile."""
        return await asyncio.to_thread(self._describe, exchange, view)

    def _route(self, exchange: Exchange, view: TableView, principal: Principal, call: DescribedRequest) -> RouteMatch:
        try:
            routed = view.routes.find(exchange.kind, call.model, principal)
        except RouteRefused as error:
            raise ROUTE_REFUSALS[error.code](str(error), param="model") from None
        exchange.route, exchange.pool = routed.label, routed.route.pool
        return routed

    async def _limit(
        self, exchange: Exchange, view: TableView, principal: Principal, call: DescribedRequest, routed: RouteMatch
    ) -> None:
        """Take of the plan's limits; what the body must say for it is written into it."""
        limits, engine = view.limits[principal.plan], view.pools[routed.route.pool].engine
        try:
            await self._limiting.take(exchange, limits, principal, call, routed.counted_as)
            if routed.route.fallback:
                exchange.original = exchange.body
            if len(exchange.body) <= ON_LOOP:
                self._limiting.edit(exchange, limits, call, engine)
            else:
                await asyncio.to_thread(self._limiting.edit, exchange, limits, call, engine)
        except RefusedBody as error:
            raise REFUSALS[error.code](str(error), param=error.param) from None

    async def _attempt(self, exchange: Exchange, pool: Pool, routed: RouteMatch) -> None:
        """Have a pool answer: the route's own, or one of its fallbacks."""
        if pool.gated:
            pool = await self._admission.enter(exchange, pool)
        pool.budget.request(exchange.received)
        wait = await self._attempts.make(exchange, pool, routed)
        while wait is not None:
            await self._attempts.rest(exchange, wait)
            wait = await self._attempts.make(exchange, pool, routed)

    def _times(self, exchange: Exchange, routed: RouteMatch) -> None:
        """How long it may take."""
        timeouts = exchange.timeouts = routed.route.timeouts
        exchange.total = timeouts.total
        exchange.first_look = routed.first_looks[exchange.stream]
        exchange.cycle.timekeeper = exchange
        if b"x-sluice-deadline" in exchange.fields:
            hurry(exchange, exchange.fields[b"x-sluice-deadline"], self._clock())

    # -- how it ends

    def _over(self, exchange: Exchange) -> None:
        """Whatever has become of it: others are told, it is counted, and what it holds is given back."""
        exchange.cycle.timekeeper = None
        if exchange.lookup is not None:
            self._caching.landed(exchange)
        self._settlement.settle(exchange)
        if exchange.door is not None:
            self._admission.leave(exchange)
        if exchange.held is not None:
            self._limiting.settle(exchange)

    def _fail(self, exchange: Exchange, error: errors.GatewayError) -> None:
        """Tell the client: as a status while nothing was sent, else by breaking the stream off honestly."""
        cycle, relay = exchange.cycle, exchange.relay
        if not cycle.begun:
            exchange.refuse(error)
        elif relay is not None and not cycle.complete:
            exchange.error = error.code
            relay.interrupt(errors.error_event(error, exchange.kind.family, named=exchange.kind.named_events))
