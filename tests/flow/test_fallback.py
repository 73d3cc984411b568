"""What answers once a route's pool cannot: each step of its fallback in turn, read by the real SDKs."""

from __future__ import annotations

import asyncio
import json
import random
import sys
from typing import Any

import anthropic
import openai
import pytest

from tests.fakes.backend import LAST_CHUNK, STREAM_HEAD, Backend, Connection, Request, chunked, plain
from tests.flow.harness import CHAT, Pools, Running, eventually, gateway_with

# Nobody listens there.
GONE = "http://127.0.0.1:1"
TEXT = "The service is busy. „A person“ has been told."
MESSAGE = {"message": TEXT}


def sdk(gw: Running) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"http://{gw.gateway.address}/v1", api_key=gw.key, max_retries=0, timeout=10)


def claude(gw: Running) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(base_url=f"http://{gw.gateway.address}", api_key=gw.key, max_retries=0, timeout=10)


def chain(*steps: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"fallback": list(steps), "retry": {"backoff": "10ms"}, **more}


async def test_while_the_pool_answers_nothing_is_degraded(backend: Backend) -> None:
    backend.streams("a", "b")
    async with gateway_with(backend, route=chain(MESSAGE)) as gw:
        answer = await gw.ask()
        assert (answer.text, answer.header("x-sluice-degraded")) == ("ab", None)
        (line,) = await gw.access_lines()
        assert (line["degraded"], line["degraded_why"]) == (None, None)
        assert gw.series()["fallbacks_total", frozenset({("route", "m"), ("kind", "message")})] == 0


async def test_a_message_is_a_chat_answer_that_the_openai_sdk_reads() -> None:
    async with gateway_with(GONE, route=chain(MESSAGE)) as gw, sdk(gw) as client:
        asked: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
        raw = await client.chat.completions.with_raw_response.create(**asked)
        assert raw.headers["x-sluice-degraded"] == "message"
        plain = raw.parse()
        assert plain.choices[0].message.content == TEXT and plain.choices[0].finish_reason == "stop"
        assert plain.usage is not None and plain.usage.total_tokens == 0
        stream = await client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
        assert stream.response.headers["x-sluice-degraded"] == "message"
        assert stream.response.headers["content-type"].startswith("text/event-stream")
        chunks = [chunk async for chunk in stream]
        assert "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices) == TEXT
        assert chunks[-2].choices[0].finish_reason == "stop"
        assert chunks[-1].usage is not None and chunks[-1].usage.total_tokens == 0
        lines = await gw.access_lines()
        assert {(one["status"], one["code"], one["degraded"]) for one in lines} == {(200, None, "message")}
        assert {one["degraded_why"] for one in lines} == {"no_endpoint_available"}
        assert gw.total("fallbacks_total", route="m", kind="message") == 2
        assert gw.total("tokens_total") == 0


async def test_a_message_is_a_completion_that_the_openai_sdk_reads() -> None:
    async with gateway_with(GONE, route=chain(MESSAGE)) as gw, sdk(gw) as client:
        plain = await client.completions.create(model="m", prompt="hi")
        assert plain.choices[0].text == TEXT
        stream = await client.completions.create(model="m", prompt="hi", stream=True)
        chunks = [chunk async for chunk in stream]
        assert "".join(chunk.choices[0].text for chunk in chunks) == TEXT
        assert chunks[-1].choices[0].finish_reason == "stop"


async def test_a_message_is_a_response_that_the_openai_sdk_reads() -> None:
    async with gateway_with(GONE, route=chain(MESSAGE)) as gw, sdk(gw) as client:
        plain = await client.responses.create(model="m", input="hi")
        assert (plain.output_text, plain.status) == (TEXT, "completed")
        async with client.responses.stream(model="m", input="hi") as stream:
            kinds = [event.type async for event in stream]
            final = await stream.get_final_response()
        assert kinds[0] == "response.created" and kinds[-1] == "response.completed"
        assert "response.output_text.delta" in kinds
        assert (final.output_text, final.status) == (TEXT, "completed")


