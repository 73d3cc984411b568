"""What is not HTTP/1.1 as we accept it never becomes an answer, and its connection is never used again."""

import asyncio

import pytest

from backends.http1.connection import HEAD_LIMIT
from backends.http1.response import HEADERS_LIMIT, INTERIM_LIMIT
from tests.backends.http1.rig import BODY, HEAD, Answer, Peer, Server, ask, pool_to, ready

START = b"HTTP/1.1 200 OK\r\n"
CHUNKED = START + b"transfer-encoding: chunked\r\n\r\n"
INTERIM = b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"
FINAL = START + b"content-length: 2\r\n\r\nok"

BEFORE_THE_HEAD = {
    "not HTTP": b"SSH-2.0-OpenSSH_9.2\r\n",
    "a TLS alert": b"\x15\x03\x01\x00\x02\x02\x28",
    "another protocol of the same shape": b"RTSP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n",
    "an empty line first": b"\r\n" + FINAL,
    "HTTP/0.9": b"HTTP/0.9 200 OK\r\ncontent-length: 0\r\n\r\n",
    "HTTP/2.0": b"HTTP/2.0 200 OK\r\ncontent-length: 0\r\n\r\n",
    "HTTP/1.2": b"HTTP/1.2 200 OK\r\ncontent-length: 0\r\n\r\n",
    "a status of two digits": b"HTTP/1.1 99 X\r\ncontent-length: 0\r\n\r\n",
    "a status of four digits": b"HTTP/1.1 2000 X\r\ncontent-length: 0\r\n\r\n",
    "status 000": b"HTTP/1.1 000 X\r\ncontent-length: 0\r\n\r\n",
    "status 099": b"HTTP/1.1 099 X\r\ncontent-length: 0\r\n\r\n",
    "status 600": b"HTTP/1.1 600 X\r\ncontent-length: 0\r\n\r\n",
    "status 999": b"HTTP/1.1 999 X\r\ncontent-length: 0\r\n\r\n",
    "a negative status": b"HTTP/1.1 -20 X\r\ncontent-length: 0\r\n\r\n",
    "no status": b"HTTP/1.1 \r\n\r\n",
    "lines that end with LF alone": b"HTTP/1.1 200 OK\ncontent-length: 0\n\n",
    "one line that ends with LF alone": START + b"x: y\ncontent-length: 0\r\n\r\n",
    "LF in the reason": b"HTTP/1.1 200 O\nK\r\ncontent-length: 0\r\n\r\n",
    "a folded line": START + b"x: a\r\n b\r\ncontent-length: 0\r\n\r\n",
    "a line folded with a tab": START + b"x: a\r\n\tb\r\ncontent-length: 0\r\n\r\n",
    "a blank before the first name": START + b" x: y\r\ncontent-length: 0\r\n\r\n",
    "CR in a value": START + b"x: a\rb\r\ncontent-length: 0\r\n\r\n",
    "NUL in a value": START + b"x: a\x00b\r\ncontent-length: 0\r\n\r\n",
    "a control character in a value": START + b"x: a\x01b\r\ncontent-length: 0\r\n\r\n",
    "DEL in a value": START + b"x: a\x7fb\r\ncontent-length: 0\r\n\r\n",
    "a blank in a name": START + b"x y: a\r\ncontent-length: 0\r\n\r\n",
    "a blank before the colon": START + b"x : a\r\ncontent-length: 0\r\n\r\n",
    "a name that is not ASCII": START + b"\xc3\xa9: a\r\ncontent-length: 0\r\n\r\n",
    "an empty name": START + b": a\r\ncontent-length: 0\r\n\r\n",
    "no colon": START + b"abc\r\ncontent-length: 0\r\n\r\n",
    "two lengths": START + b"content-length: 1\r\ncontent-length: 2\r\n\r\nab",
    "one length twice": START + b"content-length: 1\r\ncontent-length: 1\r\n\r\na",
    "a list of lengths": START + b"content-length: 1, 1\r\n\r\na",
    "a signed length": START + b"content-length: +1\r\n\r\na",
    "a negative length": START + b"content-length: -1\r\n\r\na",
    "a hexadecimal length": START + b"content-length: 0x1\r\n\r\na",
    "an empty length": START + b"content-length: \r\n\r\na",
    "a length beyond 64 bits": START + b"content-length: 99999999999999999999999\r\n\r\na",
    "length, then chunked": START + b"content-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked, then length": START + b"transfer-encoding: chunked\r\ncontent-length: 1\r\n\r\n0\r\n\r\n",
    "a coding that is not chunked": START + b"transfer-encoding: gzip\r\n\r\nabc",
    "a coding before chunked": START + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked twice in a line": START + b"transfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "chunked twice in two lines": START + b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "nearly chunked": START + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
    "identity": START + b"transfer-encoding: identity\r\n\r\nabc",
    "chunked in HTTP/1.0": b"HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "an unasked 101": b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nabc",
    "a 101 without upgrade": b"HTTP/1.1 101 Switching\r\n\r\n" + FINAL,
    "interim responses without end": INTERIM * (INTERIM_LIMIT + 1) + FINAL,
    "an interim response with a length": b"HTTP/1.1 103 X\r\ncontent-length: 3\r\n\r\nabc" + FINAL,
    "an interim response that is chunked": b"HTTP/1.1 102 X\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n" + FINAL,
    "an interim response that closes": b"HTTP/1.1 100 X\r\nconnection: close\r\n\r\n" + FINAL,
    "one header line too many": START + b"x: y\r\n" * (HEADERS_LIMIT + 1) + b"\r\n",
    "2,000 header lines": START + b"x: y\r\n" * 2000 + b"\r\n",
    "a header of 200 KB": START + b"x: " + b"y" * 200_000 + b"\r\ncontent-length: 0\r\n\r\n",
    "a head just over the limit": START + b"content-length: 0\r\nx: " + b"y" * HEAD_LIMIT + b"\r\n\r\n",
}
AFTER_THE_HEAD = {
    "letters for a chunk size": CHUNKED + b"zz\r\nabc\r\n",
    "a negative chunk size": CHUNKED + b"-1\r\nabc\r\n",
    "a chunk size with 0x": CHUNKED + b"0x3\r\nabc\r\n0\r\n\r\n",
    "a blank after the chunk size": CHUNKED + b"3 \r\nabc\r\n0\r\n\r\n",
    "a blank before the chunk size": CHUNKED + b" 3\r\nabc\r\n0\r\n\r\n",
    "no chunk size": CHUNKED + b"\r\nabc\r\n0\r\n\r\n",
    "an extension and no chunk size": CHUNKED + b";a=b\r\nabc\r\n0\r\n\r\n",
    "a chunk size beyond 64 bits": CHUNKED + b"fffffffffffffffff\r\nabc",
    "LF after the chunk size": CHUNKED + b"3\nabc\r\n0\r\n\r\n",
    "LF in a chunk extension": CHUNKED + b"3;a\nabc\r\n0\r\n\r\n",
    "a control character in a chunk extension": CHUNKED + b"3;a=\x01\r\nabc\r\n0\r\n\r\n",
    "a chunk extension without end": CHUNKED + b"3;a=" + b"b" * 3 * HEAD_LIMIT,
    "trailers without end": CHUNKED + b"3\r\nabc\r\n0\r\n" + b"x: y\r\n" * HEAD_LIMIT,
    "a trailer without end": CHUNKED + b"3\r\nabc\r\n0\r\nx: " + b"y" * 3 * HEAD_LIMIT,
    "LF after a chunk": CHUNKED + b"3\r\nabc\n0\r\n\r\n",
    "a chunk longer than its size": CHUNKED + b"3\r\nabcd\r\n0\r\n\r\n",
    "a trailer that is no header": CHUNKED + b"3\r\nabc\r\n0\r\nx y z\r\n\r\n",
    "a length as trailer": CHUNKED + b"3\r\nabc\r\n0\r\ncontent-length: 5\r\n\r\n",
    "NUL in a trailer": CHUNKED + b"3\r\nabc\r\n0\r\nx: \x00y\r\n\r\n",
    "LF at the end": CHUNKED + b"3\r\nabc\r\n0\r\n\n",
}


