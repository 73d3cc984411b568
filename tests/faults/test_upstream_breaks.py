"""Faults 3, 4, 8, 10, 11 and 12: the engine's connection dies, stalls or talks nonsense half way."""

from __future__ import annotations

import asyncio
import random

import pytest

from tests.fakes.backend import LAST_CHUNK, STREAM_HEAD, Backend, Connection, Request, Said, chunked, plain
from tests.faults.scenes import dies
from tests.flow.harness import Running, gateway_with
from tests.pace import Watch

# What the one attempt makes of it; that others follow is shown by the tests of the attempts.
ONCE = {"retry": "off"}
EVENTS = Said(("one", "zwei ü", "three")).events()
MESSAGES = [
    b'event: message_start\ndata: {"type": "message_start", "message": {"role": "assistant", "content": []}}\n\n',
    b'event: content_block_delta\ndata: {"type": "content_block_delta", "delta": {"text": "hi"}}\n\n',
]


async def outcomes(gw: Running) -> list[str]:
    return [line["outcome"] for line in await gw.access_lines()]


# -- row 3: a reused connection dies before any byte


@pytest.mark.parametrize("how", ["rst", "fin"])
async def test_a_reused_connection_that_dies_before_any_byte_is_repeated_once_and_for_free(
    backend: Backend, how: str
) -> None:
    backend.answers(200, b"1").then.does(dies(how)).then.answers(200, b"2")
    async with gateway_with(backend) as gw:
        assert (await gw.ask(stream=False)).body == b"1"
        assert (await gw.ask(stream=False)).body == b"2"
        assert [len({r.connection for r in backend.requests}), backend.attempts] == [2, 3]
        assert backend.requests[0].connection is backend.requests[1].connection
        assert await outcomes(gw) == ["ok", "ok"]


async def test_a_fresh_connection_that_dies_before_any_byte_is_502_and_not_repeated_for_free(backend: Backend) -> None:
    backend.does(dies("rst"))
    async with gateway_with(backend, route=ONCE) as gw:
        answer = await gw.ask(stream=False)
        assert (answer.status, answer.error["code"]) == (502, "upstream_error")
        assert backend.attempts == 1
        assert await outcomes(gw) == ["no_answer"]


async def test_a_reused_connection_that_dies_after_a_byte_is_not_repeated_for_free(backend: Backend) -> None:
    backend.answers(200, b"1").then.raw(b"HTTP/1.1 20", rst=True).then.answers(200, b"never")
    async with gateway_with(backend, route=ONCE) as gw:
        assert (await gw.ask(stream=False)).status == 200
        assert (await gw.ask(stream=False)).status == 502
        assert backend.attempts == 2


async def test_the_free_repeat_comes_once(backend: Backend) -> None:
    backend.answers(200, b"1").then.does(dies("rst")).then.does(dies("rst")).then.answers(200, b"never")
    async with gateway_with(backend, route=ONCE) as gw:
        assert (await gw.ask(stream=False)).status == 200
        assert (await gw.ask(stream=False)).status == 502
        assert backend.attempts == 3


# -- row 4: the engine closes idle connections just as we use them


@pytest.mark.timeout(180)
async def test_4000_posts_against_an_engine_that_closes_idle_connections_fail_not_once(backend: Backend) -> None:
    chance = random.Random(4)
    closing: set[asyncio.Task[None]] = set()

    async def close_soon(c: Connection, served: int) -> None:
        await asyncio.sleep(chance.random() * 0.005)
        if c.requests == served:
            c.fin()

    async def script(c: Connection, request: Request) -> None:
        await c.send(plain(200, b"{}"))
        task = asyncio.get_running_loop().create_task(close_soon(c, c.requests))
        closing.add(task)
        task.add_done_callback(closing.discard)

    backend.does(script)
    async with gateway_with(backend, route=ONCE) as gw:

        async def posts(count: int) -> None:
            async with await gw.connect() as client:
                for _ in range(count):
                    await client.send(gw.chat_request(stream=False))
                    assert (await client.answer()).status == 200
                    await asyncio.sleep(chance.random() * 0.005)

        async with asyncio.TaskGroup() as group:
            for _ in range(20):
                group.create_task(posts(200))
        assert set(await outcomes(gw)) == {"ok"}
        assert gw.total("requests_total", code="200") == 4000
        # It was the race that was run: connections were lost all the time.
        assert len(backend.connections) > 200


# -- row 8: a stream that breaks off


@pytest.mark.parametrize("how", ["rst", "fin"])
@pytest.mark.parametrize("inside", [False, True], ids=["between events", "inside an event"])
async def test_a_chat_stream_that_breaks_gives_every_byte_then_an_error_and_no_clean_end(
    backend: Backend, how: str, inside: bool
) -> None:
    sent = b"".join(EVENTS[:3]) + (EVENTS[3][:20] if inside else b"")
    backend.raw(STREAM_HEAD + chunked(sent), rst=how == "rst")
    async with gateway_with(backend) as gw:
        answer = await gw.ask()
        assert (answer.status, answer.end) == (200, "cut")
        assert answer.body.startswith(sent)
        added = answer.body[len(sent) :]
        assert added.startswith(b"\n\ndata: {" if inside else b"data: {")
        assert answer.chunks[-1]["error"]["code"] == "stream_broken" if not inside else b"stream_broken" in added
        assert b"[DONE]" not in answer.body
        assert backend.attempts == 1
        (line,) = await gw.access_lines()
        assert (line["outcome"], line["code"], line["status"]) == ("broken_off", "stream_broken", 200)
        assert gw.total("streams_broken_total") == 1