async def test_a_message_is_a_message_that_the_anthropic_sdk_reads() -> None:
    async with gateway_with(GONE, route=chain(MESSAGE)) as gw, claude(gw) as client:
        asked: dict[str, Any] = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
        plain = await client.messages.create(**asked)
        assert plain.content[0].type == "text" and plain.content[0].text == TEXT
        assert (plain.stop_reason, plain.role) == ("end_turn", "assistant")
        async with client.messages.stream(**asked) as stream:
            text = "".join([part async for part in stream.text_stream])
            final = await stream.get_final_message()
        assert text == TEXT == final.content[0].text  # type: ignore[union-attr]
        assert (final.stop_reason, final.usage.output_tokens) == ("end_turn", 0)


async def test_where_answers_hold_no_text_a_message_is_an_error() -> None:
    async with gateway_with(GONE, route=chain(MESSAGE)) as gw, sdk(gw) as client:
        with pytest.raises(openai.InternalServerError) as caught:
            await client.embeddings.create(model="m", input="hi")
        assert caught.value.status_code == 503 and caught.value.code == "no_endpoint_available"
        assert TEXT in str(caught.value)
        assert caught.value.response.headers["x-sluice-degraded"] == "message"
        assert int(caught.value.response.headers["retry-after"]) >= 1


@pytest.mark.parametrize("stream", [False, True])
async def test_a_message_with_a_status_of_an_error_is_one(stream: bool) -> None:
    async with gateway_with(GONE, route=chain({**MESSAGE, "status": 529})) as gw, sdk(gw) as client:
        with pytest.raises(openai.APIStatusError) as caught:
            await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}], stream=stream)
        assert caught.value.status_code == 529 and TEXT in str(caught.value)
        (line,) = await gw.access_lines()
        assert (line["status"], line["code"], line["degraded"]) == (529, "no_endpoint_available", "message")


@pytest.mark.parametrize("stream", [False, True])
async def test_another_pool_answers_under_its_own_name_with_capped_tokens(backend: Backend, stream: bool) -> None:
    if stream:
        backend.streams("a", "b")
    else:
        backend.answers(200, json.dumps({"choices": [{"message": {"content": "ab"}}]}))
    step = {"pool": "small", "upstream_model": "tiny", "max_tokens": 256}
    async with gateway_with(pools={"pool": [GONE], "small": [backend]}, route=chain(step, MESSAGE)) as gw:
        answer = await gw.ask(stream=stream, max_tokens=1000)
        assert (answer.status, answer.header("x-sluice-degraded")) == (200, "simplified")
        assert answer.header("x-sluice-pool") == "small"
        sent = json.loads((await backend.requested()).body)
        assert (sent["model"], sent["max_tokens"], sent["stream"]) == ("tiny", 256, stream)
        (line,) = await gw.access_lines()
        assert (line["pool"], line["degraded"], line["degraded_why"]) == (
            "small",
            "simplified",
            "no_endpoint_available",
        )
        assert [step[:2] for step in line["trail"]] == [["pool-0", "not_sent"], ["small-0", "ok"]]
        assert answer.header("x-sluice-attempts") == "2"
        assert gw.total("fallbacks_total", kind="simplified") == 1


async def test_each_step_in_turn_and_back_to_normal_without_a_restart() -> None:
    async with Backend() as own, Backend() as small:
        own.answers(503)
        small.answers(503)
        route = chain({"pool": "small", "label": "smaller"}, MESSAGE)
        policy = {"pools": {"pool": {"breaker": "off"}, "small": {"breaker": "off"}}}
        async with gateway_with(pools={"pool": [own], "small": [small]}, route=route, policy=policy) as gw:
            assert (await gw.ask()).header("x-sluice-degraded") == "message"
            small.streams("s")
            answer = await gw.ask()
            assert (answer.text, answer.header("x-sluice-degraded")) == ("s", "smaller")
            own.streams("o")
            await eventually(lambda: own.attempts > 0, "never asked")

            async def recovered() -> bool:
                answer = await gw.ask()
                return (answer.text, answer.header("x-sluice-degraded")) == ("o", None)

            # The engine's 503 paused it for a second or a few.
            for _ in range(200):
                if await recovered():
                    break
                await asyncio.sleep(0.05)
            assert await recovered()
            lines = await gw.access_lines()
            assert lines[0]["degraded_why"] in ("503", "no_endpoint_available")


@pytest.mark.parametrize("status", [400, 404, 422, 500])
async def test_what_is_not_ours_to_answer_for_goes_to_the_client(backend: Backend, status: int) -> None:
    backend.answers(status, b'{"error":{"message":"no"}}')
    async with gateway_with(backend, route=chain(MESSAGE)) as gw:
        answer = await gw.ask(stream=False)
        assert (answer.status, answer.body) == (status, b'{"error":{"message":"no"}}')
        assert answer.header("x-sluice-degraded") is None