@pytest.mark.parametrize("raw", BEFORE_THE_HEAD.values(), ids=BEFORE_THE_HEAD)
async def test_a_malformed_head_is_no_answer(raw: bytes) -> None:
    async with Server(_then_waits(raw)) as server, pool_to(server.port) as pool:
        answer = await ask(pool)
        assert (answer.kind, answer.calls) == ("malformed", ["error"])
        assert answer.error is not None
        assert not answer.error.begun
        assert (pool.active, pool.idle) == (0, 0)
        await server.all_closed()


@pytest.mark.parametrize("raw", AFTER_THE_HEAD.values(), ids=AFTER_THE_HEAD)
async def test_a_malformed_body_delivers_what_was_good_and_says_that_it_had_begun(raw: bytes) -> None:
    async with Server(_then_waits(raw)) as server, pool_to(server.port) as pool:
        answer = await ask(pool)
        assert (answer.status, answer.kind) == (200, "malformed")
        assert answer.error is not None
        assert answer.error.begun
        assert answer.body in (b"", b"abc")
        assert (pool.active, pool.idle) == (0, 0)
        await server.all_closed()


async def test_every_control_character_in_a_value_is_malformed() -> None:
    for code in (*range(9), *range(10, 32), 127):
        raw = START + b"x: a" + bytes([code]) + b"b\r\ncontent-length: 0\r\n\r\n"
        async with Server(_then_waits(raw)) as server, pool_to(server.port) as pool:
            assert (await ask(pool)).kind == "malformed", code


async def test_a_head_that_drips_is_bounded_too() -> None:
    sent = 0

    async def drip(peer: Peer) -> None:
        nonlocal sent
        await peer.request()
        await peer.say(START + b"x: ")
        while True:
            await peer.say(b"y" * 1000)
            sent += 1000
            await asyncio.sleep(0)

    async with Server(drip) as server, pool_to(server.port) as pool:
        answer = await ask(pool)
        assert answer.kind == "malformed"
        assert HEAD_LIMIT <= sent < 20 * HEAD_LIMIT


async def test_a_head_of_the_greatest_size_passes() -> None:
    lines = b"".join(b"x-%03d: %b\r\n" % (n, b"y" * 200) for n in range(HEADERS_LIMIT - 1))
    raw = START + b"content-length: 2\r\n" + lines + b"\r\nok"
    assert 50_000 < len(raw) < HEAD_LIMIT
    async with Server(_then_waits(raw)) as server, pool_to(server.port) as pool:
        answer = await ask(pool)
        assert (answer.body, len(answer.headers)) == (b"ok", HEADERS_LIMIT)


async def test_bytes_before_the_request_are_malformed() -> None:
    async def greets(peer: Peer) -> None:
        await peer.say(b"220 mail.example ESMTP\r\n")
        await peer.gone()

    async with Server(greets) as server, pool_to(server.port) as pool:
        connection = await ready(pool)
        await server.all_closed()
        answer = Answer()
        connection.send(HEAD, BODY, answer)
        assert answer.calls == [], "never from inside send()"
        await answer.over()
        assert answer.kind == "malformed"


def _then_waits(raw: bytes):  # type: ignore[no-untyped-def]
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.say(raw)
        await peer.gone()

    return script
