"""What is made to go wrong goes wrong exactly so, byte for byte, on the wire; and nothing stays behind afterwards."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from backends.simulator.server import Simulator
from backends.simulator.settings import SimulatorSettings
from tests.backends.simulator.raw import CHAT, HI, Client, ask

STREAM = HI | {"stream": True}


@pytest.fixture
async def sim() -> AsyncIterator[Simulator]:
    """Ids are fixed, so what comes through a fault can be held against what comes without."""
    async with Simulator(SimulatorSettings(tokens=4, fixed_ids=True)) as one:
        yield one
        await one.until(lambda: (one.running, one.waiting) == (0, 0))


async def whole(sim: Simulator, body: Any) -> bytes:
    return (await ask(sim.port, body)).body


async def test_reset_before_any_byte(sim: Simulator) -> None:
    sim.fault("reset_before", times=1)
    async with await Client.to(sim.port) as client:
        client.send(HI)
        with pytest.raises(ConnectionResetError):
            await client.reader.read(1)
    assert (await ask(sim.port, HI)).status == 200


@pytest.mark.parametrize("body", [HI, STREAM], ids=["plain", "stream"])
@pytest.mark.parametrize("at", [0, 1, 100, 300])
@pytest.mark.parametrize(("kind", "end"), [("reset_at", "reset"), ("close_at", "cut")])
async def test_cut_lets_exactly_so_many_bytes_through(
    sim: Simulator, body: dict[str, Any], at: int, kind: str, end: str
) -> None:
    expected = await whole(sim, body)
    sim.fault(kind, at=at)
    answer = await ask(sim.port, body)
    assert (answer.end, answer.body) == (end, expected[:at])


async def test_reset_loses_none_of_a_large_body(sim: Simulator) -> None:
    body = STREAM | {"max_tokens": 20_000, "ignore_eos": True}
    sim.fault("reset_at", at=3_000_000)
    async with asyncio.timeout(20):
        answer = await ask(sim.port, body)
    assert (answer.end, len(answer.body)) == ("reset", 3_000_000)


async def test_close_without_the_last_chunk(sim: Simulator) -> None:
    expected = await whole(sim, STREAM)
    sim.fault("close_at")
    answer = await ask(sim.port, STREAM)
    assert (answer.end, answer.body) == ("cut", expected)


@pytest.mark.parametrize("body", [HI, STREAM], ids=["plain", "stream"])
@pytest.mark.parametrize("where", ["head", "content"])
async def test_stall_holds_the_answer_and_its_slot(sim: Simulator, body: dict[str, Any], where: str) -> None:
    expected = await whole(sim, body)
    sim.fault("stall", where=where, for_="300ms")
    async with await Client.to(sim.port) as client:
        client.send(body)
        if where == "content":
            await client.head()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.15):
                await client.reader.read(1)
        assert sim.running == 1
    await sim.until(lambda: sim.running == 0)
    began = time.monotonic()
    assert (await ask(sim.port, body)).body == expected
    assert time.monotonic() - began >= 0.3


async def test_stall_after_events_lets_them_through_first(sim: Simulator) -> None:
    sim.fault("stall", where="event", after=3)
    async with await Client.to(sim.port) as client:
        client.send(STREAM)
        await client.head()
        for _ in range(3):
            await client.chunk()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.15):
                await client.reader.read(1)
        # Deleting the fault lets a stalled answer go on.
        sim.clear_faults()
        answer = await client.rest()
        assert (answer.end, len(answer.events)) == ("done", 3)


@pytest.mark.parametrize("body", [HI, STREAM], ids=["plain", "stream"])
@pytest.mark.parametrize("part", ["head", "body", "all"])
async def test_drip_brings_every_byte_slowly(sim: Simulator, body: dict[str, Any], part: str) -> None:
    expected = await whole(sim, body)
    sim.fault("drip", bytes=20, every="5ms", part=part)
    began = time.monotonic()
    answer = await ask(sim.port, body)
    assert (answer.end, answer.body) == ("done", expected)
    dripped = (140 if part != "body" else 0) + (len(expected) if part != "head" else 0)
    assert time.monotonic() - began >= (dripped / 20 - 1) * 0.005


async def test_drip_comes_byte_by_byte(sim: Simulator) -> None:
    sim.fault("drip", every="20ms")
    async with await Client.to(sim.port) as client:
        client.send(STREAM)
        await client.head()
        for _ in range(5):
            assert len(await client.reader.read(100)) == 1


@pytest.mark.parametrize(("by", "end"), [(7, "cut"), (-7, "done")])
async def test_content_length_lies(sim: Simulator, by: int, end: str) -> None:
    expected = await whole(sim, HI)
    sim.fault("wrong_length", by=by)
    async with await Client.to(sim.port) as client:
        client.send(HI)
        answer = await client.answer()
        assert int(answer.headers["content-length"]) == len(expected) + by
        assert answer.end == end
        if by < 0:
            assert answer.body + await client.reader.readexactly(-by) == expected
    # A stream has no length: it passes.
    assert (await ask(sim.port, STREAM)).end == "done"


@pytest.mark.parametrize("again", ["2", 2, "Fri, 20 Nov 2026 11:55:30 GMT", "soon", "-1", "1000000000", None])
@pytest.mark.parametrize("code", [500, 503, 429])
async def test_status_comes_with_vllms_body_and_any_retry_after(sim: Simulator, code: int, again: object) -> None:
    sim.fault("status", code=code, retry_after=again)
    for body in (HI, STREAM):
        answer = await ask(sim.port, body)
        assert (answer.status, answer.json["error"]["code"]) == (code, code)
        assert answer.headers.get("retry-after") == (None if again is None else str(again))
    assert (await ask(sim.port, HI, "/v1/messages")).json["type"] == "error"
    assert sim.received == 3 and sim.running == 0


async def test_status_takes_a_body_and_a_delay(sim: Simulator) -> None:
    sim.fault("status", code=418, body="short and stout", after="100ms")
    began = time.monotonic()
    answer = await ask(sim.port, HI)
    assert (answer.status, answer.body) == (418, b"short and stout")
    assert time.monotonic() - began >= 0.1


@pytest.mark.parametrize("after", [0, 2])
async def test_error_event_under_200_is_followed_by_done(sim: Simulator, after: int) -> None:
    sim.fault("error_event", after=after, code=503)
    answer = await ask(sim.port, STREAM)
    assert (answer.status, answer.end, len(answer.events)) == (200, "done", after + 2)
    # vLLM writes its errors with json.dumps: with spaces.
    assert answer.events[after].startswith(b'data: {"error": {"message": "')
    assert answer.data[after]["error"]["code"] == 503
    assert answer.data[-1] == "[DONE]"
    sim.clear_faults()
    sim.fault("error_event", done=False)
    assert b"[DONE]" not in (await ask(sim.port, STREAM)).body


@pytest.mark.parametrize(("path", "more"), [("/v1/messages", {"max_tokens": 9}), ("/v1/responses", {"input": "x"})])
async def test_error_event_is_in_the_dialect_of_the_path(sim: Simulator, path: str, more: dict[str, Any]) -> None:
    sim.fault("error_event")
    answer = await ask(sim.port, STREAM | more, path)
    assert answer.events[0].startswith(b"event: error\ndata: ")
    assert answer.data[0]["type"] == "error" and len(answer.events) == 1


@pytest.mark.parametrize("then", ["close", "reset", "keep"])
async def test_raw_bytes_go_out_as_they_are(sim: Simulator, then: str) -> None:
    sim.fault("raw", text="HTTP/1.1 200 OK\r\nx: \xff\r\n\r\nnonsense", then=then, times=1)
    async with await Client.to(sim.port) as client:
        client.send(HI)
        expected = b"HTTP/1.1 200 OK\r\nx: \xff\r\n\r\nnonsense"
        assert await client.reader.readexactly(len(expected)) == expected
        if then == "reset":
            with pytest.raises(ConnectionResetError):
                await client.reader.read(1)
        elif then == "close":
            assert await client.closed()
        else:
            client.send(HI)
            assert (await client.answer()).status == 200


async def test_refusal_ends_by_itself_and_keeps_the_port(sim: Simulator) -> None:
    async with await Client.to(sim.port) as client:
        for _ in range(2):
            sim.fault("refuse", for_="200ms")
            for _ in range(3):
                with pytest.raises(ConnectionRefusedError):
                    await Client.to(sim.port)
            with socket.socket() as squatter, pytest.raises(OSError, match="in use"):
                squatter.bind(("127.0.0.1", sim.port))
            # Who was connected still is.
            client.send(HI)
            assert (await client.answer()).status == 200
            await asyncio.sleep(0.25)
            assert (await ask(sim.port, HI)).status == 200


async def test_dropped_connections_are_reset(sim: Simulator) -> None:
    sim.fault("stall", where="content")
    async with await Client.to(sim.port) as idle, await Client.to(sim.port) as busy:
        busy.send(STREAM)
        await busy.head()
        sim.drop_connections()
        for client in (idle, busy):
            with pytest.raises(ConnectionResetError):
                await client.reader.read(1)
    assert sim.running == 0


async def test_faults_are_counted_down_matched_and_drawn(sim: Simulator) -> None:
    async def statuses(path: str, count: int) -> list[int]:
        return [(await ask(sim.port, HI | {"prompt": "x"}, path)).status for _ in range(count)]

    sim.fault("status", code=500, times=2)
    assert await statuses(CHAT, 4) == [500, 500, 200, 200]
    sim.fault("status", code=500, match="/v1/comp*")
    assert await statuses(CHAT, 1) + await statuses("/v1/completions", 1) == [200, 500]
    sim.clear_faults()
    drawn = []
    for _ in range(2):
        sim.fault("status", code=500, probability=0.5, seed=3)
        drawn.append(await statuses(CHAT, 20))
        sim.clear_faults()
    assert drawn[0] == drawn[1] and set(drawn[0]) == {200, 500}


async def test_health_goes_wrong_only_where_it_is_matched(sim: Simulator) -> None:
    sim.fault("status", code=503)
    assert (await ask(sim.port, None, "/health", "GET")).status == 200
    sim.fault("status", code=503, match="/health")
    answer = await ask(sim.port, None, "/health", "GET")
    assert (answer.status, answer.body) == (503, b"")


async def test_header_makes_one_request_go_wrong(sim: Simulator) -> None:
    answer = await ask(
        sim.port, HI, headers={"x-simulator-fault": '{"kind": "status", "code": 429, "retry_after": "1"}'}
    )
    assert (answer.status, answer.headers["retry-after"]) == (429, "1")
    assert (await ask(sim.port, STREAM, headers={"x-simulator-fault": "close_at"})).end == "cut"
    assert (await ask(sim.port, HI)).status == 200
    for wrong in ("nope", "{", "refuse", '{"kind": "refuse", "for": 1}', "reset_at"):
        answer = await ask(sim.port, HI, headers={"x-simulator-fault": wrong})
        assert answer.status == 400 and "error" in answer.json