@pytest.mark.parametrize("status", [429, 502, 503, 504])
async def test_an_engines_last_word_falls_where_the_route_retries_it(backend: Backend, status: int) -> None:
    backend.answers(status)
    async with gateway_with(backend, route=chain(MESSAGE, retry="off")) as gw:
        answer = await gw.ask(stream=False)
        assert (answer.status, answer.header("x-sluice-degraded")) == (200, "message")
        (line,) = await gw.access_lines()
        assert line["degraded_why"] == str(status)


async def test_the_last_pools_own_answer_is_passed_on_where_nobody_is_left() -> None:
    async with Backend() as own, Backend() as small:
        own.answers(503, b'{"error":"own"}')
        small.answers(503, b'{"error":"small"}')
        route = chain({"pool": "small"}, retry="off")
        async with gateway_with(pools={"pool": [own], "small": [small]}, route=route) as gw:
            answer = await gw.ask(stream=False)
            assert (answer.status, answer.body) == (503, b'{"error":"small"}')
            assert answer.header("x-sluice-degraded") == "simplified"
            assert answer.header("x-sluice-attempts") == "2"


async def test_one_cap_of_attempts_of_which_every_pool_has_one() -> None:
    async with Backend() as a, Backend() as b, Backend() as c, Backend() as d, Backend() as small:
        own = [a, b, c, d]
        for each in own:
            each.answers(503)
        small.streams("s")
        async with gateway_with(pools={"pool": own, "small": [small]}, route=chain({"pool": "small"})) as gw:
            answer = await gw.ask()
            assert (answer.text, answer.header("x-sluice-attempts")) == ("s", "4")
            assert sum(each.attempts for each in own) == 3 and small.attempts == 1


async def test_a_passed_deadline_has_no_fallback(backend: Backend) -> None:
    backend.raw(b"", stall=True)
    async with gateway_with(backend, route=chain(MESSAGE)) as gw:
        answer = await gw.send(gw.chat_request(headers=[("x-sluice-deadline", "100ms")]))
        assert (answer.status, answer.error["code"]) == (504, "deadline_exceeded")


async def test_nothing_falls_once_a_byte_has_gone_to_the_client(backend: Backend) -> None:
    backend.streams("a", "b", hold=2)
    timeouts = {"idle": "200ms"}
    async with gateway_with(backend, route=chain(MESSAGE, timeouts=timeouts)) as gw:
        answer = await gw.ask()
        assert (answer.status, answer.end) == (200, "cut")
        assert b"idle_timeout" in answer.body and TEXT.encode() not in answer.body


async def test_a_request_that_an_engine_may_have_acted_upon_is_not_sent_to_another(backend: Backend) -> None:
    async with Backend() as own:
        own.raw(b"", rst=True)
        retry = {"retries": 2, "when": ["not_sent", 503]}
        route = chain({"pool": "small"}, MESSAGE, retry=retry)
        async with gateway_with(pools={"pool": [own], "small": [backend]}, route=route) as gw:
            assert (await gw.ask()).header("x-sluice-degraded") == "message"
            assert (own.attempts, backend.attempts) == (1, 0)


TOO_LONG = json.dumps(
    {"error": {"message": "This model's maximum context length is 512 tokens. However, ...", "code": 400}}
)


@pytest.mark.parametrize("stream", [False, True])
async def test_what_is_too_long_for_a_pool_falls_to_one_that_takes_more(backend: Backend, stream: bool) -> None:
    async with Backend() as own, Backend() as small:
        own.answers(400, TOO_LONG)
        backend.streams("a") if stream else backend.answers(200, b"{}")
        pools = {"pool": [own], "small": [small], "long": [backend]}
        policy = {"pools": {"pool": {"max_context": 512}, "small": {"max_context": 256}, "long": {"max_context": 8192}}}
        route = chain({"pool": "small"}, {"pool": "long", "label": "long_context"}, MESSAGE)
        async with gateway_with(pools=pools, route=route, policy=policy) as gw:
            answer = await gw.ask(stream=stream)
            assert (answer.status, answer.header("x-sluice-degraded")) == (200, "long_context")
            # By our own estimate of 4 bytes a token this one is not even sent to the first.
            answer = await gw.ask("x" * 4 * 600, stream=stream)
            assert (answer.status, answer.header("x-sluice-degraded")) == (200, "long_context")
            assert (own.attempts, small.attempts, backend.attempts) == (1, 0, 2)
            lines = await gw.access_lines()
            assert {line["degraded_why"] for line in lines} == {"context_length_exceeded"}


