"""The openai and anthropic SDKs, as they are, work against it and raise the classes that they raise for vLLM."""

from collections.abc import AsyncIterator

import anthropic
import openai
import pytest

from backends.simulator.server import Simulator
from backends.simulator.settings import SimulatorSettings

MODEL = "simulator"


@pytest.fixture
async def keyed() -> AsyncIterator[Simulator]:
    async with Simulator(SimulatorSettings(tokens=5, api_keys=("sk-sim",), max_model_len=256)) as one:
        yield one


@pytest.fixture
async def client(keyed: Simulator) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{keyed.url}/v1", api_key="sk-sim", max_retries=0, timeout=10) as one:
        yield one


@pytest.fixture
async def claude(sim: Simulator) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=sim.url, api_key="x", max_retries=0, timeout=10) as one:
        yield one


async def test_openai_chat_streams_what_it_answers(client: openai.AsyncOpenAI) -> None:
    plain = await client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "hi"}])
    stream = await client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "hi"}], stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == plain.choices[0].message.content
    assert chunks[-1].usage is not None and plain.usage is not None
    assert chunks[-1].usage.completion_tokens == plain.usage.completion_tokens == 5


async def test_openai_completions_embeddings_and_models(client: openai.AsyncOpenAI) -> None:
    done = await client.completions.create(model=MODEL, prompt=["a", "b"], n=2, max_tokens=3)
    assert [choice.index for choice in done.choices] == [0, 1, 2, 3]
    # The SDK asks for base64 when it is told nothing, and decodes it.
    packed = await client.embeddings.create(model=MODEL, input=["a", "b"])
    plain = await client.embeddings.create(model=MODEL, input=["a", "b"], encoding_format="float")
    assert [row.embedding for row in packed.data] == [row.embedding for row in plain.data]
    assert [model.owned_by async for model in client.models.list()] == ["sluice-simulator"]


async def test_openai_responses_stream_ends_with_the_whole_response(client: openai.AsyncOpenAI) -> None:
    async with client.responses.stream(model=MODEL, input="hi") as stream:
        kinds = [event.type async for event in stream]
        final = await stream.get_final_response()
    assert kinds[0] == "response.created" and kinds[-1] == "response.completed"
    plain = await client.responses.create(model=MODEL, input="hi")
    assert final.output_text == plain.output_text != ""


@pytest.mark.parametrize("stream", [False, True])
async def test_openai_errors_are_of_the_classes_that_vllm_causes(client: openai.AsyncOpenAI, stream: bool) -> None:
    async def ask(text: str = "hi", model: str = MODEL, key: str = "sk-sim") -> None:
        await client.with_options(api_key=key).chat.completions.create(
            model=model, messages=[{"role": "user", "content": text}], stream=stream
        )

    with pytest.raises(openai.NotFoundError):
        await ask(model="nope")
    with pytest.raises(openai.BadRequestError, match="maximum context length"):
        await ask("x " * 1000)
    with pytest.raises(openai.AuthenticationError):
        await ask(key="sk-wrong")


async def test_openai_error_event_raises_midstream(client: openai.AsyncOpenAI, keyed: Simulator) -> None:
    keyed.fault("error_event", after=2)
    got = []
    with pytest.raises(openai.APIError, match="Internal server error"):
        async for chunk in await client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "hi"}], stream=True
        ):
            got.append(chunk)
    assert len(got) == 2


async def test_anthropic_message_streams_what_it_answers(claude: anthropic.AsyncAnthropic) -> None:
    plain = await claude.messages.create(model=MODEL, max_tokens=9, messages=[{"role": "user", "content": "hi"}])
    async with claude.messages.stream(
        model=MODEL, max_tokens=9, messages=[{"role": "user", "content": "hi"}]
    ) as stream:
        text = "".join([piece async for piece in stream.text_stream])
        final = await stream.get_final_message()
    assert plain.content[0].type == "text"
    assert text == plain.content[0].text != ""
    assert final.usage.output_tokens == plain.usage.output_tokens == 4
    assert final.stop_reason == plain.stop_reason == "end_turn"


async def test_anthropic_counts_tokens_and_calls_tools(claude: anthropic.AsyncAnthropic) -> None:
    counted = await claude.messages.count_tokens(model=MODEL, messages=[{"role": "user", "content": "hi"}])
    said = await claude.messages.create(
        model=MODEL,
        max_tokens=99,
        messages=[{"role": "user", "content": "hi"}],
        tools=[{"name": "f", "input_schema": {"type": "object", "properties": {"n": {"type": "integer"}}}}],
        tool_choice={"type": "tool", "name": "f"},
    )
    assert said.usage.input_tokens == counted.input_tokens
    (block,) = said.content
    assert said.stop_reason == "tool_use"
    assert block.type == "tool_use"
    assert isinstance(block.input["n"], int)


async def test_anthropic_errors_can_be_read(claude: anthropic.AsyncAnthropic, sim: Simulator) -> None:
    with pytest.raises(anthropic.NotFoundError, match="does not exist"):
        await claude.messages.create(model="nope", max_tokens=9, messages=[{"role": "user", "content": "hi"}])
    sim.fault("status", code=503, times=1)
    with pytest.raises(anthropic.InternalServerError, match="busy"):
        await claude.messages.create(model=MODEL, max_tokens=9, messages=[{"role": "user", "content": "hi"}])
