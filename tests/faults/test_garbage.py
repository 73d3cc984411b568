"""A request, its connections and what went wrong with them leave nothing that only the garbage collector would find: it
runs seldom, and what it has not found yet is memory that grows."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from tests.fakes.backend import Backend, Connection, Request, Script
from tests.faults.scenes import dies, pool, route
from tests.flow.harness import CHAT, Running, eventually, gateway_with

OURS = ("backends", "gateway", "policies")
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"x"}}]}\n\n'


@contextlib.contextmanager
def garbage() -> Iterator[list[Any]]:
    """On leaving: what of ours was garbage."""
    ours: list[Any] = []
    gc.collect()
    gc.disable()
    try:
        yield ours
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        ours += [thing for thing in gc.garbage if type(thing).__module__.split(".")[0] in OURS]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


async def stalls(c: Connection, request: Request) -> None:
    await c.stall()


def begins_and(then: str) -> Script:
    """A stream of one event that then is broken off or stands still."""

    async def script(c: Connection, request: Request) -> None:
        await c.send(STREAM + b"%x\r\n%b\r\n" % (len(EVENT), EVENT))
        if then == "stalls":
            await c.stall()
        await asyncio.sleep(0.01)
        c.rst()

    return script


async def answered(gw: Running) -> None:
    for stream in (True, False):
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await gw.ask(stream=stream)


async def refused(gw: Running) -> None:
    assert (await gw.send(gw.request("POST", CHAT, b"{}", [("authorization", "Bearer x")]))).status == 401
    await gw.send(b"GARBAGE\r\n\r\n")


def left(after: float) -> Callable[[Running], Awaitable[None]]:
    """A client that sends its request and leaves."""

    async def act(gw: Running) -> None:
        async with await gw.connect() as client:
            await client.send(gw.chat_request())
            await asyncio.sleep(after)

    return act


CASES: dict[str, tuple[Callable[[Backend], object], Callable[[Running], Awaitable[None]]]] = {
    "answered": (lambda b: b.streams("a", "b"), answered),
    "refused": (lambda b: b, refused),
    "500": (lambda b: b.answers(500), answered),
    "503": (lambda b: b.answers(503), answered),
    "reset": (lambda b: b.does(dies("rst")), answered),
    "closed": (lambda b: b.does(dies("fin")), answered),
    "silent": (lambda b: b.does(stalls), answered),
    "broken off": (lambda b: b.does(begins_and("breaks")), answered),
    "stands still": (lambda b: b.does(begins_and("stalls")), answered),
    "left at once": (lambda b: b.does(stalls), left(0.0)),
    "left waiting": (lambda b: b.does(stalls), left(0.03)),
    "left reading": (lambda b: b.does(begins_and("stalls")), left(0.03)),
}


@pytest.mark.parametrize("case", CASES)
async def test_nothing_is_left_for_the_garbage_collector(case: str) -> None:
    prepare, act = CASES[case]
    async with (
        Backend() as one,
        Backend() as other,
        gateway_with(one, other, policy=pool(), route=route(), quiet=False) as gw,
    ):
        for each in (one, other):
            prepare(each)
        await act(gw)
        await eventually(lambda: gw.gateway.client_connections == 0, "a connection is still there")
        with garbage() as ours:
            for _ in range(5):
                await act(gw)
            await eventually(lambda: gw.gateway.client_connections == 0, "a connection is still there")
            await eventually(lambda: gw.gateway.plane.in_flight == 0, "an attempt is still in flight")
        assert ours == []
