"""The way of a request whose route has a fallback: its own pool first, then the chain (policy key `routes[].fallback`).

What comes next is decided in `policies.resilience.fallback`; here it is done. Nothing is tried any more once a byte
of an answer may have gone to the client. Requests of other routes never come here.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final

from backends.control.data_plane import TableView
from backends.pool.pool import Pool
from gateway import errors
from gateway.admission.gate import AdmissionGate
from gateway.cache.response_cache import ResponseCache
from gateway.error_mapping import REFUSALS
from gateway.exchange import Exchange
from gateway.fallback.canned_answer import CannedMessage, CannedText, answer
from gateway.fallback.notifier import FallbackNotifier
from gateway.http.framing import ON_LOOP
from gateway.http.request import ClientGone
from gateway.limits.limiter import RateLimiter
from policies.config.settings import FallbackSettings
from policies.identity.principal import Principal
from policies.request.describe import DescribedRequest, RefusedBody
from policies.request.json_object import members
from policies.request.routing import RouteMatch
from policies.request.usage.dialects import DIALECTS
from policies.request.usage.edits import cap_output
from policies.request.usage.sizes import sizes
from policies.resilience.fallback import TOO_LONG, FailureKind, failure_of, fits, label_of, longer, next_member

Attempt = Callable[[Exchange, Pool, RouteMatch], Awaitable[None]]
"""Has a pool answer: admitted, with retries, to the last byte. Raises GatewayError where it cannot."""


@dataclass(frozen=True, slots=True)
class FallbackRequest:
    """Who asked for what, by which route.

    attempt: how a pool is asked
    prompt: tokens, by our estimate; None where no pool has a bound
    """

    principal: Principal
    call: DescribedRequest
    routed: RouteMatch
    attempt: Attempt
    prompt: int | None = None


class FallbackChain:
    """The fallbacks of one process. `wall` is in seconds since the epoch."""

    def __init__(
        self, *, limiting: RateLimiter, caching: ResponseCache, admission: AdmissionGate, telling: FallbackNotifier,
        wall: Callable[[], float]
    ) -> None:  # fmt: skip
        self._limiting = limiting
        self._caching = caching
        self._admission = admission
        self._telling = telling
        self._wall = wall
        # (route, pool) -> requests that are there because they fell: bounded, or one pool's end would be the other's.
        self._open: Counter[tuple[str, str]] = Counter()

    async def serve(self, exchange: Exchange, view: TableView, asked: FallbackRequest) -> None:
        """Have the route's own pool answer, or a step of its fallback. Raises GatewayError where nobody can."""
        routed = asked.routed
        pool = view.pools[routed.route.pool]
        asked = replace(asked, prompt=await self._prompt(exchange, view, asked))
        try:
            if not fits(asked.prompt, pool.max_context) and self._next(exchange, view, asked, _TOO_LONG) is not None:
                error = errors.ContextTooLong("The prompt is longer than the pool takes, by our estimate.")
                error.why = TOO_LONG
                raise error
            await asked.attempt(exchange, pool, routed)
        except errors.GatewayError as error:
            if exchange.cycle.begun:
                raise
            await self._fall(exchange, view, asked, error)
        else:
            if exchange.status < 500:
                self._telling.well(routed.label)

    # -- from one step to the next

    async def _fall(
        self, exchange: Exchange, view: TableView, asked: FallbackRequest, error: errors.GatewayError
    ) -> None:
        """One step after the other, until one has answered."""
        self._caching.fell(exchange)
        if exchange.gone:
            # Its client had left, and it went on for others that have been let go.
            raise ClientGone from None
        if exchange.original is None:
            exchange.original = exchange.body
        plain, why, spent = exchange.extra_headers, None, False
        try:
            while True:
                failure = failure_of(error.code, exchange.outcome, asked.routed.route.retry, error.why)
                place = None if failure is None else self._next(exchange, view, asked, failure)
                spent = exchange.spent
                if failure is None or place is None:
                    raise error
                member = asked.routed.route.fallback[place]
                why = why or failure.why
                exchange.extra_headers = (*plain, (b"x-sluice-degraded", label_of(member).encode()))
                try:
                    self._leave(exchange, place)
                    await self._step(exchange, view, asked, member, error)
                    return
                except errors.GatewayError as next_error:
                    error = next_error
                    if exchange.cycle.begun:
                        raise
                    exchange.extra_headers, exchange.spent = plain, spent or exchange.spent
        finally:
            # Its traceback holds this frame: a cycle that only the garbage collector would find.
            del error
            if exchange.cycle.begun and place is not None:
                self._telling.answered(exchange, asked.routed, place, why or "")

    def _next(self, exchange: Exchange, view: TableView, asked: FallbackRequest, failure: FailureKind) -> int | None:
        """The place of the step that is next."""
        label, own = asked.routed.label, view.pools[exchange.pool or ""].max_context

        def takes(member: FallbackSettings) -> bool:
            pool = view.pools[member.pool or ""]
            if member.concurrency is not None and self._open[label, pool.name] >= member.concurrency:
                return False
            return fits(asked.prompt, pool.max_context) and (not failure.too_long or longer(pool.max_context, own))

        return next_member(asked.routed.route.fallback, exchange.place, failure, takes)

    def _leave(self, exchange: Exchange, place: int) -> None:
        """What the attempts before came to is told; what follows is another's."""
        if len(exchange.trail) < exchange.attempts:
            exchange.trail = (*exchange.trail, exchange.step())
        if exchange.door is not None:
            self._admission.leave(exchange)
        exchange.relay, exchange.settled, exchange.phase = None, False, "retry"
        exchange.place, exchange.spent = place, False

    async def _step(
        self,
        exchange: Exchange,
        view: TableView,
        asked: FallbackRequest,
        member: FallbackSettings,
        error: errors.GatewayError,
    ) -> None:
        """Have one step answer; raises GatewayError where it cannot."""
        if member.pool is not None:
            await self._other_pool(exchange, view, asked, member)
            return
        exchange.pool = asked.routed.route.pool
        if member.message is not None:
            self._say(exchange, asked.call, member, error)
        else:
            kept = self._caching.stale_for(exchange)
            if kept is None:
                raise error
            await self._caching.replay(exchange, kept)

    # -- the steps

    async def _other_pool(
        self, exchange: Exchange, view: TableView, asked: FallbackRequest, member: FallbackSettings
    ) -> None:
        """A pool that the chain names, with what is left of attempts and of the deadline."""
        assert member.pool is not None, "a step with a pool"
        pool, routed = view.pools[member.pool], asked.routed
        exchange.pool = member.pool
        if len(exchange.body) <= ON_LOOP:
            self._edit(exchange, view, asked, member, pool)
        else:
            await asyncio.to_thread(self._edit, exchange, view, asked, member, pool)
        if member.upstream_model is not None:
            routed = replace(routed, upstream_model=member.upstream_model)
        here = routed.label, member.pool
        self._open[here] += 1
        try:
            await asked.attempt(exchange, pool, routed)
        finally:
            self._open[here] -= 1
            if not self._open[here]:
                del self._open[here]

    def _edit(
        self, exchange: Exchange, view: TableView, asked: FallbackRequest, member: FallbackSettings, pool: Pool
    ) -> None:
        """The declared edits (DESIGN rule 8), made anew for this pool's engine, and the answer's bound of this step."""
        assert exchange.original is not None, "kept when the chain was entered"
        exchange.body, exchange.strips = exchange.original, False
        limits = view.limits.get(asked.principal.plan)
        dialect = DIALECTS.get(exchange.kind.path)
        try:
            if limits is not None:
                self._limiting.edit(exchange, limits, asked.call, pool.engine)
            if member.max_tokens is not None and dialect is not None:
                exchange.body = cap_output(exchange.body, dialect, member.max_tokens, pool.engine)
        except RefusedBody as error:
            raise REFUSALS[error.code](str(error), param=error.param) from None
        exchange.size_in = len(exchange.original)

    def _say(
        self, exchange: Exchange, call: DescribedRequest, member: FallbackSettings, error: errors.GatewayError
    ) -> None:
        """A text of the operator's: as an answer where the path has answers of text, else as an error."""
        assert member.message is not None, "a step with a message"
        said = CannedText(
            member.message, exchange.model or "", exchange.request_id, int(self._wall()), member.status,
            exchange.stream, call.include_usage,
        )  # fmt: skip
        found = answer(exchange.kind.path, said) if member.status < 400 else None
        if found is not None:
            exchange.say(found)
            return
        status = member.status if member.status >= 400 else 503
        exchange.refuse(
            CannedMessage(member.message, status=status, code=error.code, retry_after=error.retry_after)
        )  # fmt: skip

    # -- how long it is

    async def _prompt(self, exchange: Exchange, view: TableView, asked: FallbackRequest) -> int | None:
        """Tokens of the prompt, by our estimate, where a pool of the route has a bound for them."""
        route = asked.routed.route
        names = [route.pool, *(member.pool for member in route.fallback if member.pool is not None)]
        dialect = DIALECTS.get(exchange.kind.path)
        if dialect is None or all(view.pools[name].max_context is None for name in names):
            return None
        call = asked.call
        if not call.prompt_bytes:
            body = exchange.body

            def prompt_bytes() -> int:
                return sizes(members(body), dialect)[0]

            try:
                call.prompt_bytes = prompt_bytes() if len(body) <= ON_LOOP else await asyncio.to_thread(prompt_bytes)
            except RefusedBody:
                # The engine says in its own words what is wrong with it.
                return None
        return self._limiting.prompt_tokens(call)


_TOO_LONG: Final = FailureKind(TOO_LONG, too_long=True)
