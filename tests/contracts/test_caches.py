"""Every cache holds what `backends.cache.base` says, whatever is behind it."""

from __future__ import annotations

import asyncio
import time
from array import array
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from hashlib import sha256
from random import Random
from uuid import uuid4

import pytest

from backends.cache.base import AnswerStore, CachedAnswer, CacheMiss, Found
from backends.cache.factory import open_redis_cache
from backends.cache.memory import MemoryCache
from backends.store.factory import StoreContext
from policies.config.settings.server import StoreSettings
from tests.contracts.limit_stages import SERVERS
from tests.fakes.store import SpyMeter
from tests.flow.harness import eventually

CHUNKS = (b'data: {"a":1}\n\n', b"\x00\xff\r\n\r\n", b"x", b"data: [DONE]\n\n")


def kept(key: bytes, *chunks: bytes, stored_at: float = 1_700_000_000.25) -> CachedAnswer:
    headers = ((b"content-type", b"text/event-stream; charset=utf-8"), (b"x-odd", "ü ".encode()))
    return CachedAnswer(key, stored_at, headers, True, False, b"".join(chunks), array("I", map(len, chunks)))


def key(text: str) -> bytes:
    return sha256(text.encode()).digest()


async def look(cache: AnswerStore, wanted: bytes) -> Found:
    found = cache.get(wanted)
    return await found if isinstance(found, asyncio.Future) else found


async def after_put(cache: AnswerStore, answer: CachedAnswer, lifetime: float = 60.0) -> None:
    """Puts are carried out in their order with what is asked: after an answer they are done."""
    cache.put(answer, lifetime)
    await look(cache, answer.key)


@asynccontextmanager
async def memory() -> AsyncIterator[AnswerStore]:
    yield MemoryCache(1 << 20, time.monotonic)


@asynccontextmanager
async def on_redis(url: str) -> AsyncIterator[AnswerStore]:
    meter = SpyMeter()
    said: list[str] = []
    around = StoreContext(time.monotonic, 0.0, Random(), meter, lambda event, _: said.append(event))
    cache = open_redis_cache(StoreSettings(url=url, prefix=f"t{uuid4().hex[:12]}", timeout=5.0), around)
    await cache.start()
    # A machine that stands still while it connects loses a part for a moment.
    await eventually(lambda: said.count("cache_back") == said.count("cache_lost"), "it never came back", timeout=20)
    meter.errors.clear()
    said.clear()
    try:
        yield cache
    finally:
        await cache.stop()
    assert (meter.errors, said) == ({}, [])


CACHES: dict[str, Callable[[], AbstractAsyncContextManager[AnswerStore]]] = {
    "memory": memory,
    "redis": lambda: on_redis(SERVERS.single().url),
    "cluster": lambda: on_redis(SERVERS.cluster().url),
}


@pytest.fixture(params=CACHES)
async def cache(request: pytest.FixtureRequest) -> AsyncIterator[AnswerStore]:
    async with CACHES[request.param]() as one:
        yield one


async def test_nothing_is_found_before_it_is_put(cache: AnswerStore) -> None:
    assert await look(cache, key("a")) is CacheMiss.MISS


async def test_what_was_put_is_found_byte_for_byte_and_cut_as_it_was(cache: AnswerStore) -> None:
    answer = kept(key("a"), *CHUNKS)
    await after_put(cache, answer)
    found = await look(cache, key("a"))
    assert found == answer
    assert isinstance(found, CachedAnswer)
    assert list(found.chunks()) == list(CHUNKS)


async def test_an_answer_without_a_body_is_one(cache: AnswerStore) -> None:
    answer = replace(kept(key("a")), stream=False, length_known=True, headers=())
    await after_put(cache, answer)
    assert await look(cache, key("a")) == answer


async def test_each_key_has_its_own(cache: AnswerStore) -> None:
    for number in range(64):
        await after_put(cache, kept(key(str(number)), b"%d" % number))
    found = await asyncio.gather(*(look(cache, key(str(number))) for number in range(64)))
    assert [one.body if isinstance(one, CachedAnswer) else one for one in found] == [b"%d" % n for n in range(64)]
    assert await look(cache, key("64")) is CacheMiss.MISS


async def test_the_last_one_put_is_the_one_that_is_found(cache: AnswerStore) -> None:
    await after_put(cache, kept(key("a"), b"old"))
    await after_put(cache, kept(key("a"), b"new"))
    found = await look(cache, key("a"))
    assert isinstance(found, CachedAnswer) and found.body == b"new"


async def test_it_is_gone_once_its_lifetime_is_over(cache: AnswerStore) -> None:
    await after_put(cache, kept(key("a"), b"a"), 0.05)
    await after_put(cache, kept(key("b"), b"b"), 60.0)
    await asyncio.sleep(0.1)
    assert await look(cache, key("a")) is CacheMiss.MISS
    assert isinstance(await look(cache, key("b")), CachedAnswer)


async def test_a_megabyte_is_kept(cache: AnswerStore) -> None:
    chunk = bytes(range(256)) * 16
    answer = kept(key("a"), *[chunk] * 250)
    await after_put(cache, answer)
    assert await look(cache, key("a")) == answer


async def test_who_asks_and_leaves_does_no_harm(cache: AnswerStore) -> None:
    await after_put(cache, kept(key("a"), b"a"))
    left = cache.get(key("a"))
    if isinstance(left, asyncio.Future):
        left.cancel()
    assert isinstance(await look(cache, key("a")), CachedAnswer)
