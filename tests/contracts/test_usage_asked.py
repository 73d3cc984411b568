"""Engines whose usage may be asked for in the client's place: taken out again, it has changed nothing."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from typing import Any

import pytest

from backends.simulator.server import Simulator
from backends.simulator.settings import SimulatorSettings
from gateway.relay.stream_tap import StreamTap
from policies.request.describe import describe
from policies.request.usage.dialects import ASKED_OF, DIALECTS
from policies.request.usage.edits import ask_usage, cap_output
from policies.request.usage.estimate import counted, real
from policies.request.usage.strip import UsageStrip
from tests.fakes.client import Client, request

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
MESSAGES = {"messages": [{"role": "user", "content": "Say something: äöü 😀"}]}
TOOLS = {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": (CHAT, MESSAGES),
    "one-token": (CHAT, MESSAGES | {"max_tokens": 1}),
    "stop": (CHAT, MESSAGES | {"stop": ["e"]}),
    "logprobs": (CHAT, MESSAGES | {"logprobs": True, "top_logprobs": 2}),
    "tools": (CHAT, MESSAGES | TOOLS | {"tool_choice": "required"}),
    "completions": (COMPLETIONS, {"prompt": "Say"}),
    "completions-echo": (COMPLETIONS, {"prompt": "Say", "echo": True, "max_tokens": 3}),
}


async def answer(simulator: Simulator, path: str, body: bytes) -> bytes:
    async with await Client.to(f"127.0.0.1:{simulator.port}") as client:
        await client.send(request("POST", path, body, [("content-type", "application/json")]))
        got = await client.answer()
    assert (got.status, got.end) == (200, "complete"), got.body
    return got.body


def cut(body: bytes, rng: random.Random) -> list[bytes]:
    places = sorted(rng.randrange(len(body)) for _ in range(rng.choice([0, 2, 30])))
    return [body[a:b] for a, b in itertools.pairwise([0, *places, len(body)])]


@pytest.mark.parametrize("case", CASES)
async def test_the_simulators_streams_are_as_if_nobody_had_asked(case: str) -> None:
    path, fields = CASES[case]
    body = json.dumps({"model": "simulator", "stream": True} | fields).encode()
    asking = ask_usage(body)
    assert asking is not None and "simulator" in ASKED_OF
    async with Simulator(SimulatorSettings(fixed_ids=True)) as simulator:
        unasked, asked = await answer(simulator, path, body), await answer(simulator, path, asking)
    assert b'"usage":{' in asked
    rng = random.Random(case)
    for _ in range(20):
        strip, tap = UsageStrip(), StreamTap(stream=True)
        got = b""
        for read in cut(asked, rng):
            tap.feed([read])
            got += strip.feed(read)
        assert got + strip.end() == unasked
        assert tap.size - strip.less == len(unasked)
        assert None not in tap.usage(strip.taken)


@pytest.mark.parametrize("case", ["chat", "one-token", "stop", "logprobs", "completions"])
async def test_what_is_counted_is_what_was_used(case: str) -> None:
    path, fields = CASES[case]
    dialect = DIALECTS[path]
    body = json.dumps({"model": "simulator", "stream": True} | fields).encode()
    asking = ask_usage(body)
    assert asking is not None
    async with Simulator(SimulatorSettings()) as simulator:
        unasked, asked = await answer(simulator, path, body), await answer(simulator, path, asking)
    told, tap = StreamTap(stream=True), StreamTap(stream=True)
    told.feed([asked])
    tap.feed([unasked])
    call = describe(body, counts=dialect)
    found = counted(call, dialect, events=tap.events, size=tap.size, stream=True, whole=tap.end_seen)
    assert real(tap.usage(), found, (100, 100)) == (100, told.usage()[1])


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, "/v1/responses", "/v1/messages"])
@pytest.mark.parametrize("own", [None, 5, 4000])
async def test_an_answer_is_as_long_as_the_plan_allows(path: str, own: int | None) -> None:
    dialect = DIALECTS[path]
    fields: dict[str, Any] = {"prompt": "Say"} if path == COMPLETIONS else {"input": "Say"}
    fields = fields if path in (COMPLETIONS, "/v1/responses") else MESSAGES
    if own is not None:
        fields = fields | {dialect.limits[0]: own}
    body = cap_output(json.dumps({"model": "simulator"} | fields).encode(), dialect, 9)
    async with Simulator(SimulatorSettings(tokens=40)) as simulator:
        usage = json.loads(await answer(simulator, path, body))["usage"]
    assert (usage.get("completion_tokens") or usage.get("output_tokens")) == min(9, own or 9)


RECORDED = Path(__file__).parent / "recorded" / "usage"


@pytest.mark.parametrize("name", ["chat", "completions"])
def test_what_a_real_vllm_sent_with_and_without(name: str) -> None:
    asked = (RECORDED / f"vllm-{name}.asked.txt").read_bytes()
    unasked = (RECORDED / f"vllm-{name}.unasked.txt").read_bytes()
    rng = random.Random(name)
    for _ in range(50):
        strip = UsageStrip()
        assert b"".join([*map(strip.feed, cut(asked, rng)), strip.end()]) == unasked
