"""A route with a cache: what was answered before is answered again, and of several who ask one asks the engine."""

from __future__ import annotations

import asyncio
import gzip
import json
from typing import Any

import pytest

from tests.fakes.backend import LAST_CHUNK, STREAM_HEAD, Backend, Connection, Request, Said, chunked
from tests.fakes.client import Answer
from tests.flow.harness import Running, assert_quiet, eventually, gateway_with

ROUTE = {"cache": {"mode": "deterministic", "ttl": "10m"}}
PLAIN = json.dumps({"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}]})
HEADERS = ("content-type", "cache-control", "x-engine", "content-length")


async def ask(gw: Running, text: str = "hi", **fields: Any) -> Answer:
    return await gw.ask(text, **{"temperature": 0, **fields})


def request(gw: Running, text: str = "hi", **fields: Any) -> bytes:
    return gw.chat_request(text, **{"temperature": 0, **fields})


async def results(gw: Running) -> list[str | None]:
    return [line["cache"] for line in await gw.access_lines()]


async def raw_body(gw: Running, data: bytes) -> bytes:
    """The framed body, as it stands on the wire."""
    async with await gw.connect() as client:
        await client.send(data)
        await client.until(b"\r\n\r\n")
        return await client.until(LAST_CHUNK)


async def test_a_plain_answer_is_given_again(backend: Backend) -> None:
    backend.answers(200, PLAIN, [("x-engine", "e")])
    async with gateway_with(backend, route=ROUTE) as gw:
        first, second = await ask(gw, stream=False), await ask(gw, stream=False)
        assert backend.attempts == 1
        assert (second.status, second.body, second.end) == (200, first.body, "complete")
        assert [first.header(name) for name in HEADERS] == [second.header(name) for name in HEADERS]
        assert (first.header("x-sluice-cache"), second.header("x-sluice-cache")) == (None, "hit")
        assert int(second.header("age") or "-1") in range(10)
        assert second.header("x-sluice-pool") is None
        lines = await gw.access_lines()
        assert [line["cache"] for line in lines] == ["miss", "hit"]
        assert [line["pool"] for line in lines] == ["pool", None]
        assert [line["bytes_out"] for line in lines] == [len(first.body)] * 2
        assert gw.total("cache_total", result="hit") == gw.total("cache_total", result="miss") == 1
        assert gw.total("requests_total", pool="pool") == 1


async def test_a_stream_is_given_again_byte_for_byte_in_the_same_chunks(backend: Backend) -> None:
    backend.streams(*"abcdefgh", usage=True, gap=0.005)
    async with gateway_with(backend, route=ROUTE) as gw:
        first, second = await raw_body(gw, request(gw)), await raw_body(gw, request(gw))
        assert second == first
        assert backend.attempts == 1
        answer = await ask(gw)
        assert answer.text == "abcdefgh"
        assert answer.header("x-sluice-cache") == "hit"
        assert answer.header("content-type") == "text/event-stream; charset=utf-8"
        assert await results(gw) == ["miss", "hit", "hit"]


async def test_another_order_of_names_is_the_same_and_other_words_are_not(backend: Backend) -> None:
    backend.answers(200, PLAIN)
    async with gateway_with(backend, route=ROUTE) as gw:
        body = {"model": "m", "temperature": 0, "messages": [{"role": "user", "content": "hi"}]}
        turned = {name: body[name] for name in reversed(body)}
        for each in (body, turned, {**body, "messages": []}):
            await gw.post("/v1/chat/completions", each)
        assert await results(gw) == ["miss", "hit", "miss"]


@pytest.mark.parametrize(
    ("route", "fields", "said"),
    [
        (ROUTE, {"temperature": 0.7}, "bypass"),
        (ROUTE, {"temperature": 0.7, "seed": 3}, "miss"),
        ({"cache": {"mode": "always"}}, {"temperature": 0.7}, "miss"),
    ],
)
async def test_only_deterministic_requests_unless_told(
    backend: Backend, route: dict[str, Any], fields: dict[str, Any], said: str
) -> None:
    backend.answers(200, PLAIN)
    async with gateway_with(backend, route=route) as gw:
        await ask(gw, stream=False, **fields)
        await ask(gw, stream=False, **fields)
        assert await results(gw) == [said, "hit" if said == "miss" else "bypass"]


async def test_a_client_may_want_a_new_answer_or_none_kept(backend: Backend) -> None:
    backend.answers(200, PLAIN)
    async with gateway_with(backend, route=ROUTE) as gw:
        data = [request(gw, stream=False, headers=[("cache-control", word)]) for word in ("no-store", "no-cache")]
        for each in (data[0], data[1], data[1], request(gw, stream=False)):
            await gw.send(each)
        assert await results(gw) == ["bypass", "miss", "miss", "hit"]
        assert backend.attempts == 3


BAD = {
    "an error": b"HTTP/1.1 400 x\r\ncontent-length: 2\r\n\r\n{}",
    "an error under 200": b'HTTP/1.1 200 x\r\ncontent-length: 13\r\n\r\n{"error":"x"}',
    "no end": b"HTTP/1.1 200 x\r\n\r\n{}",
    "cut": b"HTTP/1.1 200 x\r\ncontent-length: 20\r\n\r\n{}",
    "stopped": b'HTTP/1.1 200 x\r\ncontent-length: 40\r\n\r\n{"choices":[{"finish_reason": "abort"}]} ',
    "a stream without its end": STREAM_HEAD + chunked(Said(("a",)).events()[1]) + LAST_CHUNK,
    "a stream with an error": STREAM_HEAD
    + chunked(b"".join(Said(("a",)).events()[:2]))
    + chunked(b'data: {"error":{"message":"x","code":500}}\n\ndata: [DONE]\n\n')
    + LAST_CHUNK,
    "a cut stream": STREAM_HEAD + chunked(b"".join(Said(("a",)).events()[:2])),
    "a code": b"HTTP/1.1 200 x\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n%b"
    % (len(gzip.compress(b"{}", mtime=0)), gzip.compress(b"{}", mtime=0)),
    "what the engine wants nobody to keep": b"HTTP/1.1 200 x\r\ncache-control: no-store\r\ncontent-length: 2\r\n\r\n{}",
}


@pytest.mark.parametrize("name", BAD)
async def test_what_is_no_whole_good_answer_is_never_kept(backend: Backend, name: str) -> None:
    backend.raw(BAD[name])
    async with gateway_with(backend, route={**ROUTE, "retry": "off"}) as gw:
        for _ in range(2):
            await ask(gw)
        assert await results(gw) == ["miss", "miss"]
        assert backend.attempts == 2


async def test_an_answer_over_the_largest_size_is_not_kept(backend: Backend) -> None:
    backend.answers(200, json.dumps({"a": "x" * 5000}))
    async with gateway_with(backend, route={"cache": {"max_size": "4KiB"}}) as gw:
        first, second = await ask(gw, stream=False), await ask(gw, stream=False)
        assert first.body == second.body
        assert await results(gw) == ["miss", "miss"]


async def test_after_its_ttl_an_answer_is_asked_for_anew(backend: Backend) -> None:
    backend.answers(200, PLAIN)
    async with gateway_with(backend, route={"cache": {"ttl": "200ms"}}) as gw:
        await ask(gw, stream=False)
        await asyncio.sleep(0.25)
        await ask(gw, stream=False)
        assert await results(gw) == ["miss", "miss"]


async def test_a_large_answer_is_given_to_a_slow_reader_as_it_reads(backend: Backend) -> None:
    text = "x" * 1_000_000
    backend.streams(text)
    async with gateway_with(backend, route={"cache": {"max_size": "4MiB"}}) as gw:
        first = await ask(gw)
        async with await gw.connect() as client:
            await client.send(request(gw))
            await asyncio.sleep(0.2)
            answer = await client.answer()
        assert (answer.body, answer.end) == (first.body, "complete")
        assert await results(gw) == ["miss", "hit"]


async def test_hits_take_of_the_plans_requests_and_of_its_tokens_nothing(backend: Backend) -> None:
    backend.answers(200, json.dumps({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}}))
    limits = [{"requests": "100/day"}, {"tokens": "1000/day"}, {"concurrency": 5}]
    async with gateway_with(backend, route=ROUTE, policy={"plans": {"test": {"limits": limits}}}) as gw:
        for _ in range(3):
            await ask(gw, stream=False, max_tokens=20)
        assert await results(gw) == ["miss", "hit", "hit"]
        usage = (await gw.send(gw.request("GET", "/v1/usage"), method="GET")).json
        assert [limit["used"] for limit in usage["limits"]] == [3, 7, 0]


# -- single flight


async def test_of_many_who_ask_at_once_one_asks_the_engine(backend: Backend) -> None:
    backend.streams("a", "b", "c", hold=2)
    async with gateway_with(backend, route=ROUTE) as gw:
        asking = [asyncio.create_task(ask(gw)) for _ in range(20)]  # noqa: TID251  gathered below
        await backend.requested()
        await eventually(lambda: gw.gateway.client_requests == 20, "they follow")
        backend.release.set()
        answers = await asyncio.gather(*asking)
        assert backend.attempts == 1
        assert {(answer.status, answer.end, answer.body) for answer in answers} == {(200, "complete", answers[0].body)}
        assert sorted(map(str, await results(gw))) == ["miss"] + ["shared"] * 19
        assert gw.gateway.data.cache.shareable == 0


async def test_who_joins_in_the_middle_gets_it_from_the_beginning_and_as_it_comes(backend: Backend) -> None:
    backend.streams("a", "b", "c", hold=3)
    async with gateway_with(backend, route=ROUTE) as gw:
        async with await gw.connect() as leader, await gw.connect() as follower:
            await leader.send(request(gw))
            await leader.until(b'"b"')
            await follower.send(request(gw))
            await follower.until(b'"a"')
            await follower.until(b'"b"')
            backend.release.set()
            await follower.until(LAST_CHUNK)
            await leader.until(LAST_CHUNK)
        assert backend.attempts == 1


@pytest.mark.parametrize("when", ["before the answer", "in the middle"])
@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_leader_that_leaves_does_not_hurt_its_followers(backend: Backend, when: str, how: str) -> None:
    backend.streams("a", "b", "c", hold=0 if when == "before the answer" else 3)
    async with gateway_with(backend, route=ROUTE) as gw:
        async with await gw.connect() as follower:
            async with await gw.connect() as leader:
                await leader.send(request(gw))
                await backend.requested()
                if when == "in the middle":
                    await leader.until(b'"b"')
                await follower.send(request(gw))
                await eventually(lambda: gw.gateway.client_requests == 2, "it follows")
                if when == "in the middle":
                    await follower.until(b'"b"')
                if how == "reset":
                    leader.reset()
            await asyncio.sleep(0.1)
            assert backend.open, "the engine goes on"
            backend.release.set()
            if when == "in the middle":
                rest = await follower.until(LAST_CHUNK)
                assert b'"c"' in rest and b"[DONE]" in rest
            else:
                assert (await follower.answer()).text == "abc"
        lines = {line["cache"]: line for line in await gw.access_lines(2)}
        assert lines["miss"]["client_gone"] == ("first_byte" if when == "before the answer" else "stream")
        assert (lines["miss"]["outcome"], lines["miss"]["status"]) == ("ok", 499)
        assert (await ask(gw)).header("x-sluice-cache") == "hit"
        assert backend.attempts == 1


async def test_once_nobody_is_left_the_engine_is_left_too(backend: Backend) -> None:
    backend.streams("a", "b", hold=2)
    async with gateway_with(backend, route=ROUTE) as gw:
        async with await gw.connect() as follower:
            async with await gw.connect() as leader:
                await leader.send(request(gw))
                await leader.until(b'"a"')
                await follower.send(request(gw))
                await follower.until(b'"a"')
            await asyncio.sleep(0.05)
            assert backend.open
        await backend.all_closed()
        await eventually(lambda: gw.gateway.client_requests == 0, "all are gone")
        assert sorted(map(str, await results(gw))) == ["miss", "shared"]
        assert [line["client_gone"] for line in await gw.access_lines()] == ["stream", "stream"]


async def test_a_leader_that_left_does_not_go_on_for_an_answer_that_is_not_for_others(backend: Backend) -> None:
    async def encoded(c: Connection, _: Request) -> None:
        await backend.release.wait()
        await c.send(STREAM_HEAD[:-2] + b"content-encoding: gzip\r\n\r\n" + chunked(b"x" * 100))
        await c.stall()

    backend.does(encoded).then.streams("a")
    async with gateway_with(backend, route=ROUTE) as gw:
        async with await gw.connect() as follower:
            async with await gw.connect() as leader:
                await leader.send(request(gw))
                await backend.requested()
                await follower.send(request(gw))
                await eventually(lambda: gw.gateway.client_requests == 2, "it follows")
            await asyncio.sleep(0.05)
            backend.release.set()
            assert (await follower.answer()).text == "a"
        await eventually(lambda: gw.gateway.client_requests == 0, "the leader is over")
        assert backend.attempts == 2


async def test_a_leader_that_fails_lets_the_next_one_lead(backend: Backend) -> None:
    async def fails(c: Connection, _: Request) -> None:
        await backend.release.wait()
        await c.send(b"HTTP/1.1 400 x\r\ncontent-length: 2\r\n\r\n{}")

    backend.does(fails).then.answers(200, PLAIN)
    async with gateway_with(backend, route={**ROUTE, "retry": "off"}) as gw:
        asking = [asyncio.create_task(ask(gw, stream=False)) for _ in range(5)]  # noqa: TID251  gathered below
        await backend.requested()
        await eventually(lambda: gw.gateway.client_requests == 5, "they follow")
        backend.release.set()
        answers = await asyncio.gather(*asking)
        assert sorted(answer.status for answer in answers) == [200] * 4 + [400]
        assert backend.attempts == 2


async def test_a_stream_that_breaks_is_broken_for_all_and_kept_for_nobody(backend: Backend) -> None:
    events = Said(("a", "b")).events()

    async def breaks(c: Connection, _: Request) -> None:
        await c.send(STREAM_HEAD + chunked(events[0]) + chunked(events[1]))
        await backend.release.wait()
        c.rst()

    backend.does(breaks)
    async with gateway_with(backend, route=ROUTE) as gw:
        asking = [asyncio.create_task(ask(gw)) for _ in range(4)]  # noqa: TID251  gathered below
        await backend.requested()
        await eventually(lambda: gw.gateway.client_requests == 4, "they follow")
        backend.release.set()
        for answer in await asyncio.gather(*asking):
            assert (answer.end, answer.chunks[-1]["error"]["code"]) == ("cut", "stream_broken")
            assert b"[DONE]" not in answer.body
        assert {line["code"] for line in await gw.access_lines()} == {"stream_broken"}
        assert backend.attempts == 1


async def test_a_slow_follower_holds_nobody_up(backend: Backend) -> None:
    text = "x" * 400_000
    backend.streams(text, text, text, text, hold=1)
    async with gateway_with(backend, route={"cache": {"max_size": "8MiB"}}) as gw:
        async with await gw.connect() as slow:
            asking = asyncio.create_task(ask(gw))  # noqa: TID251  awaited below
            await backend.requested()
            await slow.send(request(gw))
            await eventually(lambda: gw.gateway.client_requests == 2, "it follows")
            backend.release.set()
            leader = await asking
            follower = await slow.answer()
        assert (leader.end, follower.end, follower.body) == ("complete", "complete", leader.body)


async def test_an_answer_too_long_to_be_kept_still_reaches_all_who_follow_it(backend: Backend) -> None:
    texts = ["x" * 100_000] * 40
    backend.streams(*texts, hold=1)
    async with gateway_with(backend, route={"cache": {"max_size": "64KiB"}}) as gw:
        async with await gw.connect() as slow:
            asking = [asyncio.create_task(ask(gw)) for _ in range(3)]  # noqa: TID251  gathered below
            await backend.requested()
            await slow.send(request(gw))
            await eventually(lambda: gw.gateway.client_requests == 4, "they follow")
            backend.release.set()
            await asyncio.sleep(0.2)
            late = await slow.answer()
            answers = await asyncio.gather(*asking)
        assert {(one.end, one.body) for one in [*answers, late]} == {("complete", answers[0].body)}
        assert backend.attempts == 1
        assert (await ask(gw)).header("x-sluice-cache") is None


async def test_a_follower_has_its_own_deadline(backend: Backend) -> None:
    backend.streams("a", "b", hold=2)
    async with gateway_with(backend, route=ROUTE) as gw:
        async with await gw.connect() as leader:
            await leader.send(request(gw))
            await leader.until(b'"a"')
            hurried = await gw.send(request(gw, headers=[("x-sluice-deadline", "1s")]))
            assert (hurried.end, hurried.chunks[-1]["error"]["code"]) == ("cut", "deadline_exceeded")
            backend.release.set()
            assert b"[DONE]" in await leader.until(LAST_CHUNK)


async def test_a_leader_that_left_is_still_bound_by_its_routes_times(backend: Backend) -> None:
    backend.streams("a", "b", hold=2)
    async with gateway_with(backend, route={**ROUTE, "timeouts": {"idle": "1500ms"}}) as gw:
        async with await gw.connect() as follower:
            async with await gw.connect() as leader:
                await leader.send(request(gw))
                await leader.until(b'"a"')
                await follower.send(request(gw))
                await follower.until(b'"a"')
            rest = await follower.rest()
            assert b"stream_broken" in rest
        await assert_quiet(gw)
        lines = {line["cache"]: line for line in await gw.access_lines()}
        assert lines["miss"]["outcome"] == "too_slow"
