"""Faults 13 to 18, 24 and 27: what the engine says is not the HTTP that we can stand behind."""

from __future__ import annotations

import asyncio

import pytest

from tests.fakes.backend import Backend, Connection, Request, plain
from tests.flow.harness import gateway_with

FILES = {"routes": [{"path": "/files/*", "methods": ["GET", "HEAD", "POST"], "pool": "pool"}]}

# What the one attempt makes of it; that others follow is shown by the tests of the attempts.
ONCE = {"retry": "off"}

# -- rows 13 and 14: bytes that belong to no answer

MORE = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nSTOLEN"


@pytest.mark.parametrize("late", [False, True], ids=["same segment", "50 ms later"])
@pytest.mark.parametrize("extra", [b"junk", MORE], ids=["junk", "a second answer"])
async def test_what_comes_after_an_answer_never_reaches_anybody(backend: Backend, late: bool, extra: bytes) -> None:
    async def script(c: Connection, request: Request) -> None:
        if not late:
            await c.send(plain(200, b"mine") + extra)
        else:
            await c.send(plain(200, b"mine"))
            await asyncio.sleep(0.05)
            await c.send(extra)

    backend.does(script).then.answers(200, b"yours")
    async with gateway_with(backend) as gw:
        first = await gw.ask(stream=False)
        assert (first.status, first.body, first.end) == (200, b"mine", "complete")
        if late:
            await backend.all_closed(timeout=1.0)
        second = await gw.ask(stream=False)
        assert (second.status, second.body, second.end) == (200, b"yours", "complete")
        assert backend.requests[0].connection is not backend.requests[1].connection
        assert backend.attempts == 2


@pytest.mark.parametrize(
    ("method", "status", "head"),
    [
        ("GET", 204, b"HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", 304, b"HTTP/1.1 304 Not Modified\r\ncontent-length: 4\r\netag: x\r\n\r\n"),
        ("HEAD", 200, b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n"),
    ],
    ids=["204", "304", "HEAD"],
)
async def test_a_body_where_none_may_be_never_reaches_anybody(
    backend: Backend, method: str, status: int, head: bytes
) -> None:
    backend.raw(head + b"junk", keep=True).then.answers(200, b"yours")
    async with gateway_with(backend, policy=FILES) as gw:
        first = await gw.send(gw.request(method, "/files/a"), method=method)
        assert (first.status, first.body) == (status, b"")
        second = await gw.send(gw.request("GET", "/files/b"), method="GET")
        assert (second.status, second.body) == (200, b"yours")
        assert backend.requests[0].connection is not backend.requests[1].connection


@pytest.mark.parametrize(
    ("method", "head"),
    [
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\ncontent-length: 4\r\n\r\n"),
        ("HEAD", b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n"),
    ],
    ids=["204", "304", "HEAD"],
)
async def test_an_answer_without_a_body_leaves_the_connection_good_for_the_next(
    backend: Backend, method: str, head: bytes
) -> None:
    backend.raw(head, keep=True)
    async with gateway_with(backend, policy=FILES) as gw, await gw.connect() as client:
        for _ in range(2):
            await client.send(gw.request(method, "/files/a"))
            answer = await client.answer(method=method)
            assert answer.end == "complete"
        assert len(backend.connections) == 1


# -- rows 15-18 and 27: 502, and the connection is closed

CHUNKS = b"4\r\nbody\r\n0\r\n\r\n"
HEADS = {
    "two lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\nbody",
    "a list of lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 4, 5\r\n\r\nbody",
    "a length that is no number": b"HTTP/1.1 200 OK\r\ncontent-length: +4\r\n\r\nbody",
    "a length and chunks": b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n" + CHUNKS,
    "an unknown coding": b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n" + CHUNKS,
    "a carriage return in a value": b"HTTP/1.1 200 OK\r\nx-a: b\rx-c: d\r\ncontent-length: 4\r\n\r\nbody",
    "a NUL in a value": b"HTTP/1.1 200 OK\r\nx-a: b\x00c\r\ncontent-length: 4\r\n\r\nbody",
    "a control byte in a value": b"HTTP/1.1 200 OK\r\nx-a: b\x07c\r\ncontent-length: 4\r\n\r\nbody",
    "a folded line": b"HTTP/1.1 200 OK\r\nx-a: b\r\n c\r\ncontent-length: 4\r\n\r\nbody",
    "a blank in a name": b"HTTP/1.1 200 OK\r\nx a: b\r\ncontent-length: 4\r\n\r\nbody",
    "a blank before the colon": b"HTTP/1.1 200 OK\r\nx-a : b\r\ncontent-length: 4\r\n\r\nbody",
    "no HTTP at all": b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n",
    "a TLS alert": b"\x15\x03\x01\x00\x02\x02\x46",
    "HTTP/2": b"\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x80\x00\x04\x00\x01\x00\x00",
    "no status": b"HTTP/1.1 OK\r\n\r\n",
    "a status of 99": b"HTTP/1.1 99 Low\r\ncontent-length: 0\r\n\r\n",
    "a status of 600": b"HTTP/1.1 600 High\r\ncontent-length: 0\r\n\r\n",
    "an unasked 101": b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
    "2,000 headers": b"HTTP/1.1 200 OK\r\n" + b"x-h: v\r\n" * 2000 + b"content-length: 4\r\n\r\nbody",
    "a header of 200 KB": b"HTTP/1.1 200 OK\r\nx-h: " + b"v" * 200_000 + b"\r\ncontent-length: 4\r\n\r\nbody",
    "interim answers without end": b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" * 1000 + plain(200, b"body"),
}


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
async def test_an_answer_that_is_not_good_http_is_502_and_its_connection_is_closed(
    backend: Backend, head: bytes
) -> None:
    backend.raw(head, keep=True).then.answers(200, b"next")
    async with gateway_with(backend, route=ONCE) as gw:
        answer = await gw.ask(stream=False)
        assert (answer.status, answer.end) == (502, "complete")
        assert answer.error["code"] == "upstream_error"
        assert answer.error["type"] == "api_error"
        assert "127.0.0.1" not in str(answer.error)
        await backend.all_closed()
        assert (await gw.ask(stream=False)).body == b"next"
        assert backend.attempts == 2
        lines = await gw.access_lines()
        assert [line["outcome"] for line in lines] == ["no_answer", "ok"]


@pytest.mark.parametrize("unit", [b"x", b"x-h: v\r\n"], ids=["one header without end", "headers without end"])
async def test_a_head_without_end_is_not_read_to_its_end(backend: Backend, unit: bytes) -> None:
    sent = 0

    async def script(c: Connection, request: Request) -> None:
        nonlocal sent
        await c.send(b"HTTP/1.1 200 OK\r\nx-first: ")
        while not c.closed.is_set():
            await c.send(unit * 4096)
            sent += len(unit) * 4096
            await asyncio.sleep(0)

    backend.does(script)
    async with gateway_with(backend, route=ONCE) as gw:
        assert (await gw.ask(stream=False)).status == 502
        await backend.all_closed()
        # We stop at 64 KiB; the rest is what socket buffers swallow.
        assert sent < 16 << 20


# -- row 24: interim answers


async def test_interim_answers_are_swallowed_and_the_final_one_is_right(backend: Backend) -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>; rel=preload\r\n\r\n"
    backend.raw(interim + plain(200, b"final"), keep=True)
    async with gateway_with(backend) as gw:
        for _ in range(2):
            answer = await gw.ask(stream=False)
            assert (answer.status, answer.body) == (200, b"final")
            assert answer.header("link") is None
        assert len(backend.connections) == 1
