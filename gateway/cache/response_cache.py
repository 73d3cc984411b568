"""Response cache: kept answers are replayed, and of equal requests under way only one reaches an engine (policy key
`routes[].cache`). Requests of other routes never come here.

A request that is answered here counts against its plan's request and concurrency limits, and not against its token
limits: no engine has worked for it.
"""

import asyncio
import math
from array import array
from collections.abc import Callable
from typing import Final

from backends.cache.base import AnswerStore, CachedAnswer, CacheMiss
from backends.data_plane import TableView
from backends.http1.timer_wheel import TimerWheel
from gateway.cache.coalescing import Coalescer
from gateway.cache.detached_client import DetachedClient, detach
from gateway.cache.replay import Replay
from gateway.exchange import Exchange, Phase
from gateway.http.driver import RequestDriver
from gateway.http.framing import ON_LOOP
from policies.caching import CacheableRequest, age_of, cache_key, has_end_marker, lifetime, wanted, whole
from policies.config.settings.routes import CacheSettings
from policies.identity.principal import Principal
from policies.request.routing import RouteMatch

# After so many shared answers that came to nothing, a request goes to the engine by itself.
_MOST_SUBSCRIPTIONS: Final = 2


class CacheLookup:
    """State of one request in the cache.

    key: None where the cache does not apply
    stale: expired answer, for a fallback
    coalescer: the request's own answer, for subscribers
    """

    __slots__ = ("_cache", "coalescer", "key", "settings", "stale")

    def __init__(self, cache: "ResponseCache", settings: CacheSettings) -> None:
        self._cache = cache
        self.settings = settings
        self.key: bytes | None = None
        self.stale: CachedAnswer | None = None
        self.coalescer: Coalescer | None = None

    def release_subscribers(self) -> None:
        """Let the subscribers go on by themselves: a fallback's answer is for its own client alone."""
        if self.coalescer is not None:
            self._cache.forget(self.coalescer)
            self.coalescer.fail()

    async def replay_stale(self, exchange: Exchange) -> bool:
        """Answer with the expired answer found at the lookup; False where there was none."""
        if self.stale is None:
            return False
        await self._cache.replay.replay_kept(exchange, self.stale, "stale")
        return True


