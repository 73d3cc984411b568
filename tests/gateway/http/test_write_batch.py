"""What becomes ready in one turn leaves together; what has been taken back by then does not leave."""

import asyncio

from backends.http1.connection_pool import ConnectionPool
from backends.http1.interface import Headers, Origin, UpstreamError
from backends.http1.timer_wheel import TimerWheel
from gateway.http.write_batch import WriteBatch
from tests.fakes.backend import Backend
from tests.flow.harness import gateway_with


class Answer:
    """A sink that remembers how its exchange ended."""

    last_at = 0.0

    def __init__(self) -> None:
        self.over = asyncio.Event()
        self.status = 0
        self.error: UpstreamError | None = None

    def on_head(self, status: int, headers: Headers) -> None:
        self.status = status

    def on_data(self, data: bytes) -> None:
        pass

    def on_end(self) -> None:
        self.over.set()

    def on_error(self, error: UpstreamError) -> None:
        self.error = error
        self.over.set()


HEAD = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"


def _pool(backend: Backend) -> ConnectionPool:
    wheel = TimerWheel(asyncio.get_running_loop())
    return ConnectionPool(Origin("127.0.0.1", backend.port), keep_alive=4.0, wheel=wheel)


async def test_a_request_leaves_at_the_end_of_the_turn() -> None:
    async with Backend() as backend:
        backend.answers(200)
        pool, outbox, answer = _pool(backend), WriteBatch(asyncio.get_running_loop()), Answer()
        connection = await pool.connect(2.0)
        outbox.request(connection, HEAD, b"", answer, head_request=False)
        await asyncio.wait_for(answer.over.wait(), 15.0)
        assert (answer.status, answer.error) == (200, None)
        pool.close()


async def test_a_connection_that_was_given_up_in_the_same_turn_sends_nothing() -> None:
    async with Backend() as backend:
        backend.answers(200)
        pool, outbox, answer = _pool(backend), WriteBatch(asyncio.get_running_loop()), Answer()
        connection = await pool.connect(2.0)
        outbox.request(connection, HEAD, b"", answer, head_request=False)
        connection.abort()
        await asyncio.sleep(0.05)
        assert backend.requests == []
        assert not answer.over.is_set()
        assert pool.active == 0


async def test_a_client_that_leaves_in_the_turn_of_its_request_reaches_no_engine() -> None:
    async with Backend() as backend, gateway_with(backend) as gw:
        backend.answers(200)
        client = await gw.connect()
        await client.send(gw.chat_request())
        client.reset()
        await asyncio.sleep(0.1)
        assert gw.gateway.plane.in_flight == 0
        assert gw.gateway.plane.active_connections == 0


async def test_one_request_that_cannot_be_written_holds_no_other_back() -> None:
    async with Backend() as backend:
        await _one_fails(backend)


async def _one_fails(backend: Backend) -> None:
    backend.answers(200)
    pool, outbox, deaf, answer = _pool(backend), WriteBatch(asyncio.get_running_loop()), Answer(), Answer()
    first, second = await pool.connect(2.0), await pool.connect(2.0)
    # No transport takes a text for bytes.
    outbox.request(first, "text", b"", deaf, head_request=False)  # type: ignore[arg-type]
    outbox.request(second, HEAD, b"", answer, head_request=False)
    await asyncio.wait_for(answer.over.wait(), 15.0)
    assert (answer.status, answer.error) == (200, None)
    assert deaf.error is not None and deaf.error.kind == "no_answer"
    pool.close()
