"""One client connection: its turns, its limits and its end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.errors import BodyTimeout, FirstByteTimeout, GatewayError, InvalidRequest, ShuttingDown
from gateway.http.request import ClientGone, ClientRequest
from tests.fakes.backend import Backend
from tests.fakes.client import Client, request
from tests.flow.harness import eventually, gateway_with
from tests.gateway.wire import Door, Held, Reader, echo, listening, plain
from tests.pace import Watch

GET = request("GET", "/a")


# -- turns


async def test_a_connection_serves_one_request_after_the_other() -> None:
    async with listening(Door(echo)) as listener, await Client.to(listener.address) as client:
        for number in range(3):
            await client.send(request("POST", f"/{number}", b"body"))
            answer = await client.answer()
            assert (answer.status, answer.body) == (200, b"/%d body" % number)
            assert answer.header("connection") is None
        assert listener.connections == 1


async def test_a_client_that_asks_for_it_has_its_connection_closed() -> None:
    async with listening(Door(echo)) as listener, await Client.to(listener.address) as client:
        await client.send(request("GET", "/a", headers=[("connection", "close")]))
        answer = await client.answer()
        assert answer.header("connection") == "close"
        assert await client.rest() == b""


@pytest.mark.parametrize("cut", [1, 17, 40], ids=lambda cut: f"{cut} bytes at a time")
async def test_a_request_may_come_in_any_pieces(cut: int) -> None:
    data = request("POST", "/a", b"a body of some bytes") * 2
    async with listening(Door(echo)) as listener, await Client.to(listener.address) as client:
        for start in range(0, len(data), cut):
            await client.send(data[start : start + cut])
            await asyncio.sleep(0)
        for _ in range(2):
            assert (await client.answer()).body == b"/a a body of some bytes"


async def test_pipelined_requests_are_answered_in_their_order() -> None:
    held = Held()
    async with listening(door := Door(held)) as listener, await Client.to(listener.address) as client:
        await client.send(b"".join(request("GET", f"/{number}") for number in range(50)))
        await door.opened()
        await asyncio.sleep(0.02)
        assert len(door.cycles) == 1, "the others wait for their turn"
        held.go.set()
        assert [(await client.answer()).body for _ in range(50)] == [b"/%d" % number for number in range(50)]


async def test_thousands_of_pipelined_requests_that_are_answered_on_the_spot_do_not_recurse() -> None:
    async def refuses(cycle: ClientRequest) -> None:
        plain(cycle, b"no", 404)

    count = 5000
    async with listening(Door(refuses)) as listener, await Client.to(listener.address) as client:
        client.writer.write(GET * count)
        for _ in range(count):
            assert (await client.answer()).status == 404


async def test_200_pipelined_requests_without_a_key_are_each_refused_counted_and_logged(backend: Backend) -> None:
    async with gateway_with(backend) as gw, await gw.connect() as client:
        without = gw.chat_request(headers=[("authorization", "")])
        client.writer.write(without * 200 + gw.chat_request(stream=False))
        for _ in range(200):
            assert (await client.answer()).status == 401
        assert (await client.answer()).status == 200
        assert gw.total("requests_total", code="401") == 200


async def test_a_client_that_sends_over_64_kib_ahead_is_not_read_until_its_turn() -> None:
    held = Held()
    async with listening(door := Door(held)) as listener, await Client.to(listener.address) as client:
        await client.send(GET)
        first = await door.opened()
        transport = first.wire.transport
        one = request("POST", "/b", b"x" * 10_000)
        client.writer.write(one * 6)
        await asyncio.sleep(0.05)
        assert transport.is_reading()
        client.writer.write(one * 24)
        await eventually(lambda: not transport.is_reading(), "it is read without end")
        held.go.set()
        bodies = [(await client.answer()).body for _ in range(31)]
        assert bodies == [b"/a"] + [b"/b"] * 30
        await eventually(transport.is_reading, "it is never read again")


# -- what the client is


async def stream_of_three(cycle: ClientRequest) -> None:
    cycle.start(200, [(b"content-type", b"text/event-stream")], length_known=False)
    for part in (b"one", b"two"):
        cycle.write(part)
        await asyncio.wrap_future(asyncio.get_running_loop().run_in_executor(None, lambda: None))
    cycle.finish(b"three")


async def test_an_http_1_1_client_gets_a_stream_in_chunks() -> None:
    async with listening(Door(stream_of_three)) as listener, await Client.to(listener.address) as client:
        for _ in range(2):
            await client.send(GET)
            answer = await client.answer()
            assert (answer.body, answer.framing, answer.end) == (b"onetwothree", "chunked", "complete")


async def test_an_http_1_0_client_gets_an_unframed_stream_and_a_close() -> None:
    async with listening(Door(stream_of_three)) as listener, await Client.to(listener.address) as client:
        await client.send(GET.replace(b"HTTP/1.1", b"HTTP/1.0"))
        answer = await client.answer(method="GET")
        assert (answer.body, answer.framing, answer.end) == (b"onetwothree", "none", "eof")
        assert answer.header("connection") == "close"


@pytest.mark.parametrize("keep", [True, False], ids=["keep-alive", "without a word"])
async def test_an_http_1_0_client_keeps_its_connection_only_if_it_asks(keep: bool) -> None:
    headers = [("connection", "keep-alive")] if keep else []
    data = request("GET", "/a", headers=headers).replace(b"HTTP/1.1", b"HTTP/1.0")
    async with listening(Door(echo)) as listener, await Client.to(listener.address) as client:
        await client.send(data)
        answer = await client.answer()
        assert (answer.body, answer.framing) == (b"/a ", "length")
        if not keep:
            assert await client.rest() == b""
        elif answer.header("connection") == "keep-alive":
            # Saying so is what RFC 9112 (9.3) asks of a server that keeps it; closing is allowed.
            await client.send(data)
            assert (await client.answer()).body == b"/a "


@pytest.mark.parametrize("answer", [echo, stream_of_three], ids=["length", "stream"])
async def test_head_gets_the_head_alone_and_the_connection_serves_on(answer: Any) -> None:
    async with listening(Door(answer)) as listener, await Client.to(listener.address) as client:
        for _ in range(2):
            await client.send(request("HEAD", "/a"))
            status, _ = await client.head()
            assert status == 200
        await client.send(request("GET", "/a", headers=[("connection", "close")]))
        assert (await client.answer()).body
        assert await client.rest() == b""


@pytest.mark.parametrize("status", [204, 304])
async def test_an_answer_without_a_body_by_its_status_has_none(status: int) -> None:
    async def empty(cycle: ClientRequest) -> None:
        cycle.start(status, [], length_known=False)
        cycle.write(b"must not be seen")
        cycle.finish()

    async with listening(Door(empty)) as listener, await Client.to(listener.address) as client:
        for _ in range(2):
            await client.send(GET)
            answer = await client.answer(method="GET")
            assert answer.status == status
            assert answer.header("transfer-encoding") is None


# -- leaving


@pytest.mark.parametrize("how", ["half_close", "close", "reset"])
async def test_a_client_that_leaves_is_told_of_where_its_request_waits(how: str) -> None:
    held = Held()
    async with listening(door := Door(held)) as listener, await Client.to(listener.address) as client:
        await client.send(GET)
        cycle = await door.opened()
        if how == "close":
            client.writer.close()
        else:
            getattr(client, how)()
        await eventually(lambda: held.gone == [cycle], "nobody saw it leave", timeout=0.5)
        assert cycle.disconnected
        await eventually(lambda: listener.connections == 0, "its connection is still open")


async def test_a_client_that_leaves_within_its_body_is_told_of() -> None:
    gone: list[ClientRequest] = []

    async def reads(cycle: ClientRequest) -> None:
        try:
            await cycle.read_body(1 << 20)
        except ClientGone:
            gone.append(cycle)

    async with listening(door := Door(reads)) as listener, await Client.to(listener.address) as client:
        await client.send(request("POST", "/a", b"x" * 1000)[:-1])
        cycle = await door.opened()
        client.half_close()
        await eventually(lambda: gone == [cycle], "the body is still waited for", timeout=0.5)


async def test_an_idle_client_that_leaves_leaves_nothing() -> None:
    async with listening(Door(echo)) as listener:
        async with await Client.to(listener.address) as client:
            await client.send(GET)
            await client.answer()
        await eventually(lambda: listener.connections == 0, "its connection is still open")


# -- time


async def test_an_idle_connection_is_closed_after_keep_alive() -> None:
    async with listening(Door(echo), keep_alive=0.3) as listener, await Client.to(listener.address) as client:
        await asyncio.sleep(0.15)
        await client.send(GET)
        await client.answer()
        answered = Watch()
        assert await client.rest(timeout=2) == b""
        assert answered.within(0.25, 0.8)


async def test_a_client_that_never_sends_a_whole_head_is_closed_after_keep_alive() -> None:
    async with listening(Door(echo), keep_alive=0.3) as listener, await Client.to(listener.address) as client:
        watch = Watch()
        dripping = asyncio.get_running_loop().create_task(drip(client, GET[:-2], 0.05))
        # What it is told (408 or nothing) is the header timeout's business.
        await client.rest(timeout=2)
        assert watch.own < 0.8
        dripping.cancel()


async def drip(client: Client, data: bytes, gap: float) -> None:
    for byte in data:
        client.writer.write(bytes([byte]))
        await asyncio.sleep(gap)


async def test_a_connection_is_not_idle_while_its_request_is_answered() -> None:
    held = Held()
    async with listening(Door(held), keep_alive=0.1) as listener, await Client.to(listener.address) as client:
        await client.send(GET)
        await asyncio.sleep(0.4)
        held.go.set()
        assert (await client.answer()).body == b"/a"


class Keeper:
    """A timekeeper that gives a little more time so often, and then ends the request."""

    def __init__(self, more: int) -> None:
        self.more = more
        self.asked = 0

    def overdue(self, now: float) -> float | GatewayError:
        self.asked += 1
        return 0.1 if self.asked <= self.more else FirstByteTimeout("too slow")


async def test_a_requests_timekeeper_says_when_its_time_is_over() -> None:
    keeper, ended = Keeper(2), list[Watch]()
    loop = asyncio.get_running_loop()

    async def waits(cycle: ClientRequest) -> None:
        cycle.timekeeper = keeper
        cycle.wire.limit(0.1)
        watch = Watch()
        try:
            await loop.create_future()
        except FirstByteTimeout:
            ended.append(watch.stop())
            plain(cycle, b"late", 504)

    async with listening(Door(waits)) as listener, await Client.to(listener.address) as client:
        await client.send(GET)
        assert (await client.answer()).status == 504
        assert keeper.asked == 3
        assert ended[0].within(0.3, 0.8)
        await asyncio.sleep(0.2)
        assert keeper.asked == 3, "the limit ends with its request"


async def test_the_last_word_on_a_limit_counts_whether_it_is_sooner_or_later() -> None:
    loop = asyncio.get_running_loop()
    times: list[Watch] = []

    async def waits(cycle: ClientRequest) -> None:
        cycle.timekeeper = Keeper(0)
        watch = Watch()
        for seconds in (5.0, 0.1, 0.3):
            cycle.wire.limit(seconds)
        try:
            await loop.create_future()
        except FirstByteTimeout:
            times.append(watch.stop())
            plain(cycle, b"late", 504)

    async with listening(Door(waits)) as listener, await Client.to(listener.address) as client:
        await client.send(GET)
        assert (await client.answer()).status == 504
        assert times[0].within(0.3, 0.6)


class Flood:
    """Writes while its client reads, without end."""

    def __init__(self) -> None:
        self.gone: list[ClientRequest] = []
        self.written = 0
        self.pump = Reader()

    async def __call__(self, cycle: ClientRequest) -> None:
        loop = asyncio.get_running_loop()
        cycle.start(200, [], length_known=False)
        cycle.attach_source(self.pump)
        try:
            while True:
                cycle.write(b"x" * 65536)
                self.written += 65536
                resumed = loop.create_task(self.pump.resumed.wait() if self.pump.paused else asyncio.sleep(0))
                try:
                    await resumed
                finally:
                    resumed.cancel()
        except ClientGone:
            self.gone.append(cycle)
        except ShuttingDown:
            cycle.cut()


async def test_a_client_that_reads_nothing_pauses_what_feeds_it_and_is_given_up() -> None:
    flood, passed = Flood(), list[str]()
    async with listening(door := Door(flood), write_timeout=0.4, timed_out=passed.append) as listener:
        async with await Client.to(listener.address) as client:
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]
            await client.send(GET)
            cycle = await door.opened()
            await eventually(lambda: flood.pump.paused, "it is written to without end")
            assert cycle.wire.transport.get_write_buffer_size() <= 2 * 65536 + 1024
            watch = Watch()
            await eventually(lambda: flood.gone == [cycle], "it was never given up")
            assert watch.within(0.3, 1.0)
            assert cycle.stalled
            assert passed == ["write"]


async def test_without_a_write_timeout_a_client_may_pause_as_long_as_it_likes() -> None:
    flood = Flood()
    async with listening(Door(flood), write_timeout=None) as listener, await Client.to(listener.address) as client:
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await client.send(GET)
        await eventually(lambda: flood.pump.paused, "it is written to without end")
        await asyncio.sleep(0.3)
        assert flood.gone == []
        client.reset()
        await eventually(lambda: len(flood.gone) == 1, "nobody saw it leave")


async def test_what_feeds_a_slow_client_goes_on_once_it_reads() -> None:
    flood = Flood()
    async with listening(Door(flood), write_timeout=5.0) as listener, await Client.to(listener.address) as client:
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await client.send(GET)
        await eventually(lambda: flood.pump.paused, "it is written to without end")
        written = flood.written
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]

        async def read() -> None:
            while True:
                await client.reader.read(1 << 16)

        reading = asyncio.get_running_loop().create_task(read())
        await eventually(lambda: flood.written > written + (1 << 20), "it never goes on")
        reading.cancel()
        client.reset()
        await eventually(lambda: len(flood.gone) == 1, "nobody saw it leave")


async def test_an_answer_that_follows_one_which_is_not_read_yet_is_held_back_too() -> None:
    """The transport tells of a full buffer once: whoever comes to write next must not take it for an empty one."""
    flood = Flood()

    async def answer(cycle: ClientRequest) -> None:
        if cycle.raw_path == b"/flood":
            await flood(cycle)
            return
        cycle.start(200, [], length_known=False)
        cycle.attach_source(first := Reader())
        while not first.paused:
            cycle.write(b"x" * 65536)
        cycle.finish()

    async with listening(door := Door(answer)) as listener, await Client.to(listener.address) as client:
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await client.send(GET + request("GET", "/flood"))
        cycle = await door.opened()
        await asyncio.sleep(0.1)
        assert cycle.wire.transport.get_write_buffer_size() <= 4 * 65536
        client.reset()
        await eventually(lambda: listener.connections == 0, "its connection is still open")


# -- what is no request


async def test_a_head_over_max_head_is_431_and_a_close() -> None:
    async with listening(Door(echo), max_head=1024) as listener, await Client.to(listener.address) as client:
        await client.send(request("GET", "/a", headers=[("x-h", "v" * 2000)]))
        answer = await client.answer()
        assert (answer.status, answer.error["code"]) == (431, "headers_too_large")
        assert answer.header("connection") == "close"
        assert await client.rest() == b""


async def test_a_head_under_max_head_passes_whatever_body_follows() -> None:
    async with listening(Door(echo), max_head=1024) as listener, await Client.to(listener.address) as client:
        for _ in range(2):
            body = b"x" * 100_000
            await client.send(request("POST", "/a", body, [("x-h", "v" * 800)]))
            assert (await client.answer()).body == b"/a " + body


async def test_pipelined_heads_are_measured_one_by_one() -> None:
    held = Held()
    async with listening(door := Door(held), max_head=1024) as listener, await Client.to(listener.address) as client:
        one = request("GET", "/a", headers=[("x-h", "v" * 600)])
        await client.send(one)
        await door.opened()
        await client.send(one * 20)
        await asyncio.sleep(0.02)
        held.go.set()
        for _ in range(21):
            assert (await client.answer()).status == 200


async def test_a_second_head_without_end_is_refused_too() -> None:
    async with listening(Door(echo), max_head=1024) as listener, await Client.to(listener.address) as client:
        await client.send(GET)
        assert (await client.answer()).status == 200
        for _ in range(5):
            await client.send(b"GET /b HTTP/1.1\r\nx-h: " + b"v" * 300)
        assert (await client.answer()).status == 431


@pytest.mark.parametrize(
    "data",
    [b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", b"GET\r\n\r\n", b"GET /a HTTP/9.9\r\n\r\n", b"\0\0\0\0\r\n\r\n"],
    ids=["TLS", "half a line", "HTTP/9.9", "NUL"],
)
async def test_what_is_no_http_is_400_in_our_shape_and_a_close(data: bytes) -> None:
    async with listening(door := Door(echo)) as listener, await Client.to(listener.address) as client:
        await client.send(data)
        answer = await client.answer()
        assert answer.status in (400, 505)
        assert set(answer.error) == {"message", "type", "param", "code"}
        assert await client.rest() == b""
        assert door.cycles == []


@pytest.mark.parametrize("first", [b"", b"more"], ids=["nothing", "something"])
async def test_a_refused_client_that_sends_no_more_is_cut_after_a_pause_although_it_never_closes(first: bytes) -> None:
    async with listening(Door(echo), linger_pause=0.1) as listener, await Client.to(listener.address) as client:
        await client.send(b"no HTTP\r\n\r\n")
        assert (await client.answer()).status == 400
        await client.send(first)
        await eventually(lambda: listener.connections == 0, "it is kept", timeout=1)


async def test_a_refused_client_that_still_sends_is_listened_to() -> None:
    async with listening(Door(echo), linger_pause=0.2) as listener, await Client.to(listener.address) as client:
        await client.send(b"no HTTP\r\n\r\n")
        for _ in range(12):
            await client.send(b"more")
            await asyncio.sleep(0.05)
        assert listener.connections == 1
        assert (await client.answer()).status == 400


async def test_what_follows_a_good_request_does_not_take_its_answer_away() -> None:
    async with listening(Door(echo)) as listener, await Client.to(listener.address) as client:
        await client.send(GET + b"\x16\x03\x01 no HTTP\r\n\r\n")
        assert (await client.answer()).body == b"/a "
        answer = await client.answer()
        assert answer.status == 400
        assert await client.rest() == b""


async def test_a_control_route_that_fails_is_500_in_our_shape() -> None:
    async def fails(scope: Any, receive: Any, send: Any) -> None:
        raise ZeroDivisionError("a secret detail")

    async with listening(Door(None), app=fails) as listener, await Client.to(listener.address) as client:
        await client.send(GET)
        answer = await client.answer()
        assert (answer.status, answer.error["code"]) == (500, "internal_error")
        assert b"secret" not in answer.body


async def test_empty_lines_before_a_request_are_passed_over() -> None:
    """RFC 9112 section 2.2: some clients end a body with an empty line too many."""
    async with listening(Door(echo)) as listener, await Client.to(listener.address) as client:
        for lead in (b"\r\n", b"\r\n\r\n"):
            await client.send(lead + request("POST", "/a", b"x"))
            assert (await client.answer()).body == b"/a x"
        await client.send(b"\r\n")
        await client.send(request("POST", "/a", b"y"))
        assert (await client.answer()).body == b"/a y"


# -- a head or a body that does not come


async def test_a_head_that_is_not_whole_in_time_is_408_and_a_close() -> None:
    passed: list[str] = []
    async with listening(door := Door(echo), header_timeout=0.3, timed_out=passed.append) as listener:
        async with await Client.to(listener.address) as client:
            watch = Watch()
            dripping = asyncio.get_running_loop().create_task(drip(client, request("GET", "/v1/slow")[:-2], 0.02))
            answer = await client.answer()
            assert (answer.status, answer.error["code"]) == (408, "header_timeout")
            assert answer.header("connection") == "close"
            assert watch.within(0.25, 0.8)
            dripping.cancel()
            assert await client.rest() == b""
        assert passed == ["header"]
        assert door.cycles == []
        assert door.refused == [(b"/v1/slow", "header_timeout")]


async def test_a_later_head_has_its_time_from_its_first_byte() -> None:
    async with (
        listening(door := Door(echo), header_timeout=0.3) as listener,
        await Client.to(listener.address) as client,
    ):
        for _ in range(2):
            await client.send(GET)
            assert (await client.answer()).status == 200
            # Idle is not late.
            await asyncio.sleep(0.4)
        watch = Watch()
        await client.send(GET[:-2])
        answer = await client.answer()
        assert (answer.status, answer.error["code"]) == (408, "header_timeout")
        assert watch.within(0.25, 0.7)
        assert len(door.cycles) == 2


async def test_a_slow_head_does_not_shorten_the_time_of_the_next_one() -> None:
    async with listening(Door(echo), header_timeout=0.4) as listener, await Client.to(listener.address) as client:
        for _ in range(4):
            await client.send(GET[:-2])
            await asyncio.sleep(0.2)
            await client.send(GET[-2:])
            assert (await client.answer()).status == 200


async def test_a_pipelined_head_has_its_time_from_its_turn() -> None:
    held = Held()
    async with (
        listening(door := Door(held), header_timeout=0.3) as listener,
        await Client.to(listener.address) as client,
    ):
        await client.send(GET + GET[:-2])
        await door.opened()
        await asyncio.sleep(0.5)
        held.go.set()
        assert (await client.answer()).status == 200
        await client.send(GET[-2:])
        assert (await client.answer()).status == 200


async def test_a_pipelined_head_that_is_never_whole_is_408_at_its_turn() -> None:
    held = Held()
    async with (
        listening(door := Door(held), header_timeout=0.3) as listener,
        await Client.to(listener.address) as client,
    ):
        await client.send(GET)
        await door.opened()
        await client.send(GET[:-2])
        await asyncio.sleep(0.05)
        held.go.set()
        assert (await client.answer()).status == 200
        assert (await client.answer()).status == 408


async def test_a_connection_that_never_sends_a_byte_is_just_closed() -> None:
    passed: list[str] = []
    async with listening(door := Door(echo), header_timeout=0.2, timed_out=passed.append) as listener:
        async with await Client.to(listener.address) as client:
            assert await client.rest(timeout=1) == b""
    assert (passed, door.refused) == ([], [])


async def test_without_a_header_timeout_a_head_may_take_as_long_as_a_connection_may_idle() -> None:
    async with listening(Door(echo), header_timeout=None, keep_alive=0.6) as listener:
        async with await Client.to(listener.address) as client:
            await client.send(GET[:-2])
            await asyncio.sleep(0.3)
            await client.send(GET[-2:])
            assert (await client.answer()).status == 200
            await client.send(GET[:-2])
            assert (await client.answer()).status == 408


async def test_a_body_that_is_not_whole_in_time_is_thrown_into_its_request() -> None:
    passed: list[str] = []

    async def reads(cycle: ClientRequest) -> None:
        try:
            await cycle.read_body(1 << 20)
        except BodyTimeout as error:
            plain(cycle, error.code.encode(), 408)

    async with listening(Door(reads), body_timeout=0.3, timed_out=passed.append) as listener:
        async with await Client.to(listener.address) as client:
            watch = Watch()
            dripping = asyncio.get_running_loop().create_task(drip(client, request("POST", "/a", b"x" * 1000), 0.001))
            answer = await client.answer()
            assert (answer.status, answer.body) == (408, b"body_timeout")
            assert answer.header("connection") == "close"
            assert watch.within(0.25, 1.5)
            dripping.cancel()
        assert passed == ["body"]


async def test_the_time_of_a_body_ends_with_it_and_begins_anew_with_the_next() -> None:
    data = request("POST", "/a", b"x" * 10)
    async with listening(Door(echo), body_timeout=0.4) as listener, await Client.to(listener.address) as client:
        for _ in range(4):
            await client.send(data[:-5])
            await asyncio.sleep(0.2)
            await client.send(data[-5:])
            assert (await client.answer()).status == 200


async def test_a_request_whose_body_came_is_not_ended_by_the_time_of_its_body() -> None:
    async def slowly(cycle: ClientRequest) -> None:
        body = await cycle.read_body(100)
        await asyncio.get_running_loop().create_task(asyncio.sleep(0.4))
        plain(cycle, body)

    data = request("POST", "/a", b"x" * 10)
    async with listening(Door(slowly), body_timeout=0.2) as listener, await Client.to(listener.address) as client:
        await client.send(data[:-5])
        await asyncio.sleep(0.05)
        await client.send(data[-5:])
        assert (await client.answer()).status == 200


async def test_a_control_route_that_reads_a_body_has_it_in_time_or_never() -> None:
    ended: list[str] = []

    async def route(scope: Any, receive: Any, send: Any) -> None:
        while (message := await receive())["type"] == "http.request" and message["more_body"]:
            pass
        ended.append(message["type"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"never"})

    async with listening(Door(None), app=route, body_timeout=0.2) as listener:
        async with await Client.to(listener.address) as client:
            await client.send(request("POST", "/a", b"x" * 10)[:-5])
            answer = await client.answer()
            assert (answer.status, answer.error["code"]) == (408, "body_timeout")
            assert await client.rest() == b""
        assert ended == ["http.disconnect"]


async def test_a_body_that_cannot_be_read_is_thrown_into_its_request() -> None:
    async def reads(cycle: ClientRequest) -> None:
        try:
            await cycle.read_body(1 << 20)
        except InvalidRequest:
            plain(cycle, b"as the door says it", 400)

    head = request("POST", "/a", None, [("transfer-encoding", "chunked")])
    async with listening(Door(reads)) as listener, await Client.to(listener.address) as client:
        await client.send(head + b"5\r\nhello\r\n")
        await asyncio.sleep(0.02)
        await client.send(b"no chunk\r\n")
        answer = await client.answer()
        assert (answer.status, answer.body) == (400, b"as the door says it")
        assert await client.rest() == b""


async def test_a_head_with_a_body_that_cannot_be_read_is_refused_by_the_door() -> None:
    head = request("POST", "/a", None, [("transfer-encoding", "chunked")])
    async with listening(door := Door(echo)) as listener, await Client.to(listener.address) as client:
        await client.send(head + b"no chunk\r\n" + GET)
        assert (await client.answer()).status == 400
        assert await client.rest() == b""
        assert (door.cycles, door.refused) == ([], [(b"/a", "invalid_request")])


async def test_without_a_door_a_refusal_has_openais_shape() -> None:
    async with listening(None, header_timeout=0.2) as listener:
        for data, status in ((GET[:-2], 408), (b"nothing\r\n\r\n", 400), (GET.replace(b"host", b"other"), 400)):
            async with await Client.to(listener.address) as client:
                await client.send(data)
                answer = await client.answer()
                assert answer.status == status
                assert set(answer.error) == {"message", "type", "param", "code"}
                assert await client.rest() == b""
