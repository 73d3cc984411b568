"""Fallback chain: the route's own pool first, then the steps of its chain (policy key `routes[].fallback`).

`policies.resilience.fallback` decides which step is next. No step follows once a byte of an answer may have gone to the
client. Requests of routes without a fallback never come here.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final, Protocol

from backends.data_plane import TableView
from backends.pool.pool import Pool
from gateway import errors
from gateway.error_mapping import REFUSALS
from gateway.exchange import Exchange
from gateway.fallback.canned_answer import CannedMessage, CannedText, answer
from gateway.fallback.notifier import FallbackNotifier
from gateway.http.framing import ON_LOOP
from gateway.http.request import ClientGone
from gateway.reply import send_answer, send_error
from policies.config.settings import FallbackSettings
from policies.identity.principal import Principal
from policies.json_object import members
from policies.limits.plans import PlanLimits
from policies.request.describe import DescribedRequest, RefusedBody
from policies.request.routing import RouteMatch
from policies.request.usage.dialects import DIALECTS
from policies.request.usage.edits import cap_output
from policies.request.usage.sizes import sizes
from policies.resilience.fallback import TOO_LONG, FailureKind, failure_of, fits, label_of, longer, next_member

Attempt = Callable[[Exchange, Pool, RouteMatch], Awaitable[None]]
"""Has a pool answer: admitted, with retries, to the last byte. Raises GatewayError where the pool cannot."""


class BodyEditor(Protocol):
    """Edits and estimates of the rate limiter (`gateway.limits.limiter.RateLimiter`)."""

    def edit(self, exchange: Exchange, limits: PlanLimits, call: DescribedRequest, engine: str, /) -> None: ...
    def prompt_tokens(self, call: DescribedRequest, /) -> int: ...


class KeptAnswers(Protocol):
    """The request's state in the cache (`gateway.cache.response_cache.CacheLookup`)."""

    def release_subscribers(self) -> None: ...
    async def replay_stale(self, exchange: Exchange, /) -> bool: ...


@dataclass(frozen=True, slots=True)
class FallbackRequest:
    """One request of a route with a fallback.

    original: the body as the client sent it; the edits for the next pool start from it
    attempt: makes one pool answer
    kept: cache state; None on a route without a cache
    prompt: estimated tokens; None where no pool has a bound
    """

    principal: Principal
    call: DescribedRequest
    route_match: RouteMatch
    original: bytes
    attempt: Attempt
    kept: KeptAnswers | None
    prompt: int | None = None


