"""What an answer is, where it ends, and what becomes of its connection."""

import asyncio

import pytest

from backends.http1.response import INTERIM_LIMIT
from tests.backends.http1.rig import (
    BODY,
    HEAD,
    OK,
    Answer,
    Peer,
    Server,
    ask,
    idle_ones_gone,
    pool_to,
    ready,
    says,
    says_and_closes,
)

START = b"HTTP/1.1 200 OK\r\n"
GET = b"GET /v1/models HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n"

KEPT = {
    "a length": (START + b"content-length: 2\r\n\r\nok", b"ok"),
    "a length with blanks": (START + b"content-length: \t 2 \t\r\n\r\nok", b"ok"),
    "length 0": (START + b"content-length: 0\r\n\r\n", b""),
    "chunks": (START + b"transfer-encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n", b"ok"),
    "chunks in capitals": (START + b"TRANSFER-ENCODING: Chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", b"ok"),
    "chunk extensions": (START + b'transfer-encoding: chunked\r\n\r\n2;a=b;c="d"\r\nok\r\n0;e\r\n\r\n', b"ok"),
    "trailers": (START + b"transfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx: y\r\nset-cookie: a\r\n\r\n", b"ok"),
    "no chunk at all": (START + b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n", b""),
    "no reason": (b"HTTP/1.1 200\r\ncontent-length: 2\r\n\r\nok", b"ok"),
    "HTTP/1.0 that keeps": (b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\nok", b"ok"),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    "304 with a length": (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 300\r\n\r\n", b""),
    "100 before": (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, b"ok"),
    "103 and 100 before": (b"HTTP/1.1 103 Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + OK, b"ok"),
    "many interim responses": (b"HTTP/1.1 102 Processing\r\n\r\n" * INTERIM_LIMIT + OK, b"ok"),
}
NOT_KEPT = {
    "connection: close": START + b"connection: close\r\ncontent-length: 2\r\n\r\nok",
    "close among others": START + b"connection: x-foo, Close\r\ncontent-length: 2\r\n\r\nok",
    "close and keep-alive": START + b"connection: keep-alive\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok",
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
    "bytes beyond the length": START + b"content-length: 2\r\n\r\nokay",
    "a second response": OK + OK,
    "bytes after the last chunk": START + b"transfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nmore",
    "bytes after close": START + b"connection: close\r\ncontent-length: 2\r\n\r\nok" + OK,
    "keep-alive: timeout=0": START + b"keep-alive: timeout=0\r\ncontent-length: 2\r\n\r\nok",
}
NO_BODY_BUT_BYTES = {
    "204": b"HTTP/1.1 204 No Content\r\n\r\nok",
    "204 with a length": b"HTTP/1.1 204 No Content\r\ncontent-length: 2\r\n\r\nok",
    "304": b"HTTP/1.1 304 Not Modified\r\ncontent-length: 2\r\n\r\nok",
}


@pytest.mark.parametrize(("raw", "body"), KEPT.values(), ids=KEPT)
async def test_an_answer_with_an_end_leaves_its_connection_for_the_next(raw: bytes, body: bytes) -> None:
    async with Server(says(raw, OK)) as server, pool_to(server.port) as pool:
        answer = await ask(pool)
        assert (answer.body, answer.ended, pool.active, pool.idle) == (body, True, 0, 1)
        assert (await ask(pool)).body == b"ok"
        assert server.accepted == 1


@pytest.mark.parametrize("raw", NOT_KEPT.values(), ids=NOT_KEPT)
async def test_an_answer_is_whole_but_its_connection_is_not_used_again(raw: bytes) -> None:
    async with Server(says(raw, OK)) as server, pool_to(server.port) as pool:
        answer = await ask(pool)
        assert (answer.status, answer.body, answer.ended, pool.active, pool.idle) == (200, b"ok", True, 0, 0)
        await server.all_closed()


@pytest.mark.parametrize("raw", NO_BODY_BUT_BYTES.values(), ids=NO_BODY_BUT_BYTES)
async def test_a_body_where_none_may_be_is_left_out_with_its_connection(raw: bytes) -> None:
    async with Server(says(raw)) as server, pool_to(server.port) as pool:
        answer = await ask(pool)
        assert (answer.body, answer.ended, pool.active, pool.idle) == (b"", True, 0, 0)


async def test_bytes_that_come_late_never_meet_the_next_request() -> None:
    async def twice(peer: Peer) -> None:
        await peer.request()
        await peer.say(OK)
        if peer.number == 0:
            await asyncio.sleep(0.05)
            await peer.say(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison")
        await peer.gone()

    async with Server(twice) as server, pool_to(server.port) as pool:
        assert (await ask(pool)).body == b"ok"
        assert pool.idle == 1
        await idle_ones_gone(pool)
        assert (await ask(pool)).body == b"ok"
        assert server.accepted == 2


@pytest.mark.parametrize("length", [b"content-length: 5\r\n", b"transfer-encoding: chunked\r\n", b""])
async def test_the_answer_to_head_is_its_head(length: bytes) -> None:
    head = GET.replace(b"GET", b"HEAD")
    raw = START + length + b"\r\n"
    async with Server(says(raw, OK)) as server, pool_to(server.port) as pool:
        answer = await ask(pool, head=head, body=b"", head_request=True)
        assert (answer.status, answer.calls) == (200, ["head", "end"])
        # Without a length llhttp can't say that the server keeps the connection, so we don't.
        assert pool.idle == bool(length)
        if length:
            assert (await ask(pool)).body == b"ok"
            assert server.accepted == 1


async def test_a_body_after_the_answer_to_head_is_left_out_with_its_connection() -> None:
    head = GET.replace(b"GET", b"HEAD")
    for body in (b"ok", b"2\r\nok\r\n0\r\n\r\n", b"\r\n\r\n"):
        raw = START + b"content-length: 2\r\n\r\n" + body
        async with Server(says(raw)) as server, pool_to(server.port) as pool:
            answer = await ask(pool, head=head, body=b"", head_request=True)
            assert (answer.calls, pool.idle) == (["head", "end"], 0)


async def test_a_body_that_ends_with_the_connection_ends_well_and_is_flagged() -> None:
    for start in (START, b"HTTP/1.0 200 OK\r\n"):
        async with Server(says_and_closes(start + b"\r\nfirst\n\nlast")) as server, pool_to(server.port) as pool:
            connection = await ready(pool)
            answer = Answer()
            connection.send(HEAD, BODY, answer)
            await answer.over()
            assert (answer.body, answer.ended, connection.framed) == (b"first\n\nlast", True, False)
            assert (pool.active, pool.idle) == (0, 0)


async def test_a_framed_body_is_flagged_as_such() -> None:
    async with Server(says(OK)) as server, pool_to(server.port) as pool:
        connection = await ready(pool)
        answer = Answer()
        connection.send(HEAD, BODY, answer)
        await answer.over()
        assert connection.framed


async def test_names_come_in_lower_case_and_values_without_blanks() -> None:
    raw = START + b"X-Empty:\r\nX-Blank:  \t\r\nX-Value:  a b \t\r\nX-Latin: \xff\r\nContent-Length: 0\r\n\r\n"
    async with Server(says(raw)) as server, pool_to(server.port) as pool:
        answer = await ask(pool)
        assert answer.headers == [
            (b"x-empty", b""),
            (b"x-blank", b""),
            (b"x-value", b"a b"),
            (b"x-latin", b"\xff"),
            (b"content-length", b"0"),
        ]


async def test_a_header_given_twice_stays_two() -> None:
    raw = START + b"set-cookie: a=1\r\nset-cookie: b=2\r\ncontent-length: 0\r\n\r\n"
    async with Server(says(raw)) as server, pool_to(server.port) as pool:
        assert (await ask(pool)).headers[:2] == [(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")]


async def test_an_empty_body_brings_no_data() -> None:
    async with Server(says(START + b"content-length: 0\r\n\r\n")) as server, pool_to(server.port) as pool:
        assert (await ask(pool)).calls == ["head", "end"]
