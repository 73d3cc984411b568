"""The cache that all processes and replicas share: one string a key in Redis, with a lifetime.

Keys are `PREFIX:cache:v1:{P}:HEX`. On a Cluster P, one of 16, is what the slot is picked by: so answers are spread over
the nodes, and each P has a connection to whichever node holds it. Elsewhere there is one connection.

Nothing is asked twice, and nothing is promised: after the first question without an answer in `store.timeout` nobody is
kept waiting, until the background, which asks four times a second over a new connection, has an answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final, Protocol

from backends.cache.base import CachedAnswer, CacheMiss, Found
from backends.cache.packing import key_of, pack, unpack
from backends.store.commands import packed
from backends.store.outage import Say
from backends.store.redis_calls import StoreCall
from backends.store.redis_channel import ChannelConnector, RedisChannel
from backends.store.redis_errors import Kind, ReplyError, StoreLostError
from backends.store.redis_link import DesyncError, RedisLink, Stopwatch
from backends.tasks import ended

PARTS: Final = 16
PROBE: Final = 0.25
"""Seconds between two questions whether it is back."""
_PING: Final = packed(("PING",))


class CacheFailures(Protocol):
    """Counters of the cache's failures."""

    def store_error(self, kind: str) -> None: ...


class RedisCache:
    """Parts that have nothing to do with each other: one that is away takes nothing but its own share of the keys."""

    def __init__(self, parts: Sequence[CachePart], prefix: str) -> None:
        self._parts = parts
        self._prefix = prefix

    def get(self, key: bytes) -> Found | asyncio.Future[Found]:
        """Implement `AnswerStore.get`."""
        return self._part(key).get(key, self._name(key))

    def put(self, answer: CachedAnswer, lifetime: float) -> None:
        """Implement `AnswerStore.put`."""
        self._part(answer.key).put(self._name(answer.key), answer, lifetime)

    async def start(self) -> None:
        """Implement `AnswerStore.start`."""
        await asyncio.gather(*(part.start() for part in self._parts))

    async def stop(self) -> None:
        """Implement `AnswerStore.stop`."""
        await asyncio.gather(*(part.stop() for part in self._parts))

    def _part(self, key: bytes) -> CachePart:
        return self._parts[key[0] % len(self._parts)]

    def _name(self, key: bytes) -> str:
        return f"{part_name(self._prefix, key[0] % PARTS)}{key.hex()}"


def part_name(prefix: str, number: int) -> str:
    """Return the prefix of the keys of one of the PARTS."""
    return f"{prefix}:cache:v1:{{{number}}}:"


class CachePart:
    """One connection, and whether anybody answers there."""

    def __init__(
        self, opens: ChannelConnector, name: str, timeout: float, stopwatch: Stopwatch, meter: CacheFailures, say: Say
    ) -> None:
        """
        name: what its keys begin with (`part_name`)
        timeout: seconds that a question may take
        say: told when it is lost and when it is back
        """
        self.lost: StoreLostError | None = None
        """Error for which the cache is not used now; None while it works."""
        self._channel = RedisChannel(opens, timeout, _greet, lambda: (), stopwatch)
        self._probe = packed(("SET", f"{name}probe", "", "PX", 1000))
        self._clock = stopwatch.clock
        self._meter = meter
        self._say = say
        self._since = 0.0
        self._probing: asyncio.Task[None] | None = None
        self._stopped = False

    def get(self, key: bytes, name: str) -> Found | asyncio.Future[Found]:
        """The answer under `key`, which is called `name` there."""
        if self.lost is not None:
            return CacheMiss.DOWN
        call = GetCall(self, key, name)
        self._channel.send(call)
        return call.future

    def put(self, name: str, answer: CachedAnswer, lifetime: float) -> None:
        """Keep it."""
        if self.lost is None and self._channel.up:
            self._channel.send(PutCall(self, name, answer, lifetime))

    async def start(self) -> None:
        """Connect, if somebody is there."""
        try:
            await self._channel.connected()
        except StoreLostError as error:
            self.failed(error.kind, str(error))

    async def stop(self) -> None:
        """End."""
        self._stopped = True
        await ended(self._probing)
        await self._channel.close()

    def refused(self, kind: Kind, reason: str) -> None:
        """An answer was not taken. One that is full can still be asked."""
        if kind == "oom":
            self._meter.store_error(kind)
        else:
            self.failed(kind, reason)

    def failed(self, kind: Kind, reason: str) -> None:
        """A question was not answered."""
        if self._stopped:
            return
        self._meter.store_error(kind)
        if self.lost is not None:
            return
        self.lost, self._since = StoreLostError(kind, reason), self._clock()
        self._say("cache_lost", {"kind": kind, "reason": reason})
        # Whoever waits on this connection is told now; the next one may lead to another server.
        self._channel.drop(kind, reason)
        self._probing = asyncio.get_running_loop().create_task(self._until_back(), name="cache store")

    async def _until_back(self) -> None:
        while True:
            await asyncio.sleep(PROBE)
            try:
                await self._channel.connected()
                # Written and not only read: a replica answers every PING.
                probe = StoreCall(lambda _: self._probe)
                self._channel.send(probe)
                await probe.answer()
            except StoreLostError as error:
                if error.kind == "oom":
                    break
                self._channel.drop(error.kind, str(error))
            else:
                break
        self.lost = None
        self._say("cache_back", {"after_s": round(self._clock() - self._since, 3)})


class GetCall:
    """A question."""

    __slots__ = ("_key", "_name", "_part", "future")

    def __init__(self, part: CachePart, key: bytes, name: str) -> None:
        self.future: asyncio.Future[Found] = asyncio.get_running_loop().create_future()
        self._part = part
        self._key = key
        self._name = name

    def pack(self) -> bytes | None:
        return None if self.future.done() else packed(("GET", self._name))

    def replied(self, reply: Any) -> None:
        if isinstance(reply, ReplyError):
            self.lost(reply.kind, str(reply))
            return
        found: Found | None = CacheMiss.MISS
        if reply is not None:
            if type(reply) is not bytes:
                raise DesyncError("it answers no GET")
            found = unpack(reply, self._key)
            if found is None and key_of(reply) not in (None, self._key):
                # Of all that could go wrong the worst: somebody else's answer.
                raise DesyncError("it is the answer of another key")
        if not self.future.done():
            self.future.set_result(found or CacheMiss.MISS)

    def lost(self, kind: Kind, reason: str) -> None:
        if not self.future.done():
            self.future.set_result(CacheMiss.DOWN)
            self._part.failed(kind, reason)


class PutCall:
    """An answer on its way."""

    __slots__ = ("_answer", "_lifetime", "_name", "_over", "_part")

    def __init__(self, part: CachePart, name: str, answer: CachedAnswer, lifetime: float) -> None:
        self._part = part
        self._name = name
        self._answer = answer
        self._lifetime = lifetime
        self._over = False

    def pack(self) -> bytes:
        return packed(("SET", self._name, pack(self._answer), "PX", max(1, round(self._lifetime * 1000))))

    def replied(self, reply: Any) -> None:
        over, self._over = self._over, True
        if isinstance(reply, ReplyError):
            if not over:
                self._part.refused(reply.kind, str(reply))
        elif reply != b"OK":
            raise DesyncError("it answers no SET")

    def lost(self, kind: Kind, reason: str) -> None:
        if not self._over:
            self._over = True
            self._part.failed(kind, reason)


async def _greet(link: RedisLink) -> None:
    ping = StoreCall(lambda _: _PING)
    link.send(_PING, [ping])
    await ping.answer()
