"""Fault 85: every endpoint has asked to be left alone, the queue is full or the client can't wait so long: it is
told at once when somebody is back first, and no engine hears of it. Row 37 for those that wait for them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.fakes.backend import Backend
from tests.fakes.client import Answer, Client
from tests.faults.scenes import pool, route
from tests.flow.harness import Running, eventually, gateway_with
from tests.pace import Watch

BUSY = b'{"error":{"message":"busy"}}'
BOUND: dict[str, Any] = {"max_in_flight": 8, "queue": {"size": 2, "wait": "30s"}}
ROUTES = {"a route": {}, "a route with hedges": {"hedge": {"after": "20ms", "budget": 1}}}


@contextlib.asynccontextmanager
async def all_paused(backend: Backend, other: Backend, more: dict[str, Any], **settings: Any) -> AsyncIterator[Running]:
    """A gateway whose two engines were asked once each, and asked for 20 and for 12 seconds of rest."""
    backend.answers(503, BUSY, [("retry-after", "20")])
    other.answers(429, BUSY, [("retry-after", "12")])
    # Nobody waits so long for its own first answer.
    rule = {**route(total="1h", first_byte="60s", retry={"retries": 1}), **more}
    async with gateway_with(backend, other, policy=pool(**settings), route=rule) as gw:
        assert (await gw.ask()).status in (503, 429)
        assert (backend.attempts, other.attempts) == (1, 1)
        yield gw
        assert (backend.attempts, other.attempts) == (1, 1), "something was sent"


@contextlib.asynccontextmanager
async def waiting(gw: Running, count: int) -> AsyncIterator[list[Client]]:
    """So many clients that wait in the queue; they leave at the end."""
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(await gw.connect()) for _ in range(count)]
        for client in clients:
            await client.send(gw.chat_request("patient"))
        await eventually(lambda: gw.total("queue_depth") == count, "they do not wait")
        yield clients


def at_once(watch: Watch, answer: Answer, status: int, code: str) -> None:
    assert (answer.status, answer.error["code"]) == (status, code)
    assert 8 <= int(answer.header("retry-after") or 0) <= 12
    assert answer.header("x-sluice-attempts") is None
    assert watch.own < 3


async def hurried(gw: Running, *, stream: bool = True) -> Answer:
    return await gw.send(gw.chat_request(headers=[("x-sluice-deadline", "5s")], stream=stream))


@pytest.mark.parametrize("more", ROUTES.values(), ids=ROUTES)
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "plain"])
@pytest.mark.parametrize("settings", [{}, BOUND, {**BOUND, "queue": "off"}], ids=["no bound", "a queue", "no queue"])
async def test_who_can_not_wait_for_the_pauses_end_is_told_at_once(
    backend: Backend, other: Backend, settings: dict[str, Any], stream: bool, more: dict[str, Any]
) -> None:
    async with all_paused(backend, other, more, **settings) as gw:
        watch = Watch()
        at_once(watch, await hurried(gw, stream=stream), 503, "no_endpoint_available")
        line = (await gw.access_lines())[-1]
        assert (line["attempts"], line["trail"]) == (0, [])


async def test_with_a_full_queue_too(backend: Backend, other: Backend) -> None:
    async with all_paused(backend, other, {}, **BOUND) as gw:
        async with waiting(gw, 2):
            watch = Watch()
            at_once(watch, await hurried(gw), 503, "no_endpoint_available")
            watch = Watch()
            at_once(watch, await gw.ask(), 429, "queue_full")
            assert gw.total("queue_depth") == 2
        await eventually(lambda: gw.total("queue_depth") == 0, "they wait still")
        assert gw.total("client_gone_total", phase="queue") == 2


@pytest.mark.parametrize("how", ["close", "fin", "rst"])
async def test_a_client_that_leaves_while_it_waits_for_a_pauses_end_leaves_the_queue(
    backend: Backend, other: Backend, how: str
) -> None:
    async with all_paused(backend, other, {}, **BOUND) as gw, waiting(gw, 1) as (client,):
        {"close": client.writer.close, "fin": client.half_close, "rst": client.reset}[how]()
        await eventually(lambda: gw.total("queue_depth") == 0, "it waits still", timeout=2)


async def test_who_waits_is_served_when_the_first_is_back(backend: Backend, other: Backend) -> None:
    backend.answers(503, BUSY, [("retry-after", "20")])
    other.answers(503, BUSY, [("retry-after", "2")]).then.streams("back")
    async with gateway_with(
        backend, other, policy=pool(**BOUND), route=route(total="10s", first_byte="5s", retry="off")
    ) as gw:
        assert {(await gw.ask()).status for _ in range(2)} == {503}
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(gw.chat()) for _ in range(2)]
        assert [task.result() for task in tasks] == ["back", "back"]
        assert (backend.attempts, other.attempts) == (1, 3)
