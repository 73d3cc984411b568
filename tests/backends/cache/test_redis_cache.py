"""The cache in Redis, when that is slow, away, or says what nobody asked: always a miss, and one wait at most."""

from __future__ import annotations

import asyncio
import time
from array import array
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from hashlib import sha256
from random import Random

import pytest

from backends.cache.base import AnswerStore, CachedAnswer, CacheMiss, Found
from backends.cache.factory import open_redis_cache
from backends.cache.packing import pack, unpack
from backends.cache.redis import PROBE
from backends.store.factory import StoreContext
from policies.config.settings.server import StoreSettings
from tests.fakes.redis_servers import Server, server
from tests.fakes.store import SpyMeter
from tests.fakes.store_proxy import StoreProxy
from tests.flow.harness import eventually
from tests.pace import Watch

KEY = sha256(b"a").digest()
TIMEOUT = 0.5


@pytest.fixture(scope="module")
def redis() -> Iterator[Server]:
    with server() as one:
        yield one


class Opened:
    def __init__(self, cache: AnswerStore, meter: SpyMeter, said: list[str]) -> None:
        self.cache = cache
        self.meter = meter
        self.said = said

    async def look(self, key: bytes = KEY) -> Found:
        found = self.cache.get(key)
        return await found if isinstance(found, asyncio.Future) else found

    async def kept(self, key: bytes = KEY) -> None:
        self.cache.put(kept(key), 60)
        assert isinstance(await self.look(key), CachedAnswer)


def kept(key: bytes = KEY) -> CachedAnswer:
    return CachedAnswer(key, 1.5, ((b"content-type", b"application/json"),), False, True, b"{}", array("I", [2]))


@asynccontextmanager
async def opened(url: str, prefix: str = "t") -> AsyncIterator[Opened]:
    meter, said = SpyMeter(), list[str]()
    around = StoreContext(time.monotonic, 0.0, Random(), meter, lambda event, _: said.append(event))
    cache = open_redis_cache(StoreSettings(url=url, prefix=prefix, timeout=TIMEOUT), around)
    await cache.start()
    try:
        yield Opened(cache, meter, said)
    finally:
        await cache.stop()


async def test_slow_costs_one_wait_of_the_timeout_and_no_more_until_it_is_back(proxy: StoreProxy) -> None:
    async with opened(proxy.url) as one:
        await one.kept()
        proxy.delay = 3 * TIMEOUT
        watch = Watch()
        assert await one.look() is CacheMiss.DOWN
        assert watch.within(TIMEOUT * 0.9, 2.8 * TIMEOUT)
        assert [one.cache.get(KEY) for _ in range(100)] == [CacheMiss.DOWN] * 100
        assert one.meter.errors == {"timeout": 1}
        proxy.delay = 0.0
        await eventually(lambda: one.said == ["cache_lost", "cache_back"], "it came back", 20.0)
        assert isinstance(await one.look(), CachedAnswer)


async def test_nobody_there_is_down_and_later_there(redis: Server) -> None:
    away = Server(redis.folder.parent / f"{redis.folder.name}-late")
    async with opened(away.url) as one:
        assert one.cache.get(KEY) is CacheMiss.DOWN
        one.cache.put(kept(), 60)
        away.start()
        try:
            await eventually(lambda: one.said[-1] == "cache_back", "it came back", 20.0)
            await one.kept()
            away.freeze()
            assert await one.look() is CacheMiss.DOWN
            away.thaw()
            await eventually(lambda: one.said[-1] == "cache_back", "it came back again", 20.0)
            away.stop()
            assert await one.look() is CacheMiss.DOWN
        finally:
            away.stop()


async def test_a_full_server_takes_nothing_and_can_still_be_asked(redis: Server) -> None:
    async with opened(redis.url, "full") as one:
        await one.kept()
        redis.ask("CONFIG", "SET", "maxmemory", 1)
        try:
            one.cache.put(kept(), 60)
            await eventually(lambda: one.meter.errors == {"oom": 1}, "it refused")
            assert isinstance(await one.look(), CachedAnswer)
            assert one.said == []
        finally:
            redis.ask("CONFIG", "SET", "maxmemory", 0)


async def test_a_replica_is_away_until_it_can_be_written_to(redis: Server) -> None:
    async with opened(redis.url, "replica") as one:
        await one.kept()
        redis.ask("REPLICAOF", "127.0.0.1", 1)
        try:
            one.cache.put(kept(), 60)
            await eventually(lambda: one.said == ["cache_lost"], "it refused")
            await asyncio.sleep(3 * PROBE)
            assert one.cache.get(KEY) is CacheMiss.DOWN
        finally:
            redis.ask("REPLICAOF", "NO", "ONE")
        await eventually(lambda: one.said == ["cache_lost", "cache_back"], "it came back", 20.0)


async def test_the_answer_of_another_key_is_never_taken(redis: Server) -> None:
    other = sha256(b"b").digest()
    async with opened(redis.url, "mixed") as one:
        await one.kept(other)
        part = one.cache
        names = {key: part._name(key) for key in (KEY, other)}  # type: ignore[attr-defined]
        redis.ask("RENAME", names[other], names[KEY])
        assert await one.look() is CacheMiss.DOWN
        assert one.meter.errors == {"other": 1}


async def test_what_is_no_answer_of_ours_is_a_miss(redis: Server) -> None:
    async with opened(redis.url, "foreign") as one:
        name = one.cache._name(KEY)  # type: ignore[attr-defined]
        for value in ("", "x", "{}\n", '{"key":1}\nabc'):
            redis.ask("SET", name, value)
            assert await one.look() is CacheMiss.MISS
        assert one.meter.errors == {}


async def test_every_key_has_a_lifetime(redis: Server) -> None:
    async with opened(redis.url, "life") as one:
        await one.kept()
        left = redis.ask("PTTL", one.cache._name(KEY))  # type: ignore[attr-defined]
        assert 50_000 < left <= 60_000


@pytest.mark.parametrize("cut", [0, 1, 40, -1])
def test_what_was_cut_or_changed_is_nothing(cut: int) -> None:
    value = pack(kept())
    assert unpack(value, KEY) == kept()
    assert unpack(value[:cut], KEY) is None
    assert unpack(value[:-1] + b"]", KEY) is None
    assert unpack(value + b" ", KEY) is None
    assert unpack(value, sha256(b"b").digest()) is None
