"""Every endpoint of a pool down, then those of its fallback: each step of the chain in turn, read by the openai SDK,
and back to normal without a restart."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final

import openai
import pytest

from backends.simulator.server import Simulator
from backends.simulator.settings import SimulatorSettings
from tests.fakes.backend import Backend
from tests.flow.harness import Running, eventually, gateway_with
from tests.pace import slowdown

TEXT: Final = "The service is busy. A person has been told."
MODELS: Final = ("m",)
# What comes back is seen soon, so that the test need not wait long.
QUICK: Final = {
    "health": {"every": "100ms", "suspect_every": "50ms", "healthy_after": 1, "unhealthy_after": 1},
    "breaker": {"open_for": "200ms", "max_open_for": "200ms"},
    "ejection": {"for": "100ms", "max_for": "100ms"},
    "slow_start": "off",
}


async def said(gw: Running, text: str, *, stream: bool) -> tuple[str, str | None]:
    """What the SDK reads, and what the answer says of itself."""
    async with openai.AsyncOpenAI(
        base_url=f"http://{gw.gateway.address}/v1", api_key=gw.key, max_retries=0, timeout=20
    ) as client:
        asked: dict[str, Any] = {
            "model": "m",
            "messages": [{"role": "user", "content": text}],
            "temperature": 0,
            "max_tokens": 12,
        }
        if not stream:
            raw = await client.chat.completions.with_raw_response.create(**asked)
            whole = raw.parse()
            assert whole.choices[0].finish_reason in ("stop", "length")
            return whole.choices[0].message.content or "", raw.headers.get("x-sluice-degraded")
        chunks = await client.chat.completions.create(**asked, stream=True)
        texts, reasons = [], []
        async for chunk in chunks:
            texts += [choice.delta.content or "" for choice in chunk.choices]
            reasons += [choice.finish_reason for choice in chunk.choices if choice.finish_reason]
        assert len(reasons) == 1, "no proper end"
        return "".join(texts), chunks.response.headers.get("x-sluice-degraded")


async def until(gw: Running, text: str, label: str | None, *, stream: bool) -> str:
    """What is said once an answer has this label."""
    for _ in range(int(100 * slowdown())):
        words, found = await said(gw, text, stream=stream)
        if found == label:
            return words
        await asyncio.sleep(0.05)
    raise AssertionError(f"never {label}, but {found}")


@pytest.mark.parametrize("stream", [False, True])
async def test_each_step_answers_in_turn_and_the_pool_is_back_without_a_restart(stream: bool) -> None:
    big = [Simulator(SimulatorSettings(models=MODELS, tokens=12)) for _ in range(2)]
    small = Simulator(SimulatorSettings(models=("tiny",), tokens=12))
    async with Backend() as hook, big[0], big[1], small:
        hook.answers(200)
        route = {
            "cache": {"mode": "deterministic", "ttl": "1ms", "stale": "1d"},
            "fallback": [
                {"pool": "small", "upstream_model": "tiny", "max_tokens": 4},
                {"cache": "stale"},
                {"message": TEXT, "webhook": {"url": f"{hook.url}/hook"}},
            ],
        }
        pools = {"big": [one.url for one in big], "small": [small.url]}
        policy = {"pools": {name: {"engine": "simulator", **QUICK} for name in pools}}
        async with gateway_with(pools=pools, route=route, policy=policy) as gw:
            known = await until(gw, "hello", None, stream=stream)
            for one in big:
                one.refuse(3600)
                one.drop_connections()
            words = await until(gw, "hello", "simplified", stream=stream)
            assert 0 < len(words.split()) <= 4
            small.refuse(3600)
            small.drop_connections()
            assert await until(gw, "hello", "cache", stream=stream) == known
            assert await until(gw, "another prompt", "message", stream=stream) == TEXT
            for _ in range(20):
                assert await said(gw, "a third", stream=stream) == (TEXT, "message")
            told = json.loads((await hook.requested()).body)
            assert (told["route"], told["degraded"], told["pool"]) == ("m", "message", "big")
            for one in big:
                one._listen_again()
            assert await until(gw, "hello", None, stream=stream) == known
            assert (await said(gw, "hello", stream=stream))[1] is None
            await eventually(lambda: "webhook_told" in gw.log_text(), "the webhook never answered")
            assert hook.attempts == 1, "told more than once an incident"
            lines = await gw.access_lines()
            assert {line["degraded"] for line in lines} == {None, "simplified", "cache", "message"}
            counted = {kind: gw.total("fallbacks_total", route="m", kind=kind) for kind in ("simplified", "cache")}
            assert counted == {
                kind: sum(line["degraded"] == kind for line in lines) for kind in ("simplified", "cache")
            }
