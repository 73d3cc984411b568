"""Answers have vLLM's fields, in vLLM's order, with vLLM's nulls: each is held against a recorded one."""

import re
from typing import Any

import pytest

from backends.simulator.server import Simulator
from backends.simulator.settings import SimulatorSettings
from tests.backends.simulator.raw import CHAT, HI, Answer, ask, recorded

COMPLETIONS, MESSAGES, RESPONSES = "/v1/completions", "/v1/messages", "/v1/responses"
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "unit": {"type": "string", "enum": ["C", "F"]}},
    "required": ["city"],
}
TOOLS = [{"type": "function", "function": {"name": "get_weather", "description": "w", "parameters": SCHEMA}}]
ANTHROPIC_TOOLS = [{"name": "get_weather", "description": "w", "input_schema": SCHEMA}]
FLAT_TOOLS = [{"type": "function", "name": "get_weather", "description": "w", "strict": False, "parameters": SCHEMA}]
USAGE = {"include_usage": True}
CONTINUOUS = {"include_usage": True, "continuous_usage_stats": True}
NAMED = {"type": "function", "function": {"name": "get_weather"}}
SAMPLED = {"temperature": 1, "seed": 1}
PROMPT = {"prompt": "Say hello", "max_tokens": 3}
TWO = {"prompt": ["a b", "c d"], "max_tokens": 2, "n": 2}
INPUT = {"input": "Say hello", "max_output_tokens": 3, "temperature": 0}
CUT = {"max_tokens": 3}

PLAIN: list[tuple[str, str, dict[str, Any]]] = [
    ("chat", CHAT, CUT),
    ("chat_n2", CHAT, {**CUT, **SAMPLED, "n": 2}),
    ("chat_logprobs", CHAT, {**CUT, "logprobs": True, "top_logprobs": 2}),
    ("completions", COMPLETIONS, PROMPT),
    ("completions_n2", COMPLETIONS, TWO),
    ("completions_logprobs", COMPLETIONS, {**PROMPT, "logprobs": 2}),
    ("completions_echo", COMPLETIONS, {**PROMPT, "echo": True}),
    ("messages", MESSAGES, CUT),
    ("count_tokens", "/v1/messages/count_tokens", {}),
    ("responses", RESPONSES, INPUT),
    ("responses_tool", RESPONSES, {**INPUT, "tools": FLAT_TOOLS, "tool_choice": "required"}),
    ("tokenize", "/tokenize", {"prompt": "Say hello"}),
    ("tokenize_chat", "/tokenize", {"return_token_strs": True}),
    ("detokenize", "/detokenize", {"tokens": [5, 6, 7]}),
]
STREAMS: list[tuple[str, str, dict[str, Any]]] = [
    ("chat_stream", CHAT, CUT),
    ("chat_stream_usage", CHAT, {**CUT, "stream_options": USAGE}),
    ("chat_stream_contusage", CHAT, {**CUT, "stream_options": CONTINUOUS}),
    ("chat_n2_stream", CHAT, {**CUT, **SAMPLED, "n": 2, "stream_options": USAGE}),
    ("chat_logprobs_stream", CHAT, {**CUT, "logprobs": True, "top_logprobs": 1}),
    ("chat_tool_named_stream", CHAT, {"tools": TOOLS, "tool_choice": NAMED}),
    ("completions_stream", COMPLETIONS, {**PROMPT, "stream_options": USAGE}),
    ("completions_n2_stream", COMPLETIONS, {**TWO, "stream_options": USAGE}),
    ("completions_logprobs_stream", COMPLETIONS, {**PROMPT, "logprobs": 1}),
    ("completions_echo_stream", COMPLETIONS, {**PROMPT, "echo": True, "max_tokens": 2}),
    ("completions_contusage", COMPLETIONS, {**PROMPT, "stream_options": CONTINUOUS}),
    ("messages_stream", MESSAGES, CUT),
    ("messages_tool_stream", MESSAGES, {"max_tokens": 60, "tools": ANTHROPIC_TOOLS, "tool_choice": {"type": "any"}}),
    ("responses_stream", RESPONSES, INPUT),
    ("responses_tool_stream", RESPONSES, {**INPUT, "tools": FLAT_TOOLS, "tool_choice": "required"}),
]


def shape(value: Any) -> Any:
    """Names in their order, with the kinds of their values; the names in `top_logprobs` are tokens."""
    if isinstance(value, dict):
        return [(name, shape(inner)) for name, inner in value.items() if name not in ("top_logprobs", "properties")]
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return None if value is None else type(value).__name__


