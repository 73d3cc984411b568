"""To the SDKs that people use a cut stream is an error, never an end; and
where our attempts are spent, they make none of their own."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import anthropic
import openai
import pytest

from tests.engines.clients import Request as Asked
from tests.engines.clients import Target, openai_node
from tests.engines.install import entry
from tests.fakes.backend import STREAM_HEAD, Backend, Connection, Request, Said, Script, chunked
from tests.faults.scenes import pool, route
from tests.flow.harness import Running, gateway_with

CHAT = Said(("one ", "two")).events()
COMPLETION = [b'data: {"id":"c","object":"text_completion","created":1,"model":"m",'
              b'"choices":[{"index":0,"text":"one ","finish_reason":null,"logprobs":null}]}\n\n']  # fmt: skip
RESPONSE = [
    b'event: response.created\ndata: {"type":"response.created","sequence_number":0,"response":{"id":"r"}}\n\n',
    b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","sequence_number":1,"item_id":"i",'
    b'"output_index":0,"content_index":0,"delta":"one ","logprobs":[]}\n\n',
]
MESSAGE = [
    b'event: message_start\ndata: {"type":"message_start","message":{"id":"m","type":"message","role":"assistant",'
    b'"content":[],"model":"m","stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":1,"output_tokens":1}}}\n\n',
    b'event: content_block_start\ndata: {"type":"content_block_start","index":0,'
    b'"content_block":{"type":"text","text":""}}\n\n',
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,'
    b'"delta":{"type":"text_delta","text":"one "}}\n\n',
]
CUTS = ("reset", "fin", "stall", "garbage")


def cut(events: list[bytes], how: str, *, half: bool) -> Script:
    """A script that sends these events, the last perhaps by half, and then breaks the stream off."""

    async def script(c: Connection, request: Request) -> None:
        whole, last = (events[:-1], events[-1]) if half else (events, b"")
        await c.send(STREAM_HEAD + b"".join(map(chunked, whole)) + (chunked(last[: len(last) // 2]) if last else b""))
        # A reset overtakes what the gateway has not read yet.
        await asyncio.sleep(0.03)
        if how == "reset":
            c.rst()
        elif how == "fin":
            c.fin()
        elif how == "garbage":
            await c.send(b"this is no chunk\r\n\r\n")
        await c.stall()

    return script


async def openai_chat(gw: Running) -> AsyncIterator[Any]:
    async with openai_client(gw) as client:
        asked = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}
        async for chunk in await client.chat.completions.create(**asked):  # type: ignore[call-overload]
            yield chunk.choices[0].delta.content


async def openai_completion(gw: Running) -> AsyncIterator[Any]:
    async with openai_client(gw) as client:
        async for chunk in await client.completions.create(model="m", prompt="hi", stream=True):
            yield chunk.choices[0].text


async def openai_response(gw: Running) -> AsyncIterator[Any]:
    async with openai_client(gw) as client:
        async for event in await client.responses.create(model="m", input="hi", stream=True):
            yield getattr(event, "delta", None)


async def anthropic_message(gw: Running) -> AsyncIterator[Any]:
    async with anthropic_client(gw) as client:
        asked = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}], "stream": True}
        async for event in await client.messages.create(**asked):  # type: ignore[call-overload]
            yield getattr(getattr(event, "delta", None), "text", None)


async def anthropic_helper(gw: Running) -> AsyncIterator[Any]:
    """The same through the SDK's own accumulator, which asks for the final message."""
    async with anthropic_client(gw) as client:
        stream = client.messages.stream(model="m", max_tokens=9, messages=[{"role": "user", "content": "hi"}])
        async with stream as events:
            async for text in events.text_stream:
                yield text
            await events.get_final_message()


def openai_client(gw: Running, retries: int = 0) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(
        base_url=f"http://{gw.gateway.address}/v1", api_key=gw.key, max_retries=retries, timeout=10
    )


def anthropic_client(gw: Running, retries: int = 0) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(
        base_url=f"http://{gw.gateway.address}", api_key=gw.key, max_retries=retries, timeout=10
    )


Speaks = Callable[[Running], AsyncIterator[Any]]
SPEAKERS: dict[str, tuple[Speaks, list[bytes], type[Exception]]] = {
    "openai chat": (openai_chat, CHAT[:2], openai.APIError),
    "openai completions": (openai_completion, COMPLETION, openai.APIError),
    "openai responses": (openai_response, RESPONSE, openai.APIError),
    "anthropic messages": (anthropic_message, MESSAGE, anthropic.APIError),
    "anthropic helper": (anthropic_helper, MESSAGE, anthropic.APIError),
}


