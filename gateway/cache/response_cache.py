"""cache: an answer that was given before is given again; of several who ask for the same at a time one asks the engine
(policy key `routes[].cache`). Requests of other routes never come here.

A request that is answered here takes of its plan's requests and concurrency, and of its tokens nothing: no engine has
worked for it.
"""

import asyncio
import math
from array import array
from collections.abc import Callable
from typing import Final

from backends.cache.base import AnswerStore, CachedAnswer, CacheMiss
from backends.control.data_plane import TableView
from backends.http1.timer_wheel import TimerWheel
from gateway.cache.coalescing import Coalescer
from gateway.cache.detached_client import DetachedClient, absent
from gateway.cache.replay import Replay
from gateway.exchange import Exchange
from gateway.http.driver import RequestDriver
from gateway.http.framing import ON_LOOP
from policies.caching import CacheableRequest, age_of, cache_key, lifetime, says_its_end, wanted, whole
from policies.config.settings.routes import CacheSettings
from policies.identity.principal import Principal
from policies.request.routing import RouteMatch

# So often a request follows another that comes to nothing; then it goes alone.
_MOST_JOINS: Final = 2


class CacheLookup:
    """What the cache has had to say to one request.

    key: None where it is none of the cache's business
    stale: an answer past its time, for a fallback
    """

    __slots__ = ("key", "settings", "stale")

    def __init__(self, settings: CacheSettings) -> None:
        self.settings = settings
        self.key: bytes | None = None
        self.stale: CachedAnswer | None = None