class ResponseCache:
    """Cache of one process."""

    def __init__(
        self, open_cache: Callable[[], AnswerStore], *, count: Callable[[str], None], wheel: TimerWheel,
        clock: Callable[[], float], epoch: float,
    ) -> None:  # fmt: skip
        """
        open_cache: called when the first route has a cache
        count: called with the result of each request, one of CACHE_RESULTS
        clock: monotonic seconds; `epoch` makes Unix time of them
        """
        self._open = open_cache
        self._count = count
        self._wheel = wheel
        self._clock = clock
        self._epoch = epoch
        self.replay = Replay(clock, epoch)
        self._under_way: dict[bytes, Coalescer] = {}
        self._starting: asyncio.Task[None] | None = None
        self.store: AnswerStore | None = None

    @property
    def shareable(self) -> int:
        """Number of answers under way that others may still subscribe to."""
        return len(self._under_way)

    def follow(self, view: TableView) -> None:
        """Adopt a new table: open the store when the first route has a cache."""
        if self.store is None and any(route.cache is not None for route in view.table.routes):
            self.store = self._open()
            self._starting = asyncio.get_running_loop().create_task(self.store.start(), name="cache")

    async def started(self) -> None:
        """Wait until the store is connected, or is known to be away; a second at most."""
        if self._starting is not None:
            await asyncio.wait({self._starting}, timeout=1.0)

    async def stop(self) -> None:
        """Stop the store and its background tasks."""
        await self.started()
        if self.store is not None:
            await self.store.stop()

    # -- before the first attempt

    def lookup(self, settings: CacheSettings) -> CacheLookup:
        """Return the cache state of one request of a route with a cache."""
        return CacheLookup(self, settings)

    async def answer(
        self, exchange: Exchange, lookup: CacheLookup, view: TableView, principal: Principal, route_match: RouteMatch
    ) -> bool:
        """Answer the request from the cache or from an answer under way. Return False where it goes to the engine, as
        the leader of others. Raises GatewayError, ClientGone."""
        settings = lookup.settings
        reads, keeps = wanted(exchange.fields.get(b"cache-control", b""))
        cacheable = _cacheable(exchange, view, principal, route_match, settings)
        small = len(cacheable.body) <= ON_LOOP
        key = cache_key(cacheable, settings) if small else await asyncio.to_thread(cache_key, cacheable, settings)
        if key is None or not keeps or self.store is None:
            exchange.record.cache = "bypass"
            return False
        lookup.key, exchange.record.cache = key, "miss"
        if reads and await self._found(exchange, lookup, key):
            return True
        self._lead(exchange, lookup, key)
        return False

    async def _found(self, exchange: Exchange, lookup: CacheLookup, key: bytes) -> bool:
        """Answer from an answer under way, or from a kept one; return whether there was one."""
        looked, joins = False, 0
        while True:
            coalescer = self._under_way.get(key)
            if coalescer is not None and joins < _MOST_SUBSCRIPTIONS:
                joins += 1
                if await self._share(exchange, coalescer):
                    return True
            elif looked:
                return False
            else:
                looked = True
                if await self._look(exchange, lookup, key):
                    return True

    async def _look(self, exchange: Exchange, lookup: CacheLookup, key: bytes) -> bool:
        """Look the answer up in the store, once, and replay a fresh one."""
        assert self.store is not None, "made before the first request"
        found = self.store.get(key)
        if isinstance(found, asyncio.Future):
            found = await found
            exchange.attempt.ready_at = self._clock()
        if isinstance(found, CacheMiss):
            if found is CacheMiss.DOWN:
                exchange.record.cache = "store_error"
            return False
        age = age_of(found.stored_at, self._clock() + self._epoch, lookup.settings)
        if age == "stale":
            lookup.stale = found
        if age != "fresh":
            return False
        await self.replay.replay_kept(exchange, found, "hit")
        return True

    def _lead(self, exchange: Exchange, lookup: CacheLookup, key: bytes) -> None:
        """Go to the engine and let others subscribe. A request with a deadline of its own leads no one: the others may
        have more time."""
        coalescer = Coalescer(key, exchange, lookup.settings.max_size, self._detach, self.forget)
        lookup.coalescer = exchange.attempt.subscribers = coalescer
        if key not in self._under_way and not exchange.client_deadline:
            self._under_way[key] = coalescer
            exchange.request.successors = coalescer

    def _detach(self, exchange: Exchange, drive: RequestDriver) -> DetachedClient:
        return detach(exchange, drive, self._wheel, self._clock)

    def forget(self, coalescer: Coalescer) -> None:
        """Accept no more subscribers for an answer."""
        if self._under_way.get(coalescer.key) is coalescer:
            del self._under_way[coalescer.key]

    # -- shared answers

    async def _share(self, exchange: Exchange, coalescer: Coalescer) -> bool:
        """Wait for an answer under way and send it as it comes. Return False where it is not for others."""
        attempt = exchange.attempt
        subscriber = coalescer.subscribe(exchange.request)
        try:
            attempt.enter(Phase.QUEUE)
            attempt.queue_deadline = math.inf
            exchange.request.wire.limit(exchange.time_left(self._clock()))
            await subscriber.begun
            attempt.enter(Phase.REQUEST)
            attempt.ready_at = self._clock()
            # The time of this wait is gone, should the request go to an engine itself.
            exchange.limit_first_check(attempt.ready_at)
            if coalescer.head is None:
                return False
            exchange.record.cache = "shared"
            await self.replay.replay(exchange, coalescer.head, subscriber)
            return True
        finally:
            coalescer.unsubscribe(subscriber)

    # -- at the end of the request

    def finish(self, exchange: Exchange, lookup: CacheLookup) -> None:
        """Keep the answer if it is whole, release the subscribers, and count the result."""
        coalescer = lookup.coalescer
        if coalescer is not None:
            self.forget(coalescer)
            kept = self._kept(exchange, coalescer)
            if kept is not None and self.store is not None:
                self.store.put(kept, lifetime(lookup.settings))
            coalescer.over()
            lookup.coalescer = None
        if exchange.record.cache is not None:
            self._count(exchange.record.cache)

    def _kept(self, exchange: Exchange, coalescer: Coalescer) -> CachedAnswer | None:
        """Return the answer to keep; None where it is not whole or reports an error."""
        relay, head = coalescer.relay, coalescer.head
        if relay is None or head is None or not coalescer.whole or coalescer.state == "failed":
            return None
        end_seen = relay.end_seen
        # The openai SDK leaves at `[DONE]`, before HTTP's own end.
        ended = (relay.ended and relay.framed) or end_seen
        if not ended or relay.error is not None or (relay.tap is not None and relay.tap.error is not None):
            return None
        if head.stream and has_end_marker(exchange.kind) and not end_seen:
            return None
        body = b"".join(coalescer.chunks.parts)
        if not whole(body, stream=head.stream):
            return None
        now = self._clock() + self._epoch
        return CachedAnswer(
            coalescer.key, now, head.headers, head.stream, head.length_known, body, array("I", coalescer.sizes)
        )


def _cacheable(
    exchange: Exchange, view: TableView, principal: Principal, route_match: RouteMatch, settings: CacheSettings
) -> CacheableRequest:
    pool = route_match.route.pool
    return CacheableRequest(
        exchange.kind, exchange.method, exchange.target, exchange.fields.get(b"content-type", b""), exchange.body,
        None if settings.scope == "shared" else principal.tenant, pool, view.table.pools[pool].version,
        route_match.upstream_model or exchange.model, exchange.strips_usage,
    )  # fmt: skip