async def test_what_is_too_long_for_every_pool_is_told_in_the_engines_words(backend: Backend) -> None:
    backend.answers(400, TOO_LONG)
    async with gateway_with(backend, route=chain(MESSAGE)) as gw:
        answer = await gw.ask(stream=False)
        assert (answer.status, answer.body.decode()) == (400, TOO_LONG)


async def test_no_more_than_concurrency_are_at_a_fallback_pool_the_rest_goes_on(backend: Backend) -> None:
    backend.streams("a", "b", hold=2)
    step = {"pool": "small", "concurrency": 2}
    async with gateway_with(pools={"pool": [GONE], "small": [backend]}, route=chain(step, MESSAGE)) as gw:
        async with await gw.connect() as one, await gw.connect() as two:
            for client in (one, two):
                await client.send(gw.chat_request())
                await client.until(b'"a"')
            assert (await gw.ask()).header("x-sluice-degraded") == "message"
        await eventually(lambda: gw.gateway.plane.in_flight == 0, "still in flight")
        backend.streams("a")
        assert (await gw.ask()).header("x-sluice-degraded") == "simplified"


async def test_a_client_that_leaves_at_a_fallback_pool_leaves_nothing(backend: Backend) -> None:
    backend.raw(b"", stall=True)
    async with gateway_with(pools={"pool": [GONE], "small": [backend]}, route=chain({"pool": "small"}, MESSAGE)) as gw:
        async with await gw.connect() as client:
            await client.send(gw.chat_request())
            await backend.requested()
        await backend.all_closed(timeout=2.0)
        (line,) = await gw.access_lines(1)
        assert (line["status"], line["degraded"]) == (499, None)