class ResponseCache:
    """The cache of one process."""

    def __init__(
        self, open_cache: Callable[[], AnswerStore], *, count: Callable[[str], None], wheel: TimerWheel,
        clock: Callable[[], float], epoch: float,
    ) -> None:  # fmt: skip
        """
        open_cache: called when the first route has a cache
        count: told what came of each request, one of CACHE_RESULTS
        clock: monotonic seconds; `epoch` makes Unix time of them
        """
        self._open = open_cache
        self._count = count
        self._wheel = wheel
        self._clock = clock
        self._epoch = epoch
        self._replay = Replay(clock, epoch)
        self._flights: dict[bytes, Coalescer] = {}
        self._starting: asyncio.Task[None] | None = None
        self.store: AnswerStore | None = None

    @property
    def flying(self) -> int:
        """Answers under way that others may still follow."""
        return len(self._flights)

    def follow(self, view: TableView) -> None:
        """A new table is in force."""
        if self.store is None and any(route.cache is not None for route in view.table.routes):
            self.store = self._open()
            self._starting = asyncio.get_running_loop().create_task(self.store.start(), name="cache")

    async def started(self) -> None:
        """Return when the store is connected, or is known to be away, after a second at the latest."""
        if self._starting is not None:
            await asyncio.wait({self._starting}, timeout=1.0)

    async def stop(self) -> None:
        """End what goes on in the background."""
        await self.started()
        if self.store is not None:
            await self.store.stop()

    # -- before the engine is asked

    async def answered(self, exchange: Exchange, view: TableView, principal: Principal, routed: RouteMatch) -> bool:
        """Answer it, if somebody else's answer is its too; else it asks the engine, and others may follow it. Raises
        GatewayError and ClientGone like all that waits."""
        settings = routed.route.cache
        assert settings is not None, "only of a route with a cache"
        lookup = exchange.lookup = CacheLookup(settings)
        reads, keeps = wanted(exchange.fields.get(b"cache-control", b""))
        asked = _asked(exchange, view, principal, routed, settings)
        small = len(asked.body) <= ON_LOOP
        key = cache_key(asked, settings) if small else await asyncio.to_thread(cache_key, asked, settings)
        if key is None or not keeps or self.store is None:
            exchange.cache = "bypass"
            return False
        lookup.key, exchange.cache = key, "miss"
        if reads and await self._found(exchange, lookup, key):
            return True
        self._lead(exchange, lookup, key)
        return False

    async def _found(self, exchange: Exchange, lookup: CacheLookup, key: bytes) -> bool:
        """Whether there is an answer: one under way, or one that was kept."""
        looked, joins = False, 0
        while True:
            flight = self._flights.get(key)
            if flight is not None and joins < _MOST_JOINS:
                joins += 1
                if await self._share(exchange, flight):
                    return True
            elif looked:
                return False
            else:
                looked = True
                if await self._look(exchange, lookup, key):
                    return True

    async def _look(self, exchange: Exchange, lookup: CacheLookup, key: bytes) -> bool:
        """Ask the store, once."""
        assert self.store is not None, "made before the first request"
        found = self.store.get(key)
        if isinstance(found, asyncio.Future):
            found = await found
            exchange.received = self._clock()
        if isinstance(found, CacheMiss):
            if found is CacheMiss.DOWN:
                exchange.cache = "store_error"
            return False
        age = age_of(found.stored_at, self._clock() + self._epoch, lookup.settings)
        if age == "stale":
            lookup.stale = found
        if age != "fresh":
            return False
        await self._replay.kept(exchange, found, "hit")
        return True

    def _lead(self, exchange: Exchange, lookup: CacheLookup, key: bytes) -> None:
        """It asks the engine. One whose client is in a hurry leads nobody: they may have more time."""
        flight = exchange.flight = Coalescer(key, exchange, lookup.settings.max_size, self._inherit, self._forget)
        if key not in self._flights and not exchange.hurried:
            self._flights[key] = flight
            exchange.cycle.heirs = flight

    def _inherit(self, exchange: Exchange, drive: RequestDriver) -> DetachedClient:
        return absent(exchange, drive, self._wheel, self._clock)

    def _forget(self, flight: Coalescer) -> None:
        if self._flights.get(flight.key) is flight:
            del self._flights[flight.key]

    # -- somebody else's answer

    async def _share(self, exchange: Exchange, flight: Coalescer) -> bool:
        """Wait for an answer that is asked for, and give it as it comes. False: there is none for others."""
        cycle = exchange.cycle
        follower = flight.join(cycle)
        try:
            exchange.phase, exchange.wait_until = "queue", math.inf
            cycle.wire.limit(exchange.left(self._clock()))
            await follower.begun
            exchange.phase, exchange.received = "request", self._clock()
            self._less_time(exchange)
            if flight.head is None:
                return False
            exchange.cache = "shared"
            await self._replay.give(exchange, flight.head, follower)
            return True
        finally:
            flight.part(follower)

    def _less_time(self, exchange: Exchange) -> None:
        """What it has waited is gone, should it ask the engine itself."""
        left = exchange.left(self._clock())
        if left is not None and (exchange.first_look is None or left < exchange.first_look):
            exchange.first_look = max(left, 0.0)

    def fell(self, exchange: Exchange) -> None:
        """The route's own pool can't answer: what comes now is for its own client alone. Others go on by themselves."""
        if exchange.flight is not None:
            self._forget(exchange.flight)
            exchange.flight.fail()

    def stale_for(self, exchange: Exchange) -> CachedAnswer | None:
        """An answer past its time, for a route's fallback: found when the request came, and not asked for again."""
        return None if exchange.lookup is None else exchange.lookup.stale

    async def replay(self, exchange: Exchange, kept: CachedAnswer) -> None:
        """Give an answer past its time, as a route's fallback wants it; `exchange.extra_headers` may say why."""
        await self._replay.kept(exchange, kept, "stale")

    # -- once it is over

    def landed(self, exchange: Exchange) -> None:
        """Keep the answer, if it is one; let go of those who follow; count."""
        flight, lookup = exchange.flight, exchange.lookup
        if flight is not None and lookup is not None:
            self._forget(flight)
            kept = self._kept(exchange, flight)
            if kept is not None and self.store is not None:
                self.store.put(kept, lifetime(lookup.settings))
            flight.over()
        if exchange.cache is not None:
            self._count(exchange.cache)

    def _kept(self, exchange: Exchange, flight: Coalescer) -> CachedAnswer | None:
        """The answer, where all of it has come and it is one."""
        relay, head = flight.relay, flight.head
        if relay is None or head is None or not flight.whole or flight.state == "failed":
            return None
        said_end = relay.said_end
        # The openai SDK leaves at `[DONE]`, before HTTP's own end.
        ended = (relay.ended and relay.framed) or said_end
        if not ended or relay.error is not None or (relay.tap is not None and relay.tap.error is not None):
            return None
        if head.stream and says_its_end(exchange.kind) and not said_end:
            return None
        body = b"".join(flight.chunks.parts)
        if not whole(body, stream=head.stream):
            return None
        now = self._clock() + self._epoch
        return CachedAnswer(
            flight.key, now, head.headers, head.stream, head.length_known, body, array("I", flight.sizes)
        )


def _asked(
    exchange: Exchange, view: TableView, principal: Principal, routed: RouteMatch, settings: CacheSettings
) -> CacheableRequest:
    pool = routed.route.pool
    return CacheableRequest(
        exchange.kind, exchange.method, exchange.target, exchange.fields.get(b"content-type", b""), exchange.body,
        None if settings.scope == "shared" else principal.tenant, pool, view.table.pools[pool].version,
        routed.upstream_model or exchange.model, exchange.strips,
    )  # fmt: skip
