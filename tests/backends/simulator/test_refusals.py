"""What vLLM refuses is refused with vLLM's status and body, byte for byte."""

import json
from typing import Any

import pytest

from backends.simulator.server import Simulator
from backends.simulator.settings import SimulatorSettings
from tests.backends.simulator.raw import CHAT, ask, recorded

COMPLETIONS, MESSAGES, RESPONSES = "/v1/completions", "/v1/messages", "/v1/responses"
HELLO = [{"role": "user", "content": "Say hello"}]
LONG = "a " * 2000
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
NOPE = {"type": "function", "function": {"name": "nope"}}


def chat(**more: Any) -> dict[str, Any]:
    return {"model": "tiny-llama", "messages": HELLO, "max_tokens": 3, **more}


CASES: list[tuple[str, str, Any]] = [
    ("bad_model", CHAT, chat(model="nope")),
    ("bad_model_stream", CHAT, chat(model="nope", stream=True)),
    ("bad_temperature", CHAT, chat(temperature=-1)),
    ("bom", CHAT, b"\xef\xbb\xbf{}"),
    ("context_length", CHAT, chat(messages=[{"role": "user", "content": LONG}])),
    ("context_length_stream", CHAT, chat(messages=[{"role": "user", "content": LONG}], stream=True)),
    ("empty", CHAT, b""),
    ("empty_messages", CHAT, chat(messages=[])),
    ("list", CHAT, [1]),
    ("max_0", CHAT, chat(max_tokens=0)),
    ("max_float", CHAT, chat(max_tokens=1.5)),
    ("max_neg", CHAT, chat(max_tokens=-1)),
    ("max_str", CHAT, chat(max_tokens="abc")),
    ("messages_str", CHAT, chat(messages="hi")),
    ("missing_messages", CHAT, {"model": "tiny-llama"}),
    ("model_int", CHAT, chat(model=5)),
    ("n0", CHAT, chat(n=0)),
    ("nan", CHAT, b'{"model":"tiny-llama","messages":[{"role":"user","content":"a"}],"temperature":NaN}'),
    ("null", CHAT, b"null"),
    ("penalty", CHAT, chat(presence_penalty=9)),
    ("seed", CHAT, chat(seed="x")),
    ("stop_bad", CHAT, chat(stop=5)),
    ("str", CHAT, b'"x"'),
    ("stream_options_bad", CHAT, chat(stream=True, stream_options="x")),
    ("stream_options_nostream", CHAT, chat(stream_options={"include_usage": True})),
    ("stream_str", CHAT, chat(stream="maybe")),
    ("temp_str", CHAT, chat(temperature="hot")),
    ("too_many_tokens", CHAT, chat(max_tokens=99999)),
    ("tool_choice_no_tools", CHAT, chat(tool_choice="required")),
    ("tool_choice_unknown", CHAT, chat(tools=[TOOL], tool_choice=NOPE)),
    ("tools_bad", CHAT, chat(tools="x")),
    ("top_logprobs_no", CHAT, chat(top_logprobs=2)),
    ("top_p", CHAT, chat(top_p=2)),
    ("two", CHAT, {"messages": "x", "model": 5}),
    ("utf8", CHAT, b'{"model":"tiny-llama","messages":[{"role":"user","content":"\xff"}],"max_tokens":2}'),
    ("c_ctx", COMPLETIONS, {"model": "tiny-llama", "prompt": LONG}),
    ("c_max", COMPLETIONS, {"model": "tiny-llama", "prompt": "x", "max_tokens": 99999}),
    ("c_nomodel", COMPLETIONS, {"model": "nope", "prompt": "x"}),
    ("c_noprompt", COMPLETIONS, {"model": "tiny-llama"}),
    ("c_prompt_empty", COMPLETIONS, {"model": "tiny-llama", "prompt": ""}),
    ("c_prompt_int", COMPLETIONS, {"model": "tiny-llama", "prompt": 5}),
    ("m_badjson", MESSAGES, b"{"),
    ("m_ctx", MESSAGES, chat(messages=[{"role": "user", "content": LONG}])),
    ("m_nomax", MESSAGES, {"model": "tiny-llama", "messages": HELLO}),
    ("m_nomodel", MESSAGES, chat(model="nope")),
    ("m_role", MESSAGES, chat(messages=[{"role": "x", "content": "a"}])),
    ("r_ctx", RESPONSES, {"model": "tiny-llama", "input": LONG}),
    ("r_nomodel", RESPONSES, {"model": "nope", "input": "x"}),
    ("r_prev", RESPONSES, {"model": "tiny-llama", "input": "x", "previous_response_id": "resp_x"}),
    ("tok_model", "/tokenize", {"model": "nope", "prompt": "x"}),
    ("tok_none", "/tokenize", {}),
    ("detok", "/detokenize", {"tokens": "x"}),
    ("404", "/v1/nope", {}),
]


@pytest.fixture(scope="module")
def small() -> SimulatorSettings:
    return SimulatorSettings(models=("tiny-llama",), max_model_len=512, tokens=4)


