"""The cache beside what else a route may have: SDKs that leave early, a queue, hedges, limits, a fallback's pool."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, Final

import anthropic
import openai
import pytest

from backends.simulator.server import Simulator
from backends.simulator.settings import SimulatorSettings
from tests.fakes.backend import Backend
from tests.flow.harness import Running, eventually, gateway_with

ROUTE: Final[dict[str, Any]] = {"cache": {}}


@pytest.fixture
async def backend() -> AsyncIterator[Backend]:
    async with Backend() as one:
        yield one


@pytest.fixture
async def engine() -> AsyncIterator[Simulator]:
    async with Simulator(SimulatorSettings(models=("m",), seed=7)) as one:
        yield one


def request(gw: Running, text: str = "hi", **fields: Any) -> bytes:
    return gw.chat_request(text, temperature=0, **fields)


async def results(gw: Running) -> list[str]:
    return sorted(str(line["cache"]) for line in await gw.access_lines())


async def test_the_openai_sdk_reads_what_was_kept_and_leaves_at_done(engine: Simulator) -> None:
    async with gateway_with(engine.url, route=ROUTE) as gw:
        async with openai.AsyncOpenAI(base_url=f"http://{gw.gateway.address}/v1", api_key=gw.key) as client:
            texts = []
            for _ in range(3):
                stream = await client.chat.completions.create(
                    model="m", messages=[{"role": "user", "content": "hi"}], stream=True, temperature=0, max_tokens=20
                )
                texts.append("".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices]))
            plain = [
                await client.completions.create(model="m", prompt="hi", temperature=0, max_tokens=5) for _ in range(2)
            ]
            read = [await client.embeddings.create(model="m", input="hi") for _ in range(2)]
        assert len(set(texts)) == 1 and texts[0]
        assert plain[0] == plain[1] and read[0].data == read[1].data
        assert await results(gw) == ["hit"] * 4 + ["miss"] * 3


async def test_the_anthropic_sdk_too(engine: Simulator) -> None:
    async with gateway_with(engine.url, route=ROUTE) as gw:
        async with anthropic.AsyncAnthropic(base_url=f"http://{gw.gateway.address}", api_key=gw.key) as client:
            texts = []
            for _ in range(2):
                async with client.messages.stream(
                    model="m",
                    messages=[{"role": "user", "content": "hi"}],
                    max_tokens=10,
                    extra_body={"temperature": 0},
                ) as stream:
                    texts.append("".join([text async for text in stream.text_stream]))
        assert texts[0] == texts[1] != ""
        assert await results(gw) == ["hit", "miss"]


async def test_a_leader_that_leaves_the_queue_leaves_its_place_to_those_who_follow(backend: Backend) -> None:
    backend.streams("a", hold=2)
    policy = {"pools": {"pool": {"max_in_flight": 1, "queue": {"size": 5, "wait": "10s"}}}}
    async with gateway_with(backend, route=ROUTE, policy=policy) as gw:
        async with await gw.connect() as first, await gw.connect() as follower:
            await first.send(request(gw, "another"))
            await backend.requested()
            async with await gw.connect() as leader:
                await leader.send(request(gw))
                await eventually(lambda: gw.gateway.client_requests == 2, "it waits")
                await follower.send(request(gw))
                await eventually(lambda: gw.gateway.client_requests == 3, "it follows")
            await asyncio.sleep(0.1)
            backend.release.set()
            assert (await first.answer()).text == "a"
            assert (await follower.answer()).text == "a"
        lines = await gw.access_lines(3)
        left = next(line for line in lines if line["client_gone"] is not None)
        assert (left["client_gone"], left["status"], left["cache"], left["outcome"]) == ("queue", 499, "miss", "ok")
        assert backend.attempts == 2


async def test_a_hedged_leader_that_leaves_goes_on_for_its_followers(backend: Backend) -> None:
    backend.streams("a", hold=0)
    async with Backend() as other:
        other.streams("b", hold=0)
        route = {**ROUTE, "hedge": {"after": "50ms", "budget": 1}}
        async with gateway_with(backend, other, route=route) as gw:
            async with await gw.connect() as follower:
                async with await gw.connect() as leader:
                    await leader.send(request(gw))
                    await eventually(lambda: backend.attempts + other.attempts == 2, "it was hedged")
                    await follower.send(request(gw))
                    await eventually(lambda: gw.gateway.client_requests == 2, "it follows")
                await asyncio.sleep(0.1)
                other.release.set()
                assert (await follower.answer()).text == "b"
            assert (await gw.send(request(gw))).header("x-sluice-cache") == "hit"


async def test_what_another_pool_answered_is_not_kept_and_not_shared(backend: Backend) -> None:
    body = json.dumps({"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}]})
    async with Backend() as small:
        small.answers(200, body)
        backend.answers(503)
        route = {**ROUTE, "retry": "off", "fallback": [{"pool": "small"}]}
        async with gateway_with(pools={"pool": [backend], "small": [small]}, route=route) as gw:
            answers = [await gw.send(request(gw, stream=False)) for _ in range(2)]
            assert {answer.status for answer in answers} == {200}
            assert await results(gw) == ["miss", "miss"]
            assert small.attempts == 2


async def test_a_leader_that_left_is_ended_with_the_gateway(backend: Backend) -> None:
    backend.streams("a", "b", hold=2)
    async with gateway_with(backend, route=ROUTE, quiet=False) as gw:
        follower = await gw.connect()
        async with await gw.connect() as leader:
            await leader.send(request(gw))
            await leader.until(b'"a"')
            await follower.send(request(gw))
            await follower.until(b'"a"')
        await asyncio.sleep(0.05)
    rest = await follower.rest()
    assert b"shutting_down" in rest or b"stream_broken" in rest
    await backend.all_closed()
    follower.writer.close()


async def test_usage_that_was_asked_for_in_a_clients_place_is_in_no_kept_answer(engine: Simulator) -> None:
    policy = {"plans": {"test": {"limits": [{"tokens": "100k/hour"}]}}}
    async with gateway_with(engine.url, route=ROUTE, policy=policy) as gw:
        unasked = [await gw.send(request(gw, max_tokens=10)) for _ in range(2)]
        asked = [await gw.send(request(gw, max_tokens=10, stream_options={"include_usage": True})) for _ in range(2)]
        assert unasked[0].body == unasked[1].body and b'"usage"' not in unasked[0].body
        assert asked[0].body == asked[1].body and b'"usage":{' in asked[0].body
        assert await results(gw) == ["hit", "hit", "miss", "miss"]
