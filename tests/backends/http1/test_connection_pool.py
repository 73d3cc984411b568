"""Which connections are kept, for how long, and which one is taken."""

import asyncio
from collections.abc import Callable

import pytest

from backends.http1.connection_pool import ConnectionPool
from backends.http1.interface import Origin
from backends.http1.timer_wheel import TimerWheel
from tests.backends.http1.rig import BODY, HEAD, OK, Answer, Server, ask, pool_to, says
from tests.backends.http1.test_timer_wheel import FakeLoop


def kept(seconds: str) -> bytes:
    return OK.replace(b"\r\n\r\n", b"\r\nkeep-alive: max=9, timeout=%b\r\n\r\n" % seconds.encode())


def pool_with(clock: FakeLoop, port: int, keep_alive: float = 4.0) -> ConnectionPool:
    return ConnectionPool(Origin("127.0.0.1", port), keep_alive=keep_alive, wheel=TimerWheel(clock))


async def test_the_newest_idle_connection_is_taken_first() -> None:
    async with Server(says(OK)) as server, pool_to(server.port) as pool:
        three = [await pool.connect(1.0) for _ in range(3)]
        assert (pool.active, pool.idle) == (3, 0)
        for connection in three:
            answer = Answer()
            connection.send(HEAD, BODY, answer)
            await answer.over()
        assert (pool.active, pool.idle) == (0, 3)
        taken = [pool.take() for _ in range(4)]
        assert taken == [*reversed(three), None]
        assert (pool.active, pool.idle) == (3, 0)
        assert all(connection.reused for connection in three)
        for connection in three:
            connection.abort()


async def test_a_new_connection_is_not_reused() -> None:
    async with Server(says(OK)) as server, pool_to(server.port) as pool:
        connection = await pool.connect(1.0)
        assert not connection.reused
        connection.abort()


@pytest.mark.parametrize(
    ("answer", "limit"),
    [(OK, 4.0), (kept("5"), 4.0), (kept("60"), 4.0), (kept("2"), 1.6), (kept("1"), 0.8), (kept("x"), 4.0)],
    ids=["no word", "timeout=5", "timeout=60", "timeout=2", "timeout=1", "nonsense"],
)
async def test_an_idle_connection_is_kept_for_our_limit_or_less_if_the_server_says_so(
    answer: bytes, limit: float
) -> None:
    clock = FakeLoop()
    async with Server(says(answer)) as server:
        pool = pool_with(clock, server.port)
        await ask(pool)
        clock.now += limit - 0.01
        await ask(pool)
        assert server.accepted == 1
        clock.now += limit
        assert pool.take() is None
        assert (pool.active, pool.idle) == (0, 0)
        await server.all_closed()


async def test_a_connection_that_has_idled_too_long_is_closed_without_being_asked_for() -> None:
    clock = FakeLoop()
    async with Server(says(OK, OK, kept("1"))) as server:
        pool = pool_with(clock, server.port)
        await ask(pool)
        clock.advance(3.0)
        other = await pool.connect(1.0)
        for _ in range(3):
            answer = Answer()
            other.send(HEAD, BODY, answer)
            await answer.over()
            other = pool.take() or other
        other.abort()
        assert pool.idle == 1
        clock.advance(0.9)
        assert pool.idle == 1
        clock.advance(0.2)
        assert pool.idle == 0
        await server.all_closed()
        assert clock.timers == 0, "no timer while nothing idles"


async def test_a_shorter_limit_of_a_later_connection_is_kept_too() -> None:
    clock = FakeLoop()
    async with Server(says(OK, kept("1"))) as server:
        pool = pool_with(clock, server.port)
        one, two = await pool.connect(1.0), await pool.connect(1.0)
        for connection in (one, two, two):
            if connection.reused:
                assert pool.take() is connection
            answer = Answer()
            connection.send(HEAD, BODY, answer)
            await answer.over()
        clock.advance(0.9)
        assert pool.idle == 1
        clock.advance(3.2)
        assert pool.idle == 0


async def test_keep_alive_0_keeps_nothing() -> None:
    async with Server(says(OK)) as server, pool_to(server.port, keep_alive=0.0) as pool:
        await ask(pool)
        assert (pool.active, pool.idle) == (0, 0)
        await server.all_closed()


async def test_close_ends_idle_connections_now_and_busy_ones_after_their_exchange() -> None:
    async with Server(says(OK)) as server, pool_to(server.port) as pool:
        busy, idle = await pool.connect(1.0), await pool.connect(1.0)
        warm, answer = Answer(), Answer()
        idle.send(HEAD, BODY, warm)
        await warm.over()
        busy.send(HEAD, BODY, answer)
        pool.close()
        assert (pool.active, pool.idle) == (1, 0)
        assert (await answer.over()).ended
        assert (pool.active, pool.idle) == (0, 0)
        await server.all_closed()


@pytest.mark.parametrize(
    ("origin", "authority"),
    [
        (Origin("10.0.0.1", 8000), b"10.0.0.1:8000"),
        (Origin("engine", 80), b"engine"),
        (Origin("::1", 8000), b"[::1]:8000"),
        (Origin("::1", 80), b"[::1]"),
        (Origin("bücher.example", 8000), b"xn--bcher-kva.example:8000"),
    ],
)
def test_the_host_header_is_that_of_the_origin(origin: Origin, authority: bytes) -> None:
    assert origin.authority == authority


async def test_many_at_once_share_one_buffer_and_no_bytes() -> None:
    answers = [
        b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size + bytes([65 + size % 26]) * size for size in range(50)
    ]
    make: Callable[[int], bytes] = answers.__getitem__
    numbers = iter(range(50))

    async def script(peer):  # type: ignore[no-untyped-def]
        await peer.request()
        await peer.say(make(next(numbers)) * 1)
        await peer.gone()

    async with Server(script) as server, pool_to(server.port) as pool:
        got = await asyncio.gather(*(ask(pool) for _ in range(50)))
        assert sorted(len(answer.body) for answer in got) == list(range(50))
        assert all(len(set(answer.body)) <= 1 for answer in got)
