"""Faults 6, 7 and 9: the engine has taken the request, and says nothing, or too little."""

from __future__ import annotations

import asyncio

import pytest

from tests.fakes.backend import STREAM_HEAD, Backend, Connection, Request, Said, Script, chunked, plain
from tests.faults.scenes import TICK, ask_first_at, pool, route, steps, trails
from tests.flow.harness import gateway_with
from tests.pace import Watch

ROLE, ONE, TWO, *_ = Said(("one", "two")).events()
PING = b": ping\n\n"
LONG_HEAD = b"HTTP/1.1 200 OK\r\n" + b"x-header: value\r\n" * 200


def silent_after(*parts: bytes) -> Script:
    """A script that sends these and then nothing more, until it is left."""

    async def script(c: Connection, request: Request) -> None:
        for part in parts:
            await c.send(part)
        await c.stall()

    return script


def drips(data: bytes, start: bytes = b"") -> Script:
    """A script that sends a byte every 20 ms: no single read is late, the whole is."""

    async def script(c: Connection, request: Request) -> None:
        await c.send(start)
        for at in range(len(data)):
            if c.closed.is_set():
                return
            await c.send(data[at : at + 1])
            await asyncio.sleep(0.02)

    return script


async def pings(c: Connection, request: Request) -> None:
    """A stream of which only the pings arrive."""
    await c.send(STREAM_HEAD)
    while not c.closed.is_set():
        await c.send(chunked(PING))
        await asyncio.sleep(0.02)


SILENT: dict[str, Script] = {
    "no head": silent_after(),
    "a head alone": silent_after(STREAM_HEAD),
    "a role alone": silent_after(STREAM_HEAD, chunked(ROLE)),
    "half an event": silent_after(STREAM_HEAD, chunked(ONE[:-2])),
    "pings": pings,
    "a head in drips": drips(LONG_HEAD),
    "an event in drips": drips(chunked(ONE * 3), STREAM_HEAD),
}
SILENT_PLAIN: dict[str, Script] = {
    "no head": silent_after(),
    "a head alone": silent_after(plain(200, b"x" * 10)[:-10]),
    "a head in drips": drips(LONG_HEAD),
}
EVERY = [
    pytest.param(script, stream, id=f"{name}, {'stream' if stream else 'plain'}")
    for scripts, stream in ((SILENT, True), (SILENT_PLAIN, False))
    for name, script in scripts.items()
]

# -- rows 6 and 7: before the first content


@pytest.mark.parametrize(("script", "stream"), EVERY)
async def test_a_late_first_content_fails_over_and_the_late_one_is_left(
    backend: Backend, other: Backend, script: Script, stream: bool
) -> None:
    backend.does(script)
    other.streams("a", "b") if stream else other.answers(200, b"{}")
    async with gateway_with(backend, other, policy=pool(), route=route()) as gw:
        answer, line = await ask_first_at(gw, "pool-0", stream=stream)
        await backend.all_closed(timeout=1.0)
        assert (answer.status, answer.end, answer.header("x-sluice-attempts")) == (200, "complete", "2")
        assert answer.text == "ab" if stream else answer.json == {}
        assert steps(line) == [("pool-0", "too_slow"), ("pool-1", "ok")]
        assert 145 <= line["trail"][0][2] < 150 + TICK * 1000 + 300
        assert gw.total("timeouts_total", kind="first_byte") == 1
        assert gw.total("streams_broken_total") == 0


@pytest.mark.parametrize(("script", "stream"), EVERY)
async def test_a_late_first_content_is_504_where_the_route_does_not_list_it(
    backend: Backend, script: Script, stream: bool
) -> None:
    backend.does(script)
    rule = route(retry={"when": ["not_sent", "no_answer"]})
    async with gateway_with(backend, policy=pool(), route=rule) as gw:
        answer = await gw.ask(stream=stream)
        await backend.all_closed(timeout=1.0)
        assert (answer.status, answer.error["code"]) == (504, "first_byte_timeout")
        assert answer.header("x-sluice-attempts") == "1"
        assert await trails(gw) == [[("pool-0", "too_slow")]]
        assert backend.attempts == 1


async def test_endpoints_that_are_all_silent_are_504_within_the_deadline(backend: Backend, other: Backend) -> None:
    """The last attempt gets what is left of the deadline, no more."""
    backend.does(silent_after())
    other.does(silent_after(STREAM_HEAD))
    async with gateway_with(backend, other, policy=pool(), route=route(total="250ms")) as gw:
        watch = Watch()
        answer = await gw.ask()
        # A tick late, and on a busy machine some more; a third attempt would take longer.
        assert watch.own < 0.25 + TICK + 0.3
        assert (answer.status, answer.error["code"]) == (504, "deadline_exceeded")
        assert (backend.attempts, other.attempts) == (1, 1)
        (trail,) = await trails(gw)
        assert [outcome for _, outcome in trail] == ["too_slow", "too_slow"]


