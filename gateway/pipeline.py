"""Pipeline: every step of a request in order, from the first byte in to the last byte out. Open this file first.

    step            where                                   answers with
    read            gateway.http, gateway.router            400 404 405 408 414 431
    authenticate    gateway.auth, policies.identity         401 403 429
    body            gateway.http.framing                    400 408 413 415
    describe        policies.request.describe               400 415
    route           policies.request.routing                403 404
    deadline        gateway.timeouts                        400 504
    limit           gateway.limits                          400 429 503
    cache           gateway.cache                           a kept answer
    admit           gateway.admission                       429 503 504
    attempt         gateway.upstream                        502 503 504
    relay           gateway.relay                           the engine's answer
    finish          gateway.completion                      one count, one log line

`fallback` (gateway.fallback) runs admit, attempt and relay for each pool of its chain.

Interruptions. Four errors are raised into a waiting request from outside, at whatever `await` it stands; each passes
through `RequestDriver.throw` (gateway/http/driver.py):

    ClientGone                  the client has closed its connection         gateway.http.active_request
    DeadlineExceeded,           a timeout has expired (gateway.timeouts)     the connection's timer, or the timer wheel
      AttemptTimeout ...                                                     of a detached client
    HeaderTimeout, BodyTimeout  head or body is late, or no HTTP             gateway.http.active_request
      and other 4xx
    ShuttingDown                the drain is over (server.drain)             gateway.http.listener
"""

import asyncio
import logging
from collections.abc import Callable

from backends.data_plane import TableView
from backends.pool.pool import Pool
from gateway import errors
from gateway.admission.gate import AdmissionGate
from gateway.auth.authenticate import Doubt, SlowAuthentication
from gateway.cache.response_cache import CacheLookup, ResponseCache
from gateway.completion import Completion
from gateway.error_mapping import REFUSALS, ROUTE_REFUSALS
from gateway.exchange import Exchange
from gateway.fallback.chain import FallbackChain, FallbackRequest
from gateway.http.framing import ON_LOOP, check_framing, refuse_repeats
from gateway.http.request import ClientGone
from gateway.limits.limiter import HeldLimits, RateLimiter
from gateway.reply import send_error
from gateway.timeouts import RequestTimeouts, apply_client_deadline
from gateway.upstream.attempts import Attempts
from policies.identity.principal import AuthenticationError, KeysWanted, Principal
from policies.request.describe import DescribedRequest, RefusedBody, describe, refuse_engine_fields
from policies.request.routing import RouteMatch, RouteRefused
from policies.request.usage.dialects import DIALECTS

log = logging.getLogger("sluice.pipeline")


