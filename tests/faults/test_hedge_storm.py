"""Hedged requests whose engines do anything and whose clients leave at any moment: whatever meets whatever, each answer
is one engine's, and nothing is left."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys

import pytest

from tests.fakes.backend import LAST_CHUNK, STREAM_HEAD, Backend, Connection, Request, Script, chunked, plain
from tests.faults.scenes import pool
from tests.flow.harness import Running, gateway_with

SEEDS = [1, 2, 3]
COUNT = 150
# Nothing that pauses an engine: all would be paused, and nobody left for a hedge.
WHAT = ("answers", "answers", "answers", "answers", "rst", "502", "500", "stalls", "breaks", "event")
ROUTE = {
    "timeouts": {"connect": "2s", "first_byte": "300ms", "idle": "2s", "total": "5s"},
    "retry": {"retries": 3, "backoff": "5ms", "max": "10ms", "budget": 100},
    "hedge": {"after": "15ms", "budget": 1},
}


def anything(chance: random.Random, name: bytes) -> Script:
    """An engine that says its own name three times, sooner or later, or fails in one of many ways."""
    event = chunked(b'data: {"said":"%b"}\n\n' % name)

    async def script(c: Connection, request: Request) -> None:
        what = chance.choice(WHAT)
        # Often at the very moment at which the hedge is due, or just after its answer.
        await asyncio.sleep(chance.choice((0.0, 0.005, 0.014, 0.015, 0.016, 0.02, 0.03)))
        if c.closed.is_set():
            return
        if what == "rst":
            c.rst()
        elif what in ("502", "500"):
            await c.send(plain(int(what), b'{"error":{"message":"no"}}'))
        elif what == "event":
            await c.send(STREAM_HEAD + chunked(b'data: {"error":{"code":502}}\n\n') + LAST_CHUNK)
        else:
            await c.send(STREAM_HEAD)
            if what == "stalls":
                await c.stall()
            await c.send(event)
            await asyncio.sleep(chance.choice((0.0, 0.003)))
            if what == "breaks" and not c.closed.is_set():
                c.rst()
            elif what == "answers":
                await c.send(event + event + chunked(b"data: [DONE]\n\n") + LAST_CHUNK)

    return script


async def one(gw: Running, chance: random.Random) -> None:
    """One client; a third of them leave some time, a third of them are in a hurry."""
    kind = chance.choice(("patient", "hurried", "leaves"))
    headers = [("x-sluice-deadline", "100ms")] if kind == "hurried" else []
    await asyncio.sleep(chance.random())
    async with await gw.connect() as client:
        await client.send(gw.chat_request(headers=headers))
        if kind == "leaves":
            await asyncio.sleep(chance.choice((0.0, 0.005, 0.015, 0.02, 0.04)))
            if chance.random() < 0.5:
                client.reset()
            return
        answer = await client.answer()
        assert answer.status in (200, 500, 502, 503, 504), answer
        said = [name for name in (b"one", b"two", b"three") if b'{"said":"%b"}' % name in answer.body]
        assert len(said) == (answer.status == 200 and b"data: {" in answer.body and bool(said)), answer
        if answer.status == 200 and answer.end == "complete" and said:
            assert answer.body == b'data: {"said":"%b"}\n\n' % said[0] * 3 + b"data: [DONE]\n\n", answer


@pytest.mark.timeout(120)
@pytest.mark.parametrize("seed", SEEDS)
async def test_a_storm_of_hedged_requests_leaves_nothing(seed: int) -> None:
    sys.stdout.write(f"seed {seed}\n")
    chance = random.Random(seed)
    async with contextlib.AsyncExitStack() as stack:
        backends = [await stack.enter_async_context(Backend()) for _ in range(3)]
        for backend, name in zip(backends, (b"one", b"two", b"three"), strict=True):
            backend.does(anything(chance, name))
        bound = {"max_in_flight": 400} if seed % 2 else {}
        async with gateway_with(*backends, policy=pool(**bound), route=ROUTE) as gw:
            async with asyncio.TaskGroup() as group:
                for _ in range(COUNT):
                    group.create_task(one(gw, chance), name="client")
            assert gw.total("hedges_total") > COUNT / 20
            assert gw.total("attempts_total", outcome="hedge_lost") > 0
        if seed % 2:
            (door,) = gw.gateway.data.admission.queues.values()
            assert (door.queue.taken, door.queue.waiting) == (0, 0)
