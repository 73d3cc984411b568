"""How an exchange fails, and what the failure is called."""

import asyncio
import random

import pytest

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
    says_and_closes,
)

START = b"HTTP/1.1 200 OK\r\n"
CHUNKED = START + b"transfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("first", [b"", b"H", b"HTTP/1.1 200 OK\r\ncontent-le", b"HTTP/1.1 100 Continue\r\n\r\n"])
async def test_a_close_before_the_head_is_no_answer(first: bytes, reset: bool) -> None:
    async with Server(_says_and_leaves(first, reset=reset)) as server, pool_to(server.port) as pool:
        answer = await ask(pool)
        assert (answer.kind, answer.calls, pool.active) == ("no_answer", ["error"], 0)


@pytest.mark.parametrize("reset", [False, True])
async def test_a_kept_connection_that_dies_before_the_first_byte_is_reset_reused(reset: bool) -> None:
    async def second_time_never(peer: Peer) -> None:
        await peer.request()
        await peer.say(OK)
        if peer.number:
            await peer.gone()
        await peer.request()
        if reset:
            peer.reset()

    async with Server(second_time_never) as server, pool_to(server.port) as pool:
        assert (await ask(pool)).ended
        answer = await ask(pool)
        assert (answer.kind, answer.calls) == ("reset_reused", ["error"])
        assert (await ask(pool)).ended
        assert server.accepted == 2


async def test_a_kept_connection_that_dies_after_the_first_byte_is_no_answer() -> None:
    async def half_a_head(peer: Peer) -> None:
        await peer.request()
        await peer.say(OK)
        await peer.request()
        await peer.say(b"HTTP/1.1 20")

    async with Server(half_a_head) as server, pool_to(server.port) as pool:
        assert (await ask(pool)).ended
        assert (await ask(pool)).kind == "no_answer"


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize(
    "raw",
    [
        START + b"content-length: 5\r\n\r\nok",
        CHUNKED + b"2\r\nok\r\n",
        CHUNKED + b"5\r\nok",
        CHUNKED + b"2\r\nok\r\n0\r\n",
    ],
)
async def test_a_close_before_the_end_delivers_what_came_and_is_broken_off(raw: bytes, reset: bool) -> None:
    async with Server(_says_and_leaves(raw, reset=reset)) as server, pool_to(server.port) as pool:
        answer = await ask(pool)
        assert (answer.status, answer.body, answer.kind) == (200, b"ok", "broken_off")
        assert answer.error is not None
        assert answer.error.begun
        assert (pool.active, pool.idle) == (0, 0)


async def test_a_body_without_length_that_is_reset_is_broken_off() -> None:
    async with Server(_says_and_leaves(START + b"\r\nok", reset=True)) as server, pool_to(server.port) as pool:
        answer = await ask(pool)
        assert (answer.body, answer.kind) == (b"ok", "broken_off")


async def test_an_idle_connection_that_the_server_closes_leaves_the_pool_at_once() -> None:
    for reset in (False, True):
        async with Server(_says_and_leaves(OK, reset=reset)) as server, pool_to(server.port) as pool:
            assert (await ask(pool)).ended
            await server.all_closed()
            await idle_ones_gone(pool)
            assert pool.take() is None


async def test_no_request_is_lost_to_servers_that_close_idle_connections() -> None:
    """4,000 requests against connections that live 0 to 5 ms after an answer, each reset repeated once."""
    chance = random.Random(7)
    resets = 0

    async def impatient(peer: Peer) -> None:
        await peer.request()
        await peer.say(OK)
        try:
            while True:
                async with asyncio.timeout(chance.random() * 0.005):
                    await peer.request()
                await peer.say(OK)
        except TimeoutError:
            if chance.random() < 0.5:
                peer.reset()

    async def client() -> int:
        nonlocal resets
        for _ in range(500):
            answer = await ask(pool)
            if answer.kind == "reset_reused":
                # As the gateway does it: one free repeat, on a fresh connection.
                resets += 1
                answer = Answer()
                (await pool.connect(2.0)).send(HEAD, BODY, answer)
                await answer.over()
            assert (answer.kind, answer.body) == ("none", b"ok")
            await asyncio.sleep(chance.random() * 0.005)
        return 500

    async with Server(impatient) as server, pool_to(server.port) as pool:
        assert sum(await asyncio.gather(*(client() for _ in range(8)))) == 4000
        assert resets > 0, "the race must have been there to be lost"


async def test_an_answer_that_comes_before_the_request_is_out_is_delivered_and_the_connection_closed() -> None:
    early = b"HTTP/1.1 413 Too Large\r\ncontent-length: 3\r\n\r\nbig"

    async def refuses(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await peer.say(early)
        if peer.number % 2:
            # With unread bytes in its buffer the kernel makes this a reset.
            return
        await asyncio.sleep(10)

    body = b"x" * (8 << 20)
    head = HEAD.replace(b"%d" % len(BODY), b"%d" % len(body))
    async with Server(refuses) as server, pool_to(server.port) as pool:
        for _ in range(10):
            answer = await ask(pool, head=head, body=body)
            assert (answer.status, answer.body, answer.ended) == (413, b"big", True)
            assert (pool.active, pool.idle) == (0, 0)


async def test_a_large_body_arrives_whole() -> None:
    got = b""

    async def takes(peer: Peer) -> None:
        nonlocal got
        got = await peer.request()
        await peer.say(OK)

    body = bytes(range(256)) * (1 << 14)
    head = HEAD.replace(b"%d" % len(BODY), b"%d" % len(body))
    async with Server(takes) as server, pool_to(server.port) as pool:
        connection = await ready(pool)
        answer = Answer()
        connection.send(head, body, answer)
        assert connection.unsent > 0
        assert (await answer.over()).ended
        assert got == body
        assert connection.unsent == 0


async def test_a_connection_that_died_between_connect_and_send_says_so_in_the_next_turn() -> None:
    async def at_once(peer: Peer) -> None:
        peer.reset()

    async with Server(at_once) as server, pool_to(server.port) as pool:
        connection = await pool.connect(1.0)
        await server.all_closed()
        await asyncio.sleep(0.01)
        answer = Answer()
        connection.send(HEAD, BODY, answer)
        assert answer.calls == []
        assert (await answer.over()).kind == "no_answer"
        forgotten = Answer()
        connection.send(HEAD, BODY, forgotten)
        connection.abort()
        await asyncio.sleep(0.01)
        assert forgotten.calls == []
        assert pool.active == 0


async def test_a_body_that_the_server_ends_with_a_close_counts_once() -> None:
    closing = START + b"connection: close\r\ncontent-length: 2\r\n\r\nok"
    async with Server(says_and_closes(closing)) as server, pool_to(server.port) as pool:
        for _ in range(20):
            answer = await ask(pool)
            assert answer.calls == ["head", "data", "end"]
            assert pool.active == 0


def _says_and_leaves(raw: bytes, *, reset: bool):  # type: ignore[no-untyped-def]
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.say(raw)
        # A reset overtakes what the other side has not read yet.
        await asyncio.sleep(0.02)
        if reset:
            peer.reset()

    return script
