"""fault 84: an endpoint that yields to some is slow for others. Busy is not dead."""

from __future__ import annotations

import asyncio

import pytest

from tests.fakes.backend import LAST_CHUNK, STREAM_HEAD, Backend, Connection, Request, Said, chunked
from tests.faults.scenes import pool, route, state
from tests.flow.harness import eventually, gateway_with

ROLE, ONE, TWO, *_ = Said(("one", "two")).events()


@pytest.mark.parametrize("alone", [False, True], ids=["with another", "alone"])
async def test_an_endpoint_that_yields_to_others_is_not_blamed_for_being_slow(
    backend: Backend, other: Backend, alone: bool
) -> None:
    async def busy(c: Connection, request: Request) -> None:
        await c.send(STREAM_HEAD + chunked(ROLE))
        while b"yield" in request.body and not backend.release.is_set():
            await c.send(chunked(ONE))
            await asyncio.sleep(0.02)
        if backend.release.is_set():
            await c.send(LAST_CHUNK)
        await c.stall()

    backend.does(busy)
    other.streams("b")
    settings = {"ejection": {"consecutive": 2, "min_requests": 2}, "breaker": {"failures": 2}}
    rule = route(retry="off" if alone else None, first_byte="400ms", idle="10s")
    served = [backend] if alone else [backend, other]
    async with gateway_with(*served, policy=pool(**settings), route=rule) as gw, await gw.connect() as client:
        while not any(b"yield" in request.body for request in backend.requests):
            await client.send(gw.chat_request("yield"))
            await client.until(b'"one"' if alone else b'"content": "')
        slow = 0
        while slow < 4:
            if alone:
                answer = await gw.ask("wait")
                assert (answer.status, answer.error["code"]) == (504, "first_byte_timeout")
            else:
                assert await gw.chat("wait") == "b"
            slow = int(gw.total("attempts_total", endpoint="pool-0", outcome="too_slow"))
        assert gw.total("ejections_total") == 0
        assert state(gw, "pool-0", "breaker_state") == "closed"
        assert state(gw, "pool-0") not in ("ejected", "down")
        backend.release.set()
        await client.until(b"0\r\n\r\n")
        await eventually(lambda: gw.gateway.plane.in_flight == 0, "the stream did not end")


async def test_a_stream_that_stalls_where_another_flows_is_cut_and_nobody_is_blamed(backend: Backend) -> None:
    async def script(c: Connection, request: Request) -> None:
        await c.send(STREAM_HEAD + chunked(ONE))
        while b"yield" in request.body and not c.closed.is_set():
            await c.send(chunked(TWO))
            await asyncio.sleep(0.02)
        await c.stall()

    backend.does(script)
    settings = pool(breaker={"failures": 1, "open_for": "30s"})
    async with gateway_with(backend, policy=settings, route=route(idle="600ms")) as gw, await gw.connect() as client:
        await client.send(gw.chat_request("yield"))
        await client.until(b'"two"')
        answer = await gw.ask("wait")
        assert (answer.end, answer.chunks[-1]["error"]["code"]) == ("cut", "idle_timeout")
        assert gw.total("streams_broken_total") == 1
        assert state(gw, "pool-0", "breaker_state") == "closed"