async def test_a_messages_stream_that_breaks_tells_of_it_in_its_own_dialect(backend: Backend) -> None:
    sent = b"".join(MESSAGES)
    backend.raw(STREAM_HEAD + chunked(sent), rst=True)
    async with gateway_with(backend) as gw:
        answer = await gw.post("/v1/messages", {"model": "m", "stream": True, "messages": [], "max_tokens": 5})
        assert (answer.status, answer.end) == (200, "cut")
        assert answer.body.startswith(sent + b"event: error\ndata: {")
        assert answer.body.endswith(b"\n\n")


@pytest.mark.parametrize(
    ("headers", "end"),
    [(b"content-encoding: gzip\r\ntransfer-encoding: chunked\r\n", "cut"), (b"content-length: 5000\r\n", "cut")],
    ids=["encoded", "with a length"],
)
async def test_a_stream_with_no_room_for_an_event_is_only_cut(backend: Backend, headers: bytes, end: str) -> None:
    body = b"".join(EVENTS[:3])
    framed = chunked(body) if b"chunked" in headers else body
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n" + headers + b"\r\n"
    backend.raw(head + framed, rst=True)
    async with gateway_with(backend) as gw:
        answer = await gw.ask()
        assert (answer.status, answer.end, answer.body) == (200, end, body)
        assert await outcomes(gw) == ["broken_off"]


async def test_a_plain_answer_that_breaks_is_cut_and_nothing_is_added(backend: Backend) -> None:
    backend.raw(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + chunked(b'{"half": '), rst=True)
    async with gateway_with(backend) as gw:
        answer = await gw.ask(stream=False)
        assert (answer.status, answer.end, answer.body) == (200, "cut", b'{"half": ')
        assert await outcomes(gw) == ["broken_off"]


# -- row 10: slow, but alive


async def test_a_body_that_drips_passes(backend: Backend) -> None:
    async def script(c: Connection, request: Request) -> None:
        await c.send(b"HTTP/1.1 200 OK\r\ncontent-length: 40\r\n\r\n")
        await c.drip(b"0123456789" * 4, 0.02)

    backend.does(script)
    async with gateway_with(backend) as gw:
        answer = await gw.ask(stream=False)
        assert (answer.end, answer.body) == ("complete", b"0123456789" * 4)


async def test_a_body_that_drips_is_bounded_by_the_total_deadline(backend: Backend) -> None:
    async def script(c: Connection, request: Request) -> None:
        await c.send(STREAM_HEAD)
        for _ in range(1000):
            await c.send(chunked(EVENTS[1]))
            await asyncio.sleep(0.02)

    backend.does(script)
    async with gateway_with(backend, route={"timeouts": {"total": "300ms"}}) as gw:
        watch = Watch()
        answer = await gw.ask()
        assert watch.within(0.25, 1.0)
        assert answer.end == "cut"
        assert answer.chunks[-1]["error"]["code"] == "deadline_exceeded"
        (line,) = await gw.access_lines()
        assert (line["code"], line["outcome"], line["client_gone"]) == ("deadline_exceeded", "too_slow", None)
        await backend.all_closed()


# -- rows 11 and 12: framing

BAD_CHUNKS = {
    "size is no number": b"zz\r\nhello\r\n",
    "negative size": b"-5\r\nhello\r\n",
    "size without end": b"f" * 30 + b"\r\nhello\r\n",
    "control byte in the extension": b"5;a=\x00b\r\nhello\r\n",
    "line feeds only": b"5\nhello\n0\n\n",
    "no end of the chunk": b"5\r\nhelloXX0\r\n\r\n",
}


@pytest.mark.parametrize("bad", BAD_CHUNKS.values(), ids=BAD_CHUNKS)
async def test_a_malformed_chunk_before_the_first_byte_is_502(backend: Backend, bad: bytes) -> None:
    backend.raw(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + bad, keep=True)
    async with gateway_with(backend, route=ONCE) as gw:
        answer = await gw.ask(stream=False)
        if answer.status == 200:
            # What could be read before the fault had gone down.
            assert (answer.end, answer.body) == ("cut", b"hello")
        else:
            assert (answer.status, answer.error["code"]) == (502, "upstream_error")
        await backend.all_closed()


@pytest.mark.parametrize("bad", BAD_CHUNKS.values(), ids=BAD_CHUNKS)
async def test_a_malformed_chunk_after_the_first_byte_cuts_the_body(backend: Backend, bad: bytes) -> None:
    async def script(c: Connection, request: Request) -> None:
        await c.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + chunked(b"first"))
        await backend.release.wait()
        await c.send(bad)

    backend.does(script)
    async with gateway_with(backend) as gw, await gw.connect() as client:
        await client.send(gw.chat_request(stream=False))
        assert await client.until(b"first")
        backend.release.set()
        rest = await client.rest()
        assert LAST_CHUNK not in rest
        await backend.all_closed()
        assert await outcomes(gw) == ["broken_off"]


async def test_a_chunk_extension_is_dropped_and_the_body_is_whole(backend: Backend) -> None:
    backend.raw(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5;name=value\r\nhello\r\n0\r\n\r\n", keep=True)
    async with gateway_with(backend) as gw:
        answer = await gw.ask(stream=False)
        assert (answer.body, answer.end) == (b"hello", "complete")


async def test_a_body_shorter_than_its_length_is_cut_where_the_client_sees_it(backend: Backend) -> None:
    backend.raw(plain(200, b"x" * 100)[:-50])
    async with gateway_with(backend) as gw:
        answer = await gw.ask(stream=False)
        assert (answer.status, answer.framing, answer.end, answer.body) == (200, "length", "cut", b"x" * 50)
        assert await outcomes(gw) == ["broken_off"]
