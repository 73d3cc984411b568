"""HTTP/1.1 by hand: what a strict client may send is understood, what is broken is refused, and connections are
kept as uvicorn does.
"""

import asyncio

import pytest

from backends.simulator.server import Simulator
from backends.simulator.settings import SimulatorSettings
from tests.backends.simulator.raw import CHAT, HI, Client, ask
from tests.pace import Watch

BODY = b'{"model":"simulator","messages":[{"role":"user","content":"hi"}]}'


async def test_connection_is_kept_and_closed_when_idle() -> None:
    async with Simulator(SimulatorSettings(keep_alive=0.2)) as sim, await Client.to(sim.port) as client:
        for _ in range(3):
            client.send(HI)
            assert (await client.answer()).status == 200
            await asyncio.sleep(0.05)
        watch = Watch()
        assert await client.closed()
        assert watch.within(0.1, 1)


async def test_keep_alive_is_vllms_five_seconds_unless_told() -> None:
    assert SimulatorSettings().keep_alive == 5.0


async def test_connection_close_is_obeyed_and_said(sim: Simulator) -> None:
    async with await Client.to(sim.port) as client:
        client.send(HI, headers={"connection": "close"})
        answer = await client.answer()
        assert answer.headers["connection"] == "close"
        assert await client.closed()


async def test_http_10_gets_its_answer_and_the_end_of_the_connection(sim: Simulator) -> None:
    async with await Client.to(sim.port) as client:
        client.writer.write(b"GET /health HTTP/1.0\r\n\r\n")
        assert (await client.head())[0] == 200
        assert await client.closed()


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with Simulator(SimulatorSettings(tokens=3, gap=0.02)) as sim, await Client.to(sim.port) as client:
        for number in range(20):
            client.send(HI | {"stream": number % 2 == 0}, headers={"x-request-id": str(number)})
        for number in range(20):
            answer = await client.answer()
            rows = answer.data[0] if number % 2 == 0 else answer.json
            assert rows["id"] == f"chatcmpl-{number}"


async def test_a_thousand_pipelined_requests_do_not_nest(sim: Simulator) -> None:
    async with await Client.to(sim.port) as client:
        client.writer.write(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n" * 1500)
        for _ in range(1500):
            assert (await client.head())[0] == 200


async def test_chunked_and_byte_by_byte_requests_are_read(sim: Simulator) -> None:
    async with await Client.to(sim.port) as client:
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        client.writer.write(
            head + b"transfer-encoding: chunked\r\n\r\n%x;ext=1\r\n%b\r\n0\r\nt: v\r\n\r\n" % (len(BODY), BODY)
        )
        assert (await client.answer()).status == 200
        for byte in head + b"content-length: %d\r\n\r\n" % len(BODY) + BODY:
            client.writer.write(bytes([byte]))
            await client.writer.drain()
        assert (await client.answer()).status == 200


async def test_expectation_is_answered_before_the_body(sim: Simulator) -> None:
    async with await Client.to(sim.port) as client:
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        client.writer.write(head + b"expect: 100-continue\r\ncontent-length: %d\r\n\r\n" % len(BODY))
        assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.writer.write(BODY)
        assert (await client.answer()).status == 200


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x16\x03\x01\x00\xa5\x01\x00\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost x\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"a" * 70_000 + b"\r\n\r\n", 431),
    ],
)
async def test_what_is_not_http_is_refused_and_closed(sim: Simulator, sent: bytes, status: int) -> None:
    async with asyncio.timeout(5), await Client.to(sim.port) as client:
        client.writer.write(sent)
        answer = await client.answer()
        assert answer.status == status
        assert await client.reader.read() == b""


async def test_upgrade_is_not_spoken_of_and_ends_the_connection(sim: Simulator) -> None:
    async with await Client.to(sim.port) as client:
        client.writer.write(b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n")
        assert (await client.answer()).status == 200
        assert await client.closed()


async def test_query_is_no_part_of_the_path(sim: Simulator) -> None:
    assert (await ask(sim.port, HI, CHAT + "?a=b")).status == 200
    assert sim.requests[0].query == "a=b"


async def test_requests_are_kept_for_the_test_to_look_at(sim: Simulator) -> None:
    await ask(sim.port, HI, headers={"X-Trace": "abc"})
    (request,) = sim.requests
    assert (request.method, request.path, request.headers["x-trace"]) == ("POST", CHAT, "abc")
    assert b"Say hello" in request.body
    assert sim.received == 1


async def test_leaving_the_context_closes_everything() -> None:
    async with Simulator(SimulatorSettings(first_byte=30)) as sim:
        client = await Client.to(sim.port)
        client.send(HI)
        await sim.until(lambda: sim.running == 1)
        port = sim.port
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await client.head()
    with pytest.raises(ConnectionRefusedError):
        await Client.to(port)
    await client.close()


async def test_taken_port_is_an_os_error(sim: Simulator) -> None:
    with pytest.raises(OSError, match="in use"):
        async with Simulator(SimulatorSettings(port=sim.port)):
            pass
