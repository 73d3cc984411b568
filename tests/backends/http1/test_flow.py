"""Back-pressure, leaving early, and a sink that does things from inside its own calls."""

import asyncio
from pathlib import Path

import pytest

from backends.http1.connection import READ_SIZE, UpstreamConnection
from backends.http1.connection_pool import ConnectionPool
from backends.http1.tls import TlsSettings
from tests.backends.http1.rig import BODY, HEAD, OK, Answer, Peer, Server, ask, pool_to, ready, says
from tests.fakes.certificates import Authority
from tests.pace import Watch

START = b"HTTP/1.1 200 OK\r\n"
MUCH = b"0123456789abcdef" * (1 << 16)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_pause_lets_one_read_more_through_and_resume_loses_nothing(tls: bool, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    settings = TlsSettings(ca=str(authority.ca)) if tls else None
    raw = START + b"content-length: %d\r\n\r\n" % len(MUCH) + MUCH
    async with Server(says(raw), authority.server() if tls else None) as server:
        async with pool_to(server.port, tls=settings) as pool:
            connection = await ready(pool)
            answer = Answer(lambda call: connection.pause() if call == "data" and len(answer.reads) == 1 else None)
            connection.send(HEAD, BODY, answer)
            await asyncio.sleep(0.1)
            assert 0 < len(answer.body) <= READ_SIZE
            connection.resume()
            await answer.over()
            assert answer.body == MUCH
            assert max(map(len, answer.reads)) <= READ_SIZE
            assert pool.idle == 1


@pytest.mark.parametrize("complete", [True, False])
async def test_what_a_peer_said_before_it_closed_comes_in_order_after_a_pause(complete: bool) -> None:
    said = MUCH[:200_000]
    length = len(said) if complete else len(said) + 1

    async def says_and_leaves(peer: Peer) -> None:
        await peer.request()
        await peer.say(START + b"content-length: %d\r\n\r\n" % length + said)

    async with Server(says_and_leaves) as server, pool_to(server.port) as pool:
        connection = await ready(pool)
        answer = Answer(lambda call: connection.pause() if call == "head" else None)
        connection.send(HEAD, BODY, answer)
        await server.all_closed()
        await asyncio.sleep(0.05)
        assert answer.calls[0] == "head"
        assert not {"end", "error"} & set(answer.calls)
        connection.resume()
        await answer.over()
        assert (answer.body, answer.ended) == (said, complete)
        assert answer.kind == ("none" if complete else "broken_off")


async def test_a_connection_paused_at_its_end_reads_again_in_the_pool() -> None:
    async with Server(says(OK)) as server, pool_to(server.port) as pool:
        for _ in range(3):
            connection = await ready(pool)
            answer = Answer(lambda call, paused=connection: paused.pause() if call == "data" else None)  # type: ignore[misc]
            connection.send(HEAD, BODY, answer)
            assert (await answer.over()).ended
        assert server.accepted == 1


@pytest.mark.parametrize("at", ["head", "data"])
async def test_abort_inside_a_call_is_the_last_that_the_sink_hears(at: str) -> None:
    async with Server(says(OK)) as server, pool_to(server.port) as pool:
        connection = await ready(pool)
        answer = Answer(lambda call: connection.abort() if call == at else None)
        connection.send(HEAD, BODY, answer)
        await server.all_closed()
        assert answer.calls == ["head", "data"][: 1 + (at == "data")]
        assert (pool.active, pool.idle) == (0, 0)
        connection.abort()
        connection.pause()
        connection.resume()


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_abort_closes_the_socket_within_100_ms_in_every_phase(tls: bool, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    settings = TlsSettings(ca=str(authority.ca)) if tls else None

    async def slow(peer: Peer) -> None:
        await peer.request()
        await peer.say(START + b"content-length: 9\r\n\r\n")
        await peer.gone()

    server_tls = authority.server() if tls else None
    async with Server(slow, server_tls) as server, pool_to(server.port, tls=settings) as pool:
        for wait in (0, 0.0005, 0.05):
            connection = await ready(pool)
            answer = Answer()
            connection.send(HEAD, BODY, answer)
            await asyncio.sleep(wait)
            begun = Watch()
            connection.abort()
            assert pool.active == 0
            await server.all_closed()
            assert begun.own < 0.1
            assert "end" not in answer.calls
            assert "error" not in answer.calls


async def test_the_connection_serves_the_next_exchange_from_inside_on_end() -> None:
    """The pool has it back before `on_end` is called."""
    later = Answer()

    def next_one(call: str) -> None:
        if call == "end":
            assert (pool.active, pool.idle) == (0, 1)
            again = pool.take()
            assert again is connection
            again.send(HEAD, BODY, later)

    async with Server(says(OK)) as server, pool_to(server.port) as pool:
        connection = await ready(pool)
        first = Answer(next_one)
        connection.send(HEAD, BODY, first)
        assert (await later.over()).body == b"ok"
        assert first.calls == ["head", "data", "end"]
        assert (server.accepted, connection.reused) == (1, True)


async def test_a_sink_that_fails_closes_its_connection_alone() -> None:
    problems: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context["exception"]))

    def fails(call: str) -> None:
        if call == "data":
            raise RuntimeError("a bug of the sink")

    async with Server(says(OK)) as server, pool_to(server.port) as pool:
        answer = Answer(fails)
        (await ready(pool)).send(HEAD, BODY, answer)
        await answer.over()
        assert (answer.calls, pool.active) == (["head", "data", "error"], 0)
        assert (await ask(pool)).ended
        assert [str(problem) for problem in problems] == ["a bug of the sink"]


async def test_two_thousand_aborts_leave_nothing() -> None:
    async def mute(peer: Peer) -> None:
        await peer.request()
        await peer.gone()

    async def one(pool: ConnectionPool, turn: int) -> None:
        connection: UpstreamConnection = await pool.connect(5.0)
        if turn % 3:
            connection.send(HEAD, BODY, Answer())
        if turn % 2:
            await asyncio.sleep(0)
        connection.abort()

    async with Server(mute) as server, pool_to(server.port) as pool:
        for start in range(0, 2000, 100):
            await asyncio.gather(*(one(pool, start + n) for n in range(100)))
        assert (pool.active, pool.idle) == (0, 0)
        await server.all_closed()