@pytest.mark.parametrize("half", [False, True], ids=["between events", "in an event"])
@pytest.mark.parametrize("how", CUTS)
@pytest.mark.parametrize("speaker", SPEAKERS)
async def test_a_cut_stream_raises_in_the_sdk_after_what_came(
    backend: Backend, speaker: str, how: str, half: bool
) -> None:
    speak, events, error = SPEAKERS[speaker]
    backend.does(cut([*events, events[-1]] if half else events, how, half=half))
    # An SDK that imports its types at its first use holds the loop for longer than the other limits here.
    rule = route(retry="off", first_byte="5s", idle="300ms" if how == "stall" else "5s")
    async with gateway_with(backend, policy=pool(), route=rule) as gw:
        said = []
        # Of half an event SSE has no way to say that it is void: an SDK trips over its JSON before it reads ours.
        with pytest.raises((error, ValueError) if half else error) as raised:
            async for text in speak(gw):
                said.append(text)
        assert "one " in said
        if not half:
            # What the SDK shows its user names the cause: no parser's complaint, no bare "connection error".
            assert "stood still" in str(raised.value) if how == "stall" else "broke" in str(raised.value)
        assert gw.total("streams_broken_total") == 1


NODE: dict[str, tuple[list[bytes], dict[str, Any]]] = {
    "/v1/chat/completions": (CHAT[:2], {"messages": [{"role": "user", "content": "hi"}]}),
    "/v1/completions": (COMPLETION, {"prompt": "hi"}),
    "/v1/responses": (RESPONSE, {"input": "hi"}),
}


@pytest.mark.engine
@pytest.mark.parametrize("half", [False, True], ids=["between events", "in an event"])
@pytest.mark.parametrize("how", CUTS)
@pytest.mark.parametrize("path", NODE)
async def test_a_cut_stream_raises_in_the_npm_sdk_after_what_came(
    backend: Backend, path: str, how: str, half: bool
) -> None:
    """Needs node and the npm SDK, which come with the engines; no engine runs."""
    installed = entry(os.environ)
    assert installed.is_there(), f"{installed.folder} is not there: `make test-engines` makes it"
    events, asked = NODE[path]
    backend.does(cut([*events, events[-1]] if half else events, how, half=half))
    rule = route(retry="off", first_byte="5s", idle="300ms" if how == "stall" else "5s")
    async with gateway_with(backend, policy=pool(), route=rule) as gw:
        target = Target(int(gw.gateway.address.rpartition(":")[2]), gw.key, installed.node_modules)
        request = Asked(path, {"model": "m", "stream": True, **asked})
        reply = await asyncio.to_thread(openai_node, target, request)
        assert reply.status == 200
        assert reply.error == "SyntaxError" if half else reply.error == "APIError"
        assert reply.items == len(events)
        assert gw.total("streams_broken_total") == 1


# -- "SDK retries": theirs multiply ours unless they are told not to


@pytest.mark.parametrize("how", ["no answer", "503", "silence"])
async def test_an_sdk_makes_no_attempts_of_its_own_once_ours_are_spent(
    backend: Backend, other: Backend, how: str
) -> None:
    async def fails(c: Connection, request: Request) -> None:
        c.rst() if how == "no answer" else await c.stall()

    for one in (backend, other):
        one.answers(503) if how == "503" else one.does(fails)
    rule = route(retry={"retries": 1, "backoff": "1ms"}, first_byte_plain="100ms")
    async with gateway_with(backend, other, policy=pool(), route=rule) as gw:
        async with openai_client(gw, retries=2) as first, anthropic_client(gw, retries=2) as second:
            clients: list[openai.AsyncOpenAI | anthropic.AsyncAnthropic] = [first, second]
            for number, client in enumerate(clients, 1):
                headers = await refused(client)
                assert (headers["x-should-retry"], headers["x-sluice-attempts"]) == ("false", "2")
                assert (gw.total("requests_total"), gw.total("attempts_total")) == (number, 2 * number)


async def test_an_sdk_retries_where_we_made_but_the_one_attempt_that_the_route_allows(backend: Backend) -> None:
    """So the header is what kept it from that above."""
    backend.answers(503, headers=[("retry-after-ms", "1")]).then.answers(200, b'{"id":"c","choices":[]}')
    async with gateway_with(backend, policy=pool(), route=route(retry="off")) as gw, openai_client(gw, 2) as client:
        await ask_plain(client)
        assert (backend.attempts, gw.total("requests_total")) == (2, 2)


async def refused(client: openai.AsyncOpenAI | anthropic.AsyncAnthropic) -> Mapping[str, str]:
    """The headers of the answer for which the SDK raised."""
    try:
        await ask_plain(client)
    except (openai.APIStatusError, anthropic.APIStatusError) as error:
        return error.response.headers
    raise AssertionError("it raised nothing")


async def ask_plain(client: openai.AsyncOpenAI | anthropic.AsyncAnthropic) -> Any:
    if isinstance(client, openai.AsyncOpenAI):
        return await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])
    return await client.messages.create(model="m", max_tokens=9, messages=[{"role": "user", "content": "hi"}])