class FallbackChain:
    """Fallbacks of one process. `wall` is in seconds since the epoch."""

    def __init__(
        self, *, editor: BodyEditor, notifier: FallbackNotifier, wall: Callable[[], float]
    ) -> None:  # fmt: skip
        self._editor = editor
        self._notifier = notifier
        self._wall = wall
        # (route, pool) -> requests that a fallback sent there: bounded, or the end of one pool would end the next.
        self._open: Counter[tuple[str, str]] = Counter()

    async def serve(self, exchange: Exchange, view: TableView, request: FallbackRequest) -> None:
        """Answer by the route's own pool, or by a step of its fallback. Raises GatewayError where no step can,
        ClientGone."""
        route_match = request.route_match
        pool = view.pools[route_match.route.pool]
        request = replace(request, prompt=await self._prompt(exchange, view, request))
        try:
            if (
                not fits(request.prompt, pool.max_context)
                and self._next(exchange, view, request, _TOO_LONG) is not None
            ):
                error = errors.ContextTooLong("The prompt is longer than the pool takes, by our estimate.")
                error.why = TOO_LONG
                raise error
            await request.attempt(exchange, pool, route_match)
        except errors.GatewayError as error:
            if exchange.request.begun:
                raise
            await self._run_chain(exchange, view, request, error)
        else:
            if exchange.record.status < 500:
                self._notifier.recovered(route_match.label)

    # -- from one step to the next

    async def _run_chain(
        self, exchange: Exchange, view: TableView, request: FallbackRequest, error: errors.GatewayError
    ) -> None:
        """Try one step after the other, until one has answered."""
        if request.kept is not None:
            request.kept.release_subscribers()
        if exchange.record.client_gone:
            # Its client had left, and it continued for subscribers that have been released.
            raise ClientGone from None
        plain, why, spent = exchange.attempt.reply_headers, None, False
        try:
            while True:
                failure = failure_of(error.code, exchange.attempt.outcome, request.route_match.route.retry, error.why)
                place = None if failure is None else self._next(exchange, view, request, failure)
                spent = exchange.attempt.exhausted
                if failure is None or place is None:
                    raise error
                member = request.route_match.route.fallback[place]
                why = why or failure.why
                exchange.attempt.reply_headers = (*plain, (b"x-sluice-degraded", label_of(member).encode()))
                try:
                    _leave_step(exchange, place)
                    await self._step(exchange, view, request, member, error)
                    return
                except errors.GatewayError as next_error:
                    error = next_error
                    if exchange.request.begun:
                        raise
                    attempt = exchange.attempt
                    attempt.reply_headers, attempt.exhausted = plain, spent or attempt.exhausted
        finally:
            # The traceback holds this frame: a cycle that only the garbage collector would find.
            del error
            if exchange.request.begun and place is not None:
                self._notifier.degraded(exchange, request.route_match, place, why or "")

    def _next(self, exchange: Exchange, view: TableView, request: FallbackRequest, failure: FailureKind) -> int | None:
        """Return the position of the next step; None where no step is left."""
        label, own = request.route_match.label, view.pools[exchange.pool or ""].max_context

        def takes(member: FallbackSettings) -> bool:
            pool = view.pools[member.pool or ""]
            if member.concurrency is not None and self._open[label, pool.name] >= member.concurrency:
                return False
            return fits(request.prompt, pool.max_context) and (not failure.too_long or longer(pool.max_context, own))

        return next_member(request.route_match.route.fallback, exchange.attempt.fallback_step, failure, takes)

    async def _step(
        self,
        exchange: Exchange,
        view: TableView,
        request: FallbackRequest,
        member: FallbackSettings,
        error: errors.GatewayError,
    ) -> None:
        """Answer by one step. Raises GatewayError where it cannot."""
        if member.pool is not None:
            await self._other_pool(exchange, view, request, member)
            return
        exchange.pool = request.route_match.route.pool
        if member.message is not None:
            self._send_message(exchange, request.call, member, error)
        else:
            if request.kept is None or not await request.kept.replay_stale(exchange):
                raise error

    # -- the steps

    async def _other_pool(
        self, exchange: Exchange, view: TableView, request: FallbackRequest, member: FallbackSettings
    ) -> None:
        """Answer by a pool of the chain, within the attempts and the time that are left."""
        assert member.pool is not None, "a step with a pool"
        pool, route_match = view.pools[member.pool], request.route_match
        exchange.pool = member.pool
        if len(exchange.body) <= ON_LOOP:
            self._edit(exchange, view, request, member, pool)
        else:
            await asyncio.to_thread(self._edit, exchange, view, request, member, pool)
        if member.upstream_model is not None:
            route_match = replace(route_match, upstream_model=member.upstream_model)
        here = route_match.label, member.pool
        self._open[here] += 1
        try:
            await request.attempt(exchange, pool, route_match)
        finally:
            self._open[here] -= 1
            if not self._open[here]:
                del self._open[here]

    def _edit(
        self, exchange: Exchange, view: TableView, request: FallbackRequest, member: FallbackSettings, pool: Pool
    ) -> None:
        """Make the declared edits (DESIGN rule 8) anew for this pool's engine, and cap the answer by this step."""
        exchange.body, exchange.strips_usage = request.original, False
        limits = view.limits.get(request.principal.plan)
        dialect = DIALECTS.get(exchange.kind.path)
        try:
            if limits is not None:
                self._editor.edit(exchange, limits, request.call, pool.engine)
            if member.max_tokens is not None and dialect is not None:
                exchange.body = cap_output(exchange.body, dialect, member.max_tokens, pool.engine)
        except RefusedBody as error:
            raise REFUSALS[error.code](str(error), param=error.param) from None
        exchange.record.size_in = len(request.original)

    def _send_message(
        self, exchange: Exchange, call: DescribedRequest, member: FallbackSettings, error: errors.GatewayError
    ) -> None:
        """Answer with the operator's message: as an answer where the path has answers of text, else as an error."""
        assert member.message is not None, "a step with a message"
        text = CannedText(
            member.message, exchange.model or "", exchange.request_id, int(self._wall()), member.status,
            exchange.stream, call.include_usage,
        )  # fmt: skip
        found = answer(exchange.kind.path, text) if member.status < 400 else None
        if found is not None:
            send_answer(exchange, found)
            return
        status = member.status if member.status >= 400 else 503
        message = CannedMessage(member.message, status=status, code=error.code, retry_after=error.retry_after)
        send_error(exchange, message)

    # -- length of the prompt

    async def _prompt(self, exchange: Exchange, view: TableView, request: FallbackRequest) -> int | None:
        """Return the estimated prompt tokens where a pool of the route has a bound for them; else None."""
        route = request.route_match.route
        names = [route.pool, *(member.pool for member in route.fallback if member.pool is not None)]
        dialect = DIALECTS.get(exchange.kind.path)
        if dialect is None or all(view.pools[name].max_context is None for name in names):
            return None
        call = request.call
        if not call.prompt_bytes:
            body = exchange.body

            def prompt_bytes() -> int:
                return sizes(members(body), dialect)[0]

            try:
                call.prompt_bytes = prompt_bytes() if len(body) <= ON_LOOP else await asyncio.to_thread(prompt_bytes)
            except RefusedBody:
                # The engine reports in its own words what is wrong with the body.
                return None
        return self._editor.prompt_tokens(call)


_TOO_LONG: Final = FailureKind(TOO_LONG, too_long=True)


def _leave_step(exchange: Exchange, place: int) -> None:
    """Close the attempts of the step before, and enter the one at `place`."""
    attempt = exchange.attempt
    exchange.leave_pool()
    attempt.next_attempt()
    attempt.fallback_step, attempt.exhausted = place, False
