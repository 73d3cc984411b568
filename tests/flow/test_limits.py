"""Limits through the whole gateway: what is taken, what is refused and how it is told, what is given back."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.fakes.backend import LAST_CHUNK, STREAM_HEAD, Backend, Connection, Request, chunked
from tests.flow.harness import eventually, gateway_with


def plan(*limits: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"plans": {"test": {"limits": list(limits), **more}}}


async def test_a_plan_without_limits_asks_no_store(backend: Backend) -> None:
    backend.streams("a")
    async with gateway_with(backend) as gw:
        answer = await gw.ask()
        assert answer.status == 200
        assert answer.header("x-ratelimit-limit-requests") is None
        assert gw.gateway.data.limiter.store is None
        assert gw.total("limit_mode") == 0


async def test_requests_beyond_the_burst_are_429_and_reach_no_engine(backend: Backend) -> None:
    backend.answers(200, b"{}")
    policy = plan({"requests": "2/minute", "per": "key"})
    async with gateway_with(backend, policy=policy) as gw:
        first = await gw.ask(stream=False)
        assert (first.status, first.header("x-ratelimit-limit-requests")) == (200, "2")
        assert first.header("x-ratelimit-remaining-requests") == "1"
        assert (await gw.ask(stream=False)).status == 200
        refused = await gw.ask(stream=False)
        assert (refused.status, refused.error["code"]) == (429, "rate_limit_exceeded")
        assert refused.error["type"] == "rate_limit_error"
        assert "test.0" in refused.error["message"] and "2 requests a minute" in refused.error["message"]
        assert 20 <= int(refused.header("retry-after") or 0) <= 30
        assert backend.attempts == 2
        assert gw.total("limit_refused_total", rule="test.0") == 1
        # Memory is a store as any other: whoever watches this sees a 1 wherever there are limits.
        assert (gw.total("limit_mode", state="store"), gw.total("limit_mode")) == (1, 1)
        lines = await gw.access_lines()
        assert [line["code"] for line in lines] == [None, None, "rate_limit_exceeded"]


async def test_a_quota_says_insufficient_quota(backend: Backend) -> None:
    backend.answers(200, b"{}")
    async with gateway_with(backend, policy=plan({"requests": "1/day", "strategy": "fixed_window"})) as gw:
        assert (await gw.ask(stream=False)).status == 200
        refused = await gw.ask(stream=False)
        assert (refused.status, refused.error["code"]) == (429, "insufficient_quota")


async def test_a_refused_request_takes_nothing_of_the_other_rules(backend: Backend) -> None:
    backend.answers(200, b"{}")
    policy = plan({"requests": "100/day"}, {"requests": "1/day"})
    async with gateway_with(backend, policy=policy) as gw:
        for _ in range(5):
            await gw.ask(stream=False)
        usage = (await gw.send(gw.request("GET", "/v1/usage"), method="GET")).json
        assert [limit["used"] for limit in usage["limits"]] == [1, 1]


async def test_a_limit_per_model_holds_for_all_of_its_names_together(backend: Backend) -> None:
    backend.answers(200, b"{}")
    limits = plan({"requests": "2/minute", "per": "tenant+model"})
    async with gateway_with(backend, policy=limits, route={"aliases": ["other", "any-*"]}) as gw:
        statuses = [(await gw.ask(stream=False, model=name)).status for name in ("m", "other", "any-1", "any-2")]
        assert statuses == [200, 200, 429, 429]
        for name in ("m", "any-3"):
            usage = (await gw.send(gw.request("GET", f"/v1/usage?model={name}"), method="GET")).json
            assert usage["limits"][0]["used"] == 2


async def test_concurrency_is_given_back_whether_the_client_stays_or_leaves(backend: Backend) -> None:
    backend.streams("a", "b", hold=2)
    async with gateway_with(backend, policy=plan({"concurrency": 1})) as gw:
        async with await gw.connect() as client:
            await client.send(gw.chat_request())
            await client.until(b'"a"')
            refused = await gw.ask()
            assert (refused.status, refused.error["code"]) == (429, "concurrency_limit_exceeded")
        await eventually(lambda: gw.gateway.client_requests == 0, "the client left")
        backend.release.set()
        assert await gw.chat() == "ab"
        assert await gw.chat() == "ab"


def engine_events(*, usage: bool) -> list[bytes]:
    """A stream as vLLM writes it: compact, and the usage in an event of its own."""
    deltas: list[dict[str, object]] = [{"role": "assistant", "content": ""}, {"content": "a"}, {"content": "b"}, {}]
    chunks: list[dict[str, object]] = [
        {"id": "c", "choices": [{"index": 0, "delta": delta, "finish_reason": None if delta else "stop"}]}
        for delta in deltas
    ]
    if usage:
        chunks.append({"id": "c", "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}})
    events = [b"data: %b\n\n" % json.dumps(chunk, separators=(",", ":")).encode() for chunk in chunks]
    return [*events, b"data: [DONE]\n\n"]


@pytest.mark.parametrize("at_once", [True, False])
async def test_tokens_are_settled_by_the_usage_that_was_asked_for_and_taken_out_again(
    backend: Backend, at_once: bool
) -> None:
    async def engine(c: Connection, request: Request) -> None:
        asked = json.loads(request.body).get("stream_options", {}).get("include_usage", False)
        events = engine_events(usage=asked)
        await c.send(STREAM_HEAD)
        for event in [b"".join(events)] if at_once else events:
            await c.send(chunked(event))
            await asyncio.sleep(0.01)
        await c.send(LAST_CHUNK)

    backend.does(engine)
    policy = plan({"tokens": "1000/day", "per": "key"})
    async with gateway_with(backend, policy=policy) as gw:
        answer = await gw.ask(max_tokens=200)
        assert json.loads(backend.requests[0].body)["stream_options"] == {"include_usage": True}
        assert answer.body == b"".join(engine_events(usage=False))
        line = (await gw.access_lines())[-1]
        assert (line["prompt_tokens"], line["completion_tokens"]) == (3, 2)
        usage = (await gw.send(gw.request("GET", "/v1/usage"), method="GET")).json
        assert usage["limits"][0]["used"] == 5
        asked = await gw.ask(max_tokens=200, stream_options={"include_usage": True})
        assert asked.body == b"".join(engine_events(usage=True))


async def test_tokens_of_a_request_that_failed_come_back(backend: Backend) -> None:
    backend.answers(500, b"{}")
    async with gateway_with(backend, policy=plan({"tokens": "1000/day"})) as gw:
        assert (await gw.ask(max_tokens=200, stream=False)).status == 500
        usage = (await gw.send(gw.request("GET", "/v1/usage"), method="GET")).json
        assert usage["limits"][0]["used"] == 0


async def test_a_prompt_that_is_too_long_is_refused_before_an_engine_is_asked(backend: Backend) -> None:
    backend.answers(200, b"{}")
    async with gateway_with(backend, policy=plan(max_input_tokens=10)) as gw:
        refused = await gw.ask("word " * 100, stream=False)
        assert (refused.status, refused.error["code"]) == (400, "context_length_exceeded")
        assert backend.attempts == 0


async def test_max_tokens_is_capped_by_the_plan(backend: Backend) -> None:
    backend.answers(200, b"{}")
    async with gateway_with(backend, policy=plan(max_output_tokens=64)) as gw:
        await gw.ask(max_tokens=1000, stream=False)
        await gw.ask(stream=False)
        assert [json.loads(request.body)["max_tokens"] for request in backend.requests] == [64, 64]


@pytest.mark.parametrize("tasks", [50])
async def test_no_more_than_the_limit_is_let_through_at_once(backend: Backend, tasks: int) -> None:
    backend.answers(200, b"{}")
    async with gateway_with(backend, policy=plan({"requests": "20/hour"})) as gw:
        statuses = [answer.status for answer in await asyncio.gather(*(gw.ask(stream=False) for _ in range(tasks)))]
        assert statuses.count(200) == 20
        assert statuses.count(429) == tasks - 20