def event_shapes(answer: Answer) -> list[Any]:
    """Each kind of event once, in the order of their first coming; finish_reason tells kinds apart, so it is kept."""
    names = [
        (re.findall(rb"^event: (.*)", event, re.M), shape(row))
        for event, row in zip(answer.events, answer.data, strict=True)
    ]
    return [name for at, name in enumerate(names) if name not in names[:at]]


def question(body: dict[str, Any], **more: Any) -> dict[str, Any]:
    asked = {"model": "simulator", **body, **more}
    if not {"prompt", "input", "tokens"} & asked.keys():
        asked["messages"] = HI["messages"]
    return asked


@pytest.mark.parametrize(("name", "path", "body"), PLAIN, ids=[row[0] for row in PLAIN])
async def test_plain_answer_has_the_shape_of_vllms(sim: Simulator, name: str, path: str, body: dict[str, Any]) -> None:
    ours, theirs = await ask(sim.port, question(body), path), recorded(name)
    assert (ours.status, ours.headers["content-type"]) == (theirs.status, theirs.headers["content-type"])
    assert shape(ours.json) == shape(theirs.json)


@pytest.mark.parametrize(("name", "path", "body"), STREAMS, ids=[row[0] for row in STREAMS])
async def test_stream_has_the_events_of_vllms(sim: Simulator, name: str, path: str, body: dict[str, Any]) -> None:
    ours, theirs = await ask(sim.port, question(body, stream=True), path), recorded(name)
    assert (ours.status, ours.headers["content-type"]) == (theirs.status, theirs.headers["content-type"])
    assert event_shapes(ours) == event_shapes(theirs)


async def test_every_event_is_an_http_chunk_of_its_own(sim: Simulator) -> None:
    answer = await ask(sim.port, HI | {"stream": True})
    assert answer.chunks == [event + b"\n\n" for event in answer.events]


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, MESSAGES, RESPONSES])
async def test_stream_says_what_the_plain_answer_says(sim: Simulator, path: str) -> None:
    body = question(
        {"prompt": "é"} if path == COMPLETIONS else {"input": "é"} if path == RESPONSES else {"max_tokens": 9}
    )
    plain, stream = await ask(sim.port, body, path), await ask(sim.port, body | {"stream": True}, path)
    assert (
        said(path, plain.json) == "".join(piece(path, event) for event in stream.data if isinstance(event, dict)) != ""
    )


def said(path: str, answer: Any) -> str:
    if path == CHAT:
        return str(answer["choices"][0]["message"]["content"])
    if path == COMPLETIONS:
        return str(answer["choices"][0]["text"])
    return str(answer["content"][0]["text"] if path == MESSAGES else answer["output"][0]["content"][0]["text"])


def piece(path: str, event: Any) -> str:
    if path == CHAT:
        return event["choices"][0]["delta"].get("content") or ""
    if path == COMPLETIONS:
        return str(event["choices"][0]["text"])
    if path == MESSAGES:
        return str(event.get("delta", {}).get("text", ""))
    return str(event["delta"]) if event["type"] == "response.output_text.delta" else ""


async def test_it_says_that_it_is_a_simulator(sim: Simulator) -> None:
    models = await ask(sim.port, None, "/v1/models", "GET")
    assert shape(models.json) == shape(recorded("v1_models").json)
    assert models.json["data"][0]["owned_by"] == "sluice-simulator"
    answer = await ask(sim.port, HI)
    assert "simulator" in answer.json["system_fingerprint"]
    assert answer.headers["server"] == "sluice-simulator"
    assert "simulator" in (await ask(sim.port, None, "/version", "GET")).json["version"]


async def test_equal_requests_get_equal_bytes_where_ids_are_fixed() -> None:
    async with (
        Simulator(SimulatorSettings(fixed_ids=True, tokens=20)) as one,
        Simulator(SimulatorSettings(fixed_ids=True, tokens=20)) as two,
    ):
        for path, body in (
            (CHAT, {}),
            (COMPLETIONS, {"prompt": "x"}),
            (RESPONSES, {"input": "x"}),
            (MESSAGES, {"max_tokens": 20}),
        ):
            for stream in (False, True):
                asked = question(body, stream=stream)
                first = await ask(one.port, asked, path, headers={"x-request-id": "a"})
                assert first.body == (await ask(two.port, asked, path, headers={"x-request-id": "b"})).body