class Pipeline:
    """Answers the inference requests of one process. The state of one request is in its Exchange."""

    def __init__(
        self,
        *,
        authentication: SlowAuthentication,
        limiter: RateLimiter,
        cache: ResponseCache,
        admission: AdmissionGate,
        attempts: Attempts,
        fallbacks: FallbackChain,
        completion: Completion,
        timed_out: Callable[[str], None],
        clock: Callable[[], float],
    ) -> None:
        """`timed_out` counts a timeout of a kind; `clock` is monotonic, in seconds, and finer than the loop's, which
        uvloop rounds to milliseconds."""
        self._authentication = authentication
        self._limiter = limiter
        self._cache = cache
        self._admission = admission
        self._attempts = attempts
        self._fallbacks = fallbacks
        self._completion = completion
        self._timed_out = timed_out
        self._clock = clock

    async def serve(self, exchange: Exchange, view: TableView) -> None:
        """Answer one request, whatever happens. Never raises."""
        held: HeldLimits | None = None
        lookup: CacheLookup | None = None
        try:
            # authenticate
            try:
                principal = self._authenticate(exchange, view)
            except (AuthenticationError, KeysWanted) as doubt:
                principal = await self._authenticate_later(exchange, doubt)
            # body
            if exchange.request.more_body:
                await self._read_body(exchange, view.table.max_body)
            else:
                self._take_body(exchange, view.table.max_body)
            # describe
            small = len(exchange.body) <= ON_LOOP
            call = self._describe(exchange, view) if small else await self._describe_aside(exchange, view)
            # route, deadline
            match = self._route(exchange, view, principal, call)
            self._set_timeouts(exchange, match)
            # limit; the edits start from the body as the client sent it, anew for each pool of a fallback
            original = exchange.body if match.route.fallback else b""
            if view.limits and principal.plan in view.limits:
                held = await self._limit(exchange, view, principal, call, match)
                await self._edit(exchange, view, principal, call, match)
            # cache
            if match.route.cache is not None:
                lookup = self._cache.lookup(match.route.cache)
                if await self._cache.answer(exchange, lookup, view, principal, match):
                    return
            # admit, attempt, relay: once, or for each pool of the fallback chain
            if not match.route.fallback:
                await self._answer_by_pool(exchange, view.pools[match.route.pool], match)
            else:
                request = FallbackRequest(principal, call, match, original, self._answer_by_pool, lookup)
                await self._fallbacks.serve(exchange, view, request)
        except errors.GatewayError as error:
            self._fail(exchange, error)
        except ClientGone:
            exchange.record.client_gone = True
        except Exception:
            log.exception("fault of ours request_id=%s", exchange.request_id)
            self._fail(
                exchange, errors.InternalError("The gateway failed. The operator can find the cause by the request id.")
            )
        finally:
            self._finish(exchange, lookup, held)

    async def refuse(self, exchange: Exchange, error: errors.GatewayError) -> None:
        """Answer a request that has no route through the gateway; it is counted and logged like any other."""
        self._fail(exchange, error)
        self._completion.finish(exchange)

    def _finish(self, exchange: Exchange, lookup: CacheLookup | None, held: HeldLimits | None) -> None:
        """Give back what the request holds, and count and log it. The order matters:

        1. The timer: no timeout may be raised into a request that has ended.
        2. The cache keeps the answer and releases the subscribers; its result is a field of the log line.
        3. The completion reads the relay and writes usage and sizes into the record.
        4. The slot: the queue learns from the outcome and the times of the last attempt (`max_in_flight: auto`).
        5. The limits refund the difference to the usage that 3 has written.
        """
        exchange.request.timekeeper = None
        if lookup is not None:
            self._cache.finish(exchange, lookup)
        self._completion.finish(exchange)
        if exchange.attempt.slot is not None:
            exchange.leave_pool()
        if held is not None:
            self._limiter.refund(exchange, held)

    # -- the steps, in their order

    def _authenticate(self, exchange: Exchange, view: TableView) -> Principal:
        fields = exchange.fields
        authorization, x_api_key = fields.get(b"authorization"), fields.get(b"x-api-key")
        if len(fields) != len(exchange.headers):
            if exchange.repeats(b"authorization", b"x-api-key"):
                raise AuthenticationError(
                    "malformed",
                    "Several credentials were sent. Send one, as 'Authorization: Bearer KEY' or 'x-api-key: KEY'.",
                )
            refuse_repeats(exchange.request)
        return self._entitle(exchange, view.authenticator.authenticate(authorization, x_api_key))

    async def _authenticate_later(self, exchange: Exchange, doubt: Doubt) -> Principal:
        """Authenticate a credential that is not known to be good: the keys of a token's issuer may have to be
        fetched."""
        fields = exchange.fields
        authorization, x_api_key = fields.get(b"authorization"), fields.get(b"x-api-key")
        later = self._authentication.later(doubt, authorization, x_api_key, exchange.client)
        return self._entitle(exchange, await later)

    def _entitle(self, exchange: Exchange, principal: Principal) -> Principal:
        exchange.principal = principal
        if exchange.kind.scope not in principal.scopes:
            scopes = ", ".join(sorted(principal.scopes)) or "nothing"
            raise errors.ScopeNotAllowed(
                f"This key may not use {exchange.kind.scope}, but {scopes}: its plan says so, or the key itself."
            )
        return principal

    def _take_body(self, exchange: Exchange, limit: int) -> None:
        """Take a body that came with the head: the usual case."""
        parts = exchange.request.parts
        if parts:
            body = exchange.body = parts[0] if len(parts) == 1 else b"".join(parts)
            check_framing(exchange.request, exchange.fields, limit, len(body))

    async def _read_body(self, exchange: Exchange, limit: int) -> None:
        """Read the body; refuse one over `limit` by its declared length, or as soon as it is over."""
        declared = int(exchange.fields.get(b"content-length", b"0"))
        check_framing(exchange.request, exchange.fields, limit, declared)
        exchange.body = await exchange.request.read_body(limit)
        exchange.attempt.ready_at = self._clock()

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
        """Describe a large body in a thread: other requests need the loop meanwhile."""
        return await asyncio.to_thread(self._describe, exchange, view)

    def _route(self, exchange: Exchange, view: TableView, principal: Principal, call: DescribedRequest) -> RouteMatch:
        try:
            match = view.routes.find(exchange.kind, call.model, principal)
        except RouteRefused as error:
            raise ROUTE_REFUSALS[error.code](str(error), param="model") from None
        exchange.route, exchange.pool = match.label, match.route.pool
        return match

    def _set_timeouts(self, exchange: Exchange, match: RouteMatch) -> None:
        timeouts = exchange.timeouts = match.route.timeouts
        exchange.total = timeouts.total
        exchange.attempt.first_check = match.first_looks[exchange.stream]
        exchange.request.timekeeper = RequestTimeouts(exchange)
        if b"x-sluice-deadline" in exchange.fields:
            apply_client_deadline(exchange, exchange.fields[b"x-sluice-deadline"], self._clock())

    async def _limit(
        self, exchange: Exchange, view: TableView, principal: Principal, call: DescribedRequest, match: RouteMatch
    ) -> HeldLimits:
        """Take the amounts of the plan's limits."""
        try:
            return await self._limiter.take(exchange, view.limits[principal.plan], principal, call, match.counted_as)
        except RefusedBody as error:
            raise REFUSALS[error.code](str(error), param=error.param) from None

    async def _edit(
        self, exchange: Exchange, view: TableView, principal: Principal, call: DescribedRequest, match: RouteMatch
    ) -> None:
        """Make the edits of the body that the limits need."""
        limits, engine = view.limits[principal.plan], view.pools[match.route.pool].engine
        try:
            if len(exchange.body) <= ON_LOOP:
                self._limiter.edit(exchange, limits, call, engine)
            else:
                await asyncio.to_thread(self._limiter.edit, exchange, limits, call, engine)
        except RefusedBody as error:
            raise REFUSALS[error.code](str(error), param=error.param) from None

    async def _answer_by_pool(self, exchange: Exchange, pool: Pool, match: RouteMatch) -> None:
        """Have a pool answer, the route's own or one of its fallbacks: admit, attempt, relay."""
        if pool.gated:
            pool = await self._admission.enter(exchange, pool)
        pool.budget.request(exchange.attempt.ready_at)
        wait = await self._attempts.make(exchange, pool, match)
        while wait is not None:
            await self._attempts.rest(exchange, wait)
            wait = await self._attempts.make(exchange, pool, match)

    def _fail(self, exchange: Exchange, error: errors.GatewayError) -> None:
        """Answer with an error: as a status while no byte was sent, else by breaking the stream off (DESIGN rule 5)."""
        # The error's frames hold it: a cycle that only the garbage collector would find.
        error.__traceback__ = None
        if isinstance(error, errors.DeadlineExceeded):
            self._timed_out("total")
        request, relay = exchange.request, exchange.attempt.relay
        if not request.begun:
            send_error(exchange, error)
        elif relay is not None and not request.complete:
            exchange.record.error = error.code
            relay.interrupt(errors.error_event(error, exchange.kind.family, named=exchange.kind.named_events))