@pytest.mark.parametrize(("name", "path", "body"), CASES, ids=[case[0] for case in CASES])
async def test_refusal_is_vllms_byte_for_byte(small: SimulatorSettings, name: str, path: str, body: Any) -> None:
    async with Simulator(small) as sim:
        ours, theirs = await ask(sim.port, body, path), recorded(f"errors/{name}")
        assert (ours.status, ours.headers["content-type"], ours.body.decode()) == (
            theirs.status,
            theirs.headers["content-type"],
            theirs.body.decode(),
        )
        assert sim.running == sim.waiting == 0


@pytest.mark.parametrize(
    ("name", "method", "path"),
    [
        ("405", "GET", CHAT),
        ("put", "PUT", "/v1/models"),
        ("models_one", "GET", "/v1/models/tiny-llama"),
        ("response_unknown", "GET", "/v1/responses/resp_nope"),
        ("response_unknown", "POST", "/v1/responses/resp_nope/cancel"),
    ],
)
async def test_wrong_method_and_unknown_path_are_vllms(
    small: SimulatorSettings, name: str, method: str, path: str
) -> None:
    async with Simulator(small) as sim:
        ours, theirs = await ask(sim.port, None, path, method), recorded(f"errors/{name}")
        assert (ours.status, ours.body) == (theirs.status, theirs.body)


async def test_head_of_health_is_405_as_in_vllm(small: SimulatorSettings) -> None:
    async with Simulator(small) as sim:
        answer = await ask(sim.port, None, "/health", "HEAD")
        assert (answer.status, answer.body) == (405, b"")


@pytest.mark.parametrize(("name", "kind"), [("bad_ctype", "text/plain"), ("noctype", "")])
async def test_other_content_types_are_400(small: SimulatorSettings, name: str, kind: str) -> None:
    async with Simulator(small) as sim:
        ours = await ask(sim.port, chat(), headers={"content-type": kind})
        assert (ours.status, ours.body) == (400, recorded(f"errors/{name}").body)


async def test_broken_json_is_named_with_its_place(small: SimulatorSettings) -> None:
    async with Simulator(small) as sim:
        ours = await ask(sim.port, b'{"model": "tiny-llama", "messages":')
        theirs = recorded("errors/bad_json").body.replace(b"body.34", b"body.35")
        assert (ours.status, ours.body) == (400, theirs)


@pytest.mark.parametrize(
    "given", [{}, {"authorization": "Bearer no"}, {"x-api-key": "secret"}, {"authorization": "secret"}]
)
async def test_v1_without_the_key_is_401_as_in_vllm(given: dict[str, str]) -> None:
    async with Simulator(SimulatorSettings(api_keys=("secret", "other"))) as sim:
        answer = await ask(sim.port, {"model": "simulator", "messages": HELLO}, headers=given)
        theirs = recorded("errors/no_api_key")
        assert (answer.status, answer.body) == (theirs.status, theirs.body)
        # What vLLM leaves open stays open.
        for path in ("/health", "/metrics"):
            assert (await ask(sim.port, None, path, "GET")).status == 200
        for key in ("secret", "other"):
            assert (await ask(sim.port, None, "/v1/models", "GET", {"authorization": f"bearer {key}"})).status == 200


async def test_full_queue_is_vllms_503_before_any_head() -> None:
    async with Simulator(SimulatorSettings(first_byte=5, max_num_seqs=1, max_num_queued_reqs=2)) as sim:
        import asyncio

        held = [asyncio.create_task(ask(sim.port, {"model": "simulator", "messages": HELLO})) for _ in range(2)]  # noqa: TID251 - cancelled below
        await sim.until(lambda: sim.running + sim.waiting == 2)
        for path, more in (
            (CHAT, {}),
            (CHAT, {"stream": True}),
            (COMPLETIONS, {"prompt": "x"}),
            (RESPONSES, {"input": "x"}),
        ):
            answer = await ask(sim.port, {"model": "simulator", "messages": HELLO} | more, path)
            assert answer.status == 503
            assert answer.json["error"]["type"] == "Service Unavailable"
            assert answer.json["error"]["code"] == 503
            assert "retry-after" not in answer.headers
        anthropic = await ask(sim.port, chat(model="simulator"), MESSAGES)
        assert (anthropic.status, anthropic.json["type"]) == (503, "error")
        for task in held:
            task.cancel()
        await asyncio.gather(*held, return_exceptions=True)
        await sim.until(lambda: sim.running == sim.waiting == 0)
        assert "vllm:admission_rejections_total" in (await ask(sim.port, None, "/metrics", "GET")).body.decode()


async def test_huge_and_deep_bodies_are_answered(small: SimulatorSettings) -> None:
    async with Simulator(small) as sim:
        deep = b"[" * 100_000
        assert (await ask(sim.port, deep)).status == 400
        big = json.dumps(chat(messages=[{"role": "user", "content": "x" * 5_000_000}])).encode()
        assert (await ask(sim.port, big)).status == 400
        assert (await ask(sim.port, b'{"model":"tiny-llama","messages":[],"seed":' + b"9" * 5000 + b"}")).status == 400
