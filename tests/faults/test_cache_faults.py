"""The cache when things go wrong: engines that are all down, a store that is away or slow, more prompts than it has
room for."""

from __future__ import annotations

import asyncio
import gc
import json
import time
from array import array
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from hashlib import sha256
from typing import Any, Final

import pytest

from backends.cache.base import CachedAnswer
from backends.cache.memory import MemoryCache
from backends.identity.keyfile import change_keys
from policies.identity.api_keys import KeyEntry, digest, new_key
from policies.identity.keyring import created
from tests.fakes.backend import LAST_CHUNK, Backend
from tests.fakes.client import Answer
from tests.fakes.redis_servers import Server, server
from tests.fakes.store_proxy import StoreProxy
from tests.flow.harness import Running, eventually, gateway_with, resident
from tests.pace import Watch

STALE: Final = {"cache": {"ttl": "100ms"}, "fallback": [{"cache": "stale"}], "retry": {"retries": 1, "backoff": "1ms"}}
LENIENT: Final = {"pools": {"pool": {"health": "off", "ejection": "off", "breaker": "off"}}}
TIMEOUT: Final = 0.4
PLAIN: Final = json.dumps({"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}]})


@pytest.fixture
async def backend() -> AsyncIterator[Backend]:
    async with Backend() as one:
        yield one


@pytest.fixture(scope="module")
def redis() -> Iterator[Server]:
    with server() as one:
        yield one


def request(gw: Running, text: str = "hi", key: str | None = None, **fields: Any) -> bytes:
    headers = [("authorization", f"Bearer {key}")] if key else None
    return gw.chat_request(text, headers=headers, temperature=0, **fields)


async def head_and_body(gw: Running, data: bytes) -> tuple[dict[str, str], bytes]:
    """The reply's headers, and its body as it stands on the wire."""
    async with await gw.connect() as client:
        await client.send(data)
        status, headers = await client.head()
        assert status == 200
        return dict(headers), await client.until(LAST_CHUNK)


def other_tenant(gw: Running) -> str:
    """A key of a tenant beside the usual one."""
    key = new_key()
    entry = KeyEntry(id="k2", sha256=digest(key), tenant="other", plan="test", created=1_763_650_058.0)
    change_keys(gw.folder / "keys.yaml", lambda entries: created(entries, entry))
    return key


@pytest.mark.parametrize("how", ["they refuse", "they are gone", "they fail"])
async def test_a_stream_is_replayed_byte_for_byte_while_everything_is_down(backend: Backend, how: str) -> None:
    backend.streams(*"abcdef", usage=True, gap=0.005)
    async with gateway_with(backend, route=STALE, policy=LENIENT) as gw:
        key = other_tenant(gw)
        await gw.gateway.reload()
        before, first = await head_and_body(gw, request(gw))
        await asyncio.sleep(0.15)
        if how == "they fail":
            backend.answers(503)
        elif how == "they refuse":
            backend.raw(b"", rst=True)
        else:
            assert backend._server is not None
            backend._server.close()
            for one in backend.open:
                one.transport.abort()
        for _ in range(3):
            headers, body = await head_and_body(gw, request(gw))
            assert body == first
            assert (headers["x-sluice-cache"], headers["x-sluice-degraded"]) == ("stale", "cache")
            assert headers["content-type"] == before["content-type"]
            assert "x-sluice-cache" not in before
        elsewhere = await gw.send(request(gw, key=key))
        assert elsewhere.status >= 500, "another tenant's answer is none of theirs"
        assert elsewhere.header("x-sluice-cache") is None
        lines = await gw.access_lines()
        assert [line["cache"] for line in lines] == ["miss", "stale", "stale", "stale", "miss"]
        assert [line["degraded"] for line in lines] == [None, "cache", "cache", "cache", None]
        assert [line["tenant"] for line in lines] == ["acme"] * 4 + ["other"]
        assert gw.total("cache_total", result="stale") == 3


async def test_a_shared_answer_is_everybodys(backend: Backend) -> None:
    backend.answers(200, PLAIN)
    async with gateway_with(backend, route={"cache": {"scope": "shared"}}) as gw:
        key = other_tenant(gw)
        await gw.gateway.reload()
        for data in (request(gw, stream=False), request(gw, stream=False, key=key)):
            await gw.send(data)
        assert [line["cache"] for line in await gw.access_lines()] == ["miss", "hit"]


async def test_another_version_of_the_model_is_another_answer(backend: Backend) -> None:
    backend.answers(200, PLAIN)
    async with gateway_with(backend, route={"cache": {}}) as gw:
        await gw.send(request(gw, stream=False))
        path = gw.folder / "policy.yaml"
        policy = json.loads(path.read_text())
        policy["pools"]["pool"]["version"] = "2"
        path.write_text(json.dumps(policy))
        await gw.gateway.reload()
        for _ in range(2):
            await gw.send(request(gw, stream=False))
        assert [line["cache"] for line in await gw.access_lines()] == ["miss", "miss", "hit"]


# -- room


def test_a_hundred_thousand_distinct_answers_take_no_more_memory_than_they_may() -> None:
    limit = 16 << 20
    cache = MemoryCache(limit, time.monotonic)
    headers = ((b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache"))
    usual = CachedAnswer(b"", 0.0, headers, True, False, b"", array("I"))
    gc.collect()
    before = resident()
    for number in range(100_000):
        text = b"data: %d\n\n" % number
        key = sha256(b"%d" % number).digest()
        cache.put(replace(usual, key=key, body=text * 40, sizes=array("I", [len(text)] * 40)), 3600)
        assert cache.size <= limit
    gc.collect()
    assert len(cache) > 1000
    # What Python itself takes beside is counted too high, so that the bound is one of memory and not of bodies.
    assert resident() - before < 1.5 * limit


async def test_many_distinct_prompts_stay_within_the_bound(backend: Backend) -> None:
    backend.answers(200, json.dumps({"choices": [], "text": "x" * 2000}))
    policy = {"store": {"cache_size": "256KiB"}}
    async with gateway_with(backend, route={"cache": {}}, policy=policy) as gw:
        async with await gw.connect() as client:
            for number in range(600):
                await client.send(request(gw, f"prompt {number}", stream=False))
                assert (await client.answer()).status == 200
        store = gw.gateway.data.cache.store
        assert isinstance(store, MemoryCache)
        assert 0 < store.size <= 256 << 10
        assert (await gw.send(request(gw, "prompt 599", stream=False))).header("x-sluice-cache") == "hit"
        assert (await gw.send(request(gw, "prompt 0", stream=False))).header("x-sluice-cache") is None


# -- Redis


def with_store(url: str, prefix: str) -> dict[str, Any]:
    return {"store": {"url": url, "prefix": prefix, "timeout": f"{round(TIMEOUT * 1000)}ms"}}


async def timed(gw: Running, text: str = "hi") -> tuple[Answer, Watch]:
    watch = Watch()
    answer = await gw.send(request(gw, text, stream=False))
    return answer, watch.stop()


async def test_two_gateways_share_a_redis(backend: Backend, redis: Server) -> None:
    backend.streams("a", "b")
    policy = with_store(redis.url, "shared")
    async with gateway_with(backend, route={"cache": {}}, policy=policy) as one:
        async with gateway_with(backend, route={"cache": {}}, policy=policy, quiet=False) as other:
            _, first = await head_and_body(one, request(one))
            await eventually(lambda: len(redis.ask("KEYS", "shared:cache:*")) == 1, "it is kept")
            headers, second = await head_and_body(other, request(other))
            assert (second, headers["x-sluice-cache"]) == (first, "hit")
            assert backend.attempts == 1


async def test_a_slow_redis_costs_its_timeout_once_and_everything_is_a_miss(
    backend: Backend, proxy: StoreProxy
) -> None:
    backend.answers(200, PLAIN)
    async with gateway_with(backend, route={"cache": {}}, policy=with_store(proxy.url, "slow")) as gw:
        await timed(gw)
        assert (await timed(gw))[0].header("x-sluice-cache") == "hit"
        proxy.delay = 8 * TIMEOUT
        answer, first = await timed(gw)
        assert (answer.status, answer.header("x-sluice-cache")) == (200, None)
        assert first.within(TIMEOUT * 0.9, 5 * TIMEOUT)
        others = [await timed(gw, f"other {number}") for number in range(20)]
        assert [answer.status for answer, _ in others] == [200] * 20
        # All of them together wait for less than half of them would: nobody asks.
        assert sum(took.own for _, took in others) < 10 * TIMEOUT
        assert gw.total("cache_total", result="store_error") == 21
        assert gw.total("store_errors_total", kind="timeout") == 1
        assert "cache_lost" in gw.log_text()
        proxy.delay = 0.0
        await eventually(lambda: "cache_back" in gw.log_text(), "it came back", 20.0)
        await timed(gw, "again")
        assert (await timed(gw, "again"))[0].header("x-sluice-cache") == "hit"


async def test_a_redis_that_is_away_from_the_start_costs_nothing(backend: Backend) -> None:
    backend.answers(200, PLAIN)
    with server() as gone:
        url = gone.url
    async with gateway_with(backend, route={"cache": {}}, policy=with_store(url, "gone")) as gw:
        answers = [await timed(gw) for _ in range(10)]
        assert [answer.status for answer, _ in answers] == [200] * 10
        assert min(took.own for _, took in answers) < TIMEOUT
        assert [line["cache"] for line in await gw.access_lines()] == ["store_error"] * 10


async def test_single_flight_goes_on_without_a_store(backend: Backend) -> None:
    backend.streams("a", "b", hold=2)
    with server() as gone:
        url = gone.url
    async with gateway_with(backend, route={"cache": {}}, policy=with_store(url, "gone")) as gw:
        asking = [asyncio.create_task(gw.send(request(gw))) for _ in range(5)]  # noqa: TID251  gathered below
        await backend.requested()
        await eventually(lambda: gw.gateway.client_requests == 5, "they follow")
        backend.release.set()
        assert {answer.text for answer in await asyncio.gather(*asking)} == {"ab"}
        assert backend.attempts == 1


async def test_a_client_that_leaves_while_redis_is_asked_leaves_nothing(backend: Backend, proxy: StoreProxy) -> None:
    backend.answers(200, PLAIN)
    async with gateway_with(backend, route={"cache": {}}, policy=with_store(proxy.url, "left")) as gw:
        await timed(gw)
        proxy.delay = TIMEOUT / 4
        for _ in range(20):
            async with await gw.connect() as client:
                await client.send(request(gw, stream=False))
                await asyncio.sleep(0.01)
        proxy.delay = 0.0
        await eventually(lambda: gw.gateway.client_requests == 0, "all have left")
        assert (await timed(gw))[0].header("x-sluice-cache") == "hit"
        assert backend.attempts == 1