async def test_another_prompt_gets_another_text(sim: Simulator) -> None:
    texts = {
        (await ask(sim.port, question({"prompt": f"say {n}"}), COMPLETIONS)).json["choices"][0]["text"]
        for n in range(9)
    }
    assert len(texts) > 7


async def test_the_id_is_the_request_id(sim: Simulator) -> None:
    answer = await ask(sim.port, HI, headers={"x-request-id": "abc-123"})
    assert answer.json["id"] == "chatcmpl-abc-123"
    assert (await ask(sim.port, HI | {"request_id": "q"})).json["id"] == "chatcmpl-q"
    assert (await ask(sim.port, HI)).json["id"] != (await ask(sim.port, HI)).json["id"]


async def test_anthropic_ping_comes_where_it_is_asked_for() -> None:
    async with Simulator(SimulatorSettings(tokens=2, ping=True)) as sim:
        answer = await ask(sim.port, question({"max_tokens": 2}, stream=True), MESSAGES)
        assert [event["type"] for event in answer.data][:3] == ["message_start", "ping", "content_block_start"]


async def test_stop_string_ends_the_answer_before_it(sim: Simulator) -> None:
    whole = (await ask(sim.port, HI | {"max_tokens": 4})).json["choices"][0]["message"]["content"]
    stop = whole[len(whole) // 2 :]
    plain = await ask(sim.port, HI | {"stop": stop})
    assert shape(plain.json) == shape(recorded("chat_stop_hit").json)
    choice = plain.json["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"], choice["stop_reason"]) == (
        whole[: -len(stop)],
        "stop",
        stop,
    )
    stream = await ask(sim.port, HI | {"stop": [stop], "stream": True})
    assert "".join(piece(CHAT, event) for event in stream.data[:-1]) == whole[: -len(stop)]
    body = question({"max_tokens": 4, "stop_sequences": [stop]})
    assert shape((await ask(sim.port, body, MESSAGES)).json) == shape(recorded("messages_stop").json)


@pytest.mark.parametrize(
    ("more", "tokens", "reason"),
    [
        ({}, 4, "stop"),
        ({"max_tokens": 2}, 2, "length"),
        ({"max_completion_tokens": 3}, 3, "length"),
        ({"max_tokens": 9}, 4, "stop"),
        ({"max_tokens": 9, "ignore_eos": True}, 9, "length"),
        ({"max_tokens": 9, "min_tokens": 7}, 7, "stop"),
    ],
)
async def test_length_follows_the_request_and_else_the_settings(
    sim: Simulator, more: dict[str, Any], tokens: int, reason: str
) -> None:
    answer = (await ask(sim.port, HI | more)).json
    assert (answer["usage"]["completion_tokens"], answer["choices"][0]["finish_reason"]) == (tokens, reason)
    stream = await ask(sim.port, HI | more | {"stream": True})
    assert len(stream.events) == tokens + 2  # the role and [DONE]


async def test_tool_is_called_when_it_must_be_and_when_it_is_named_in_the_last_message(sim: Simulator) -> None:
    async def calls(choice: object, text: str) -> list[str]:
        body = question({"tools": TOOLS, "tool_choice": choice, "messages": 0}) | {
            "messages": [{"role": "user", "content": text}]
        }
        message = (await ask(sim.port, body)).json["choices"][0]["message"]
        return [call["function"]["name"] for call in message.get("tool_calls", ())]

    assert await calls("required", "hi") == ["get_weather"]
    assert await calls(NAMED, "hi") == ["get_weather"]
    assert await calls("auto", "please get_weather now") == ["get_weather"]
    assert await calls("auto", "hi") == []
    assert await calls("none", "get_weather") == []


async def test_tool_arguments_fit_the_schema_and_are_the_same_in_pieces(sim: Simulator) -> None:
    import json

    body = question({"tools": TOOLS, "tool_choice": "required"})
    function = (await ask(sim.port, body)).json["choices"][0]["message"]["tool_calls"][0]["function"]
    arguments = json.loads(function["arguments"])
    assert arguments["unit"] in ("C", "F") and isinstance(arguments["city"], str)
    events = (await ask(sim.port, body | {"stream": True})).data[:-1]
    calls = [call for event in events for call in event["choices"][0]["delta"].get("tool_calls", ())]
    assert "".join(call["function"].get("arguments", "") for call in calls) == function["arguments"]
    assert events[-1]["choices"][0]["finish_reason"] == "tool_calls"