async def test_tokens_are_charged_by_what_the_fallback_pool_used(backend: Backend) -> None:

    async def script(c: Connection, request: Request) -> None:
        # As vLLM writes it: compact, and usage in an event of its own where it was asked for.
        asked = json.loads(request.body).get("stream_options", {}).get("include_usage", False)
        chunks: list[dict[str, Any]] = [{"id": "c", "choices": [{"index": 0, "delta": {"content": "ab"}}]}]
        if asked:
            chunks.append({"id": "c", "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}})
        data = b"".join(b"data: %b\n\n" % json.dumps(one, separators=(",", ":")).encode() for one in chunks)
        await c.send(STREAM_HEAD + chunked(data + b"data: [DONE]\n\n") + LAST_CHUNK)

    backend.does(script)
    policy = {"plans": {"test": {"limits": [{"tokens": "1000/day", "per": "key"}]}}}
    pools: Pools = {"pool": [GONE], "small": [backend]}
    async with gateway_with(pools=pools, policy=policy, route=chain({"pool": "small"}, MESSAGE)) as gw:
        answer = await gw.ask()
        assert b'"ab"' in answer.body and b'"usage"' not in answer.body
        assert json.loads((await backend.requested()).body)["stream_options"] == {"include_usage": True}

        async def used() -> float:
            usage = (await gw.send(gw.request("GET", "/v1/usage"), method="GET")).json
            return float(usage["limits"][0]["used"])

        assert await used() == 5
        backend.answers(503)
        assert (await gw.ask()).header("x-sluice-degraded") == "message"
        assert await used() <= 5


async def test_a_message_on_a_path_that_names_no_model_has_that_paths_shape() -> None:
    async with gateway_with(GONE, route=chain(MESSAGE)) as gw:
        answer = await gw.post("/generate", {"inputs": "hi"})
        assert (answer.status, answer.json) == (503, {"error": TEXT, "error_type": "no_endpoint_available"})
        assert (await gw.post(CHAT, {"model": "m", "messages": []})).status == 200


async def test_the_webhook_is_told_once_an_incident_with_what_happened(backend: Backend) -> None:
    async with Backend() as own:
        own.answers(503)
        backend.answers(200)
        hook = {"url": f"{backend.url}/hook", "token": {"env": "HOOK_TOKEN"}}
        route = chain({**MESSAGE, "webhook": hook}, retry="off")
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("HOOK_TOKEN", "t0ken")
            async with gateway_with(own, route=route, policy={"pools": {"pool": {"breaker": "off"}}}) as gw:
                answers = await asyncio.gather(*(gw.ask(stream=stream) for stream in (False, True) * 20))
                assert {answer.header("x-sluice-degraded") for answer in answers} == {"message"}
                request = await backend.requested()
                assert request.header("authorization") == "Bearer t0ken"
                told = json.loads(request.body)
                assert {name: told[name] for name in ("event", "route", "pool", "degraded", "status")} == {
                    "event": "degraded",
                    "route": "m",
                    "pool": "pool",
                    "degraded": "message",
                    "status": 200,
                }
                assert told["why"] in ("503", "no_endpoint_available")
                lines = await gw.access_lines()
                (first,) = [line for line in lines if line["request_id"] == told["request_id"]]
                assert [one["endpoint"] for one in told["attempts"]] == [step[0] for step in first["trail"]]
                await eventually(lambda: "webhook_told" in gw.log_text(), "the log never said so")
                assert backend.attempts == 1
                assert gw.key not in request.body.decode() and own.url not in request.body.decode()


async def test_a_stale_answer_is_given_again_byte_for_byte_and_labelled(backend: Backend) -> None:
    backend.streams("a", "b", "c")
    cache = {"mode": "always", "ttl": "1ms", "stale": "1d"}
    async with gateway_with(backend, route=chain({"cache": "stale"}, MESSAGE, cache=cache, retry="off")) as gw:
        fresh = await gw.ask()
        assert (fresh.text, fresh.header("x-sluice-degraded")) == ("abc", None)
        await asyncio.sleep(0.01)
        backend.answers(503)
        stale = await gw.ask()
        assert stale.body == fresh.body
        assert (stale.header("x-sluice-degraded"), stale.header("x-sluice-cache")) == ("cache", "stale")
        assert stale.header("x-sluice-attempts") == "1"
        # What was not asked before has no such answer, and the next step is taken.
        assert (await gw.ask("something else")).header("x-sluice-degraded") == "message"
        assert gw.total("fallbacks_total", kind="cache") == gw.total("fallbacks_total", kind="message") == 1


async def test_a_degraded_answer_is_never_kept(backend: Backend) -> None:
    async with Backend() as own:
        own.answers(503).then.streams("own")
        backend.streams("small")
        route = chain({"pool": "small"}, MESSAGE, cache={"mode": "always"}, retry="off")
        policy = {"pools": {"pool": {"breaker": "off"}}}
        async with gateway_with(pools={"pool": [own], "small": [backend]}, route=route, policy=policy) as gw:
            assert (await gw.ask()).header("x-sluice-degraded") == "simplified"

            async def own_again() -> bool:
                answer = await gw.ask()
                assert answer.header("x-sluice-cache") is None
                return answer.text == "own"

            for _ in range(200):
                if await own_again():
                    break
                await asyncio.sleep(0.05)
            assert (await gw.ask()).header("x-sluice-cache") == "hit"


async def test_a_full_queue_falls_and_its_own_pool_loses_no_slot(backend: Backend) -> None:
    async with Backend() as small:
        backend.streams("a", "b", hold=2)
        small.streams("s")
        policy = {"pools": {"pool": {"max_in_flight": 1, "queue": {"size": 0}}, "small": {"max_in_flight": 1}}}
        pools: Pools = {"pool": [backend], "small": [small]}
        async with gateway_with(pools=pools, route=chain({"pool": "small"}, MESSAGE), policy=policy) as gw:
            async with await gw.connect() as client:
                await client.send(gw.chat_request())
                await client.until(b'"a"')
                for _ in range(5):
                    answer = await gw.ask()
                    assert (answer.text, answer.header("x-sluice-degraded")) == ("s", "simplified")
            backend.streams("o")
            await eventually(lambda: gw.gateway.plane.in_flight == 0, "still in flight")
            answer = await gw.ask()
            assert (answer.text, answer.header("x-sluice-degraded")) == ("o", None)
            lines = await gw.access_lines()
            assert {line["degraded_why"] for line in lines if line["degraded"]} == {"queue_full"}


async def test_a_slow_engine_falls_once_its_attempts_are_spent(backend: Backend) -> None:
    backend.raw(b"", stall=True)
    route = chain(MESSAGE, retry="off", timeouts={"first_byte": "100ms"})
    async with gateway_with(backend, route=route) as gw:
        assert (await gw.ask()).header("x-sluice-degraded") == "message"
        (line,) = await gw.access_lines()
        assert line["degraded_why"] == "first_byte_timeout"


async def test_an_old_client_reads_a_message_too() -> None:
    async with gateway_with(GONE, route=chain(MESSAGE)) as gw:
        for stream in (False, True):
            data = gw.chat_request(stream=stream).replace(b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", 1)
            answer = await gw.send(data)
            assert answer.status == 200 and answer.body.count(b"data: ") == (4 if stream else 0)
            assert b"\\u201eA person" in answer.body or "„A person“".encode() in answer.body


async def test_an_exhausted_chain_tells_of_its_last_failure_and_not_to_try_again() -> None:
    async with Backend() as own, Backend() as small:
        own.raw(b"", rst=True)
        small.raw(b"", rst=True)
        route = chain({"pool": "small"}, retry={"retries": 2, "backoff": "10ms"})
        async with gateway_with(pools={"pool": [own], "small": [small]}, route=route) as gw:
            answer = await gw.ask()
            assert (answer.status, answer.error["code"]) == (502, "upstream_error")
            assert answer.header("x-sluice-degraded") is None
            assert answer.header("x-should-retry") == "false"
            assert (own.attempts, small.attempts) == (2, 1)
            (line,) = await gw.access_lines()
            assert (line["degraded"], line["degraded_why"]) == (None, None)
            assert gw.total("fallbacks_total") == 0


@pytest.mark.parametrize("leaves", [False, True])
async def test_who_follows_an_answer_that_falls_goes_on_alone(backend: Backend, leaves: bool) -> None:
    go = asyncio.Event()

    async def slow_503(c: Connection, request: Request) -> None:
        await go.wait()
        await c.send(plain(503, b"{}"))

    async with Backend() as own:
        own.does(slow_503)
        backend.streams("s")
        route = chain({"pool": "small"}, MESSAGE, cache={"mode": "always"}, retry="off")
        async with gateway_with(pools={"pool": [own], "small": [backend]}, route=route) as gw:
            async with asyncio.TaskGroup() as group:
                async with await gw.connect() as leader:
                    await leader.send(gw.chat_request())
                    await own.requested()
                    following = [group.create_task(gw.ask()) for _ in range(3)]
                    await eventually(lambda: gw.gateway.client_requests == 4, "they follow")
                    if not leaves:
                        go.set()
                        first = await leader.answer()
                        assert (first.text, first.header("x-sluice-degraded")) == ("s", "simplified")
                await asyncio.sleep(0.1)
                go.set()
            answers = [task.result() for task in following]
            assert {(one.text, one.header("x-sluice-degraded")) for one in answers} == {("s", "simplified")}
            assert all(one.header("x-sluice-cache") is None for one in answers)


async def test_clients_that_leave_anywhere_on_the_chain_leave_nothing(backend: Backend) -> None:
    seed = random.randrange(1 << 32)
    sys.stdout.write(f"seed {seed}\n")
    rng = random.Random(seed)

    async def slow_503(c: Connection, request: Request) -> None:
        await asyncio.sleep(0.02)
        await c.send(plain(503, b"{}"))

    async with Backend() as own:
        own.does(slow_503)
        backend.streams("a", "b", "c", gap=0.02)
        route = chain({"pool": "small", "concurrency": 8}, MESSAGE, retry="off")
        policy = {"pools": {"pool": {"breaker": "off", "ejection": "off"}}}
        async with gateway_with(pools={"pool": [own], "small": [backend]}, route=route, policy=policy) as gw:

            async def leave(after: float) -> None:
                async with await gw.connect() as client:
                    await client.send(gw.chat_request())
                    await asyncio.sleep(after)

            async with asyncio.TaskGroup() as group:
                for _ in range(60):
                    group.create_task(leave(rng.uniform(0, 0.2)))
            await eventually(lambda: gw.gateway.client_requests == 0, "a request is still being answered")
            assert not gw.gateway.data.fallbacks._open, f"seed {seed}"
            lines = await gw.access_lines()
            for kind in ("simplified", "message"):
                assert gw.total("fallbacks_total", kind=kind) == sum(line["degraded"] == kind for line in lines)