@pytest.mark.parametrize("sent", [b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n", b""], ids=["a head", "nothing"])
async def test_a_plain_answer_runs_under_the_attempts_own_time(backend: Backend, other: Backend, sent: bytes) -> None:
    backend.does(silent_after(sent))
    other.answers(200)
    rule = route(attempt="200ms", first_byte_plain="off")
    async with gateway_with(backend, other, policy=pool(), route=rule) as gw:
        answer, line = await ask_first_at(gw, "pool-0", stream=False)
        assert answer.status == 200
        assert steps(line) == [("pool-0", "too_slow"), ("pool-1", "ok")]
        assert line["trail"][0][2] >= 195
        assert gw.total("timeouts_total", kind="attempt") == 1


@pytest.mark.parametrize("settings", [{"ejection": {"consecutive": 2}}, {"breaker": {"failures": 2}}], ids=str)
async def test_a_silent_endpoint_is_soon_not_asked_any_more(
    backend: Backend, other: Backend, settings: dict[str, object]
) -> None:
    """`/health` says 200 all the time: our own timer finds it."""
    backend.does(silent_after(STREAM_HEAD))
    other.streams("a")
    async with gateway_with(backend, other, policy=pool(**settings), route=route(first_byte="100ms")) as gw:
        for _ in range(12):
            assert await gw.chat() == "a"
        assert backend.attempts == 2
        assert gw.total("attempts_total", endpoint="pool-0", outcome="too_slow") == 2


# -- row 9: in the stream


async def test_a_stream_that_stalls_is_cut_at_the_idle_limit(backend: Backend, other: Backend) -> None:
    backend.does(silent_after(STREAM_HEAD, chunked(ROLE + ONE)))
    other.does(silent_after(STREAM_HEAD, chunked(ROLE + ONE)))
    async with gateway_with(backend, other, policy=pool(ejection={"consecutive": 1}), route=route()) as gw:
        watch = Watch()
        answer = await gw.ask()
        assert watch.within(0.145, 0.15 + 2 * TICK + 0.3)
        await backend.all_closed(timeout=1.0)
        await other.all_closed(timeout=1.0)
        assert (answer.status, answer.end) == (200, "cut")
        assert answer.body.startswith(ROLE + ONE + b"data: {")
        assert answer.chunks[-1]["error"]["code"] == "idle_timeout"
        assert b"[DONE]" not in answer.body
        # Two models' outputs are never spliced: what has begun is not repeated.
        assert backend.attempts + other.attempts == 1
        (line,) = await gw.access_lines()
        assert (line["status"], line["code"], line["outcome"]) == (200, "idle_timeout", "too_slow")
        assert gw.total("streams_broken_total") == gw.total("ejections_total") == 1
        assert gw.total("timeouts_total", kind="idle") == 1


async def test_half_an_event_is_ended_before_the_error_is_told(backend: Backend) -> None:
    backend.does(silent_after(STREAM_HEAD, chunked(ONE + TWO[:15])))
    async with gateway_with(backend, policy=pool(), route=route()) as gw:
        answer = await gw.ask()
        assert answer.end == "cut"
        assert answer.body.startswith(ONE + TWO[:15] + b"\n\ndata: {")
        assert b'"idle_timeout"' in answer.body


async def test_a_stream_is_idle_only_between_its_bytes(backend: Backend) -> None:
    """Its whole takes four times the limit."""
    backend.streams(*"abcdefgh", gap=0.08)
    async with gateway_with(backend, policy=pool(), route=route()) as gw:
        watch = Watch()
        assert await gw.chat() == "abcdefgh"
        assert watch.seconds > 0.6


async def test_a_plain_answer_has_no_idle_limit(backend: Backend) -> None:
    async def script(c: Connection, request: Request) -> None:
        await c.send(plain(200, b"0123456789")[:-5])
        await asyncio.sleep(0.4)
        await c.send(b"56789")

    backend.does(script)
    async with gateway_with(backend, policy=pool(), route=route()) as gw:
        answer = await gw.ask(stream=False)
        assert (answer.end, answer.body) == ("complete", b"0123456789")


async def test_a_plain_answer_that_stalls_half_way_is_cut_at_the_attempts_end(backend: Backend) -> None:
    backend.does(silent_after(plain(200, b"0123456789")[:-5]))
    async with gateway_with(backend, policy=pool(), route=route(attempt="250ms")) as gw:
        answer = await gw.ask(stream=False)
        await backend.all_closed(timeout=1.0)
        assert (answer.status, answer.end, answer.body) == (200, "cut", b"01234")
        (line,) = await gw.access_lines()
        assert (line["code"], line["outcome"]) == ("attempt_timeout", "too_slow")
