"""Engines that do anything, clients that leave at any moment, answers that grow old at once: whoever is told that its
answer is whole has a whole one, and nothing is left."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
from typing import Any, Final

import pytest

from gateway.cache.coalescing import Coalescer
from tests.fakes.backend import LAST_CHUNK, STREAM_HEAD, Backend, Connection, Request, Said, chunked, plain
from tests.flow.harness import Running, eventually, gateway_with

SEED: Final = random.randrange(1 << 32)
ROUTE: Final[dict[str, Any]] = {
    "cache": {"ttl": "20ms", "stale": "500ms", "max_size": "64KiB"},
    "retry": {"retries": 2, "backoff": "5ms"},
    "timeouts": {"idle": "5s"},
    "fallback": [{"cache": "stale"}],
}
POOL: Final[dict[str, Any]] = {
    "health": "off", "ejection": "off", "breaker": "off", "max_in_flight": 4, "queue": {"size": 50, "wait": "5s"},
}  # fmt: skip


def engine(chance: random.Random) -> Any:
    async def does(c: Connection, _: Request) -> None:
        kind = chance.random()
        if kind < 0.15:
            await c.send(plain(503, b"{}"))
        elif kind < 0.25:
            await asyncio.sleep(chance.random() * 0.05)
            reset(c)
        elif kind < 0.35:
            await c.send(plain(200, b'{"choices":[]}'))
        else:
            sizes = [chance.choice([1, 100, 30_000]) for _ in range(chance.randrange(1, 12))]
            await c.send(STREAM_HEAD)
            for event in Said(tuple("x" * size for size in sizes)).events():
                await asyncio.sleep(chance.random() * 0.01)
                await c.send(chunked(event))
                if chance.random() < 0.02:
                    reset(c)
                    return
            await c.send(LAST_CHUNK)

    return does


def reset(c: Connection) -> None:
    if not c.closed.is_set():
        c.rst()


async def client(gw: Running, chance: random.Random, rounds: int) -> None:
    for _ in range(rounds):
        async with await gw.connect() as one:
            await one.send(gw.chat_request(f"prompt {chance.randrange(6)}", temperature=0))
            if chance.random() < 0.4:
                await asyncio.sleep(chance.random() * 0.05)
                if chance.random() < 0.5:
                    one.reset()
                continue
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                answer = await one.answer(timeout=40)
                if (answer.status, answer.end, answer.framing) == (200, "complete", "chunked"):
                    assert answer.body.endswith(b"[DONE]\n\n")


@pytest.mark.parametrize("number", range(2))
async def test_a_storm_leaves_nothing(number: int) -> None:
    chance = random.Random(SEED + number)
    print(f"seed {SEED + number}")  # noqa: T201  what a failure is repeated with
    async with Backend() as backend:
        backend.does(engine(chance))
        async with gateway_with(backend, route=ROUTE, policy={"pools": {"pool": POOL}}) as gw:
            await asyncio.gather(*(client(gw, chance, 10) for _ in range(30)))
            await eventually(lambda: gw.gateway.client_requests == 0, "somebody is still answered", 30.0)
            assert 200 < gw.total("cache_total") == gw.total("requests_total") <= 300
            assert gw.total("cache_total", result="shared") > 0
            assert gw.gateway.data.cache.shareable == 0
    gc.collect()
    assert not any(isinstance(one, Coalescer) for one in gc.get_objects())
