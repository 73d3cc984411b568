"""Faults 54 and 55 through the whole gateway: limits while Redis is away."""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import Any

import pytest

from tests.fakes import redis_servers
from tests.fakes.backend import Backend
from tests.faults.limit_rig import (
    limited,
    mode,
    said,
)
from tests.flow.harness import Running, eventually, gateway_with
from tests.pace import Watch

Outages = ("local", "open", "closed")
BACK = 5.0
"""Seconds in which it is found again: 2 are promised, and a busy machine may stand still meanwhile."""
AWAY = {"local": 200, "open": 200, "closed": 503}


@pytest.mark.parametrize("word", Outages)
async def test_a_gateway_starts_without_redis_and_finds_it_within_two_seconds(
    backend: Backend, redis: redis_servers.Server, word: str
) -> None:
    rules = {"requests": "2/hour", "per": "all"}
    watch = Watch()
    async with gateway_with(backend, policy=limited(redis.url, rules, on_outage=word)) as gw:
        assert watch.own < 5.0
        await mode(gw, word, within=5.0)
        answers = [await gw.ask(stream=False) for _ in range(4)]
        statuses = [answer.status for answer in answers]
        assert statuses == {"local": [200, 200, 429, 429], "open": [200] * 4, "closed": [503] * 4}[word]
        if word == "closed":
            assert {answer.error["code"] for answer in answers} == {"store_unavailable"}
            assert {answer.header("retry-after") for answer in answers} == {"1"}
            assert backend.attempts == 0
        # Longer than several probes: no change, so nothing is said.
        await asyncio.sleep(0.8)
        assert (said(gw, "store_lost"), said(gw, "store_back")) == (1, 0), gw.log_text()
        await asyncio.to_thread(redis.start)
        assert await mode(gw, "store", within=15.0) < BACK
        assert [(await gw.ask(stream=False)).status for _ in range(3)] == [200, 200, 429]
        assert (said(gw, "store_lost"), said(gw, "store_back")) == (1, 1), gw.log_text()
        assert gw.total("store_errors_total") > 0


class Load:
    """Clients that ask all the time, and how long each took."""

    def __init__(self, gw: Running, clients: int) -> None:
        self.asked: list[tuple[float, float, int]] = []
        """(began, seconds without those in which this process had no processor, status)"""
        self._gw = gw
        self._ends = asyncio.Event()
        self._clients = clients

    async def __aenter__(self) -> Load:
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._client(), name=f"load {n}") for n in range(self._clients)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._ends.set()
        await asyncio.gather(*self._tasks)

    def since(self, began: float, until: float = float("inf")) -> list[tuple[float, int]]:
        return [(seconds, status) for at, seconds, status in self.asked if began <= at < until]

    async def more(self, count: int) -> None:
        wanted = len(self.asked) + count
        await eventually(lambda: len(self.asked) >= wanted, "no load", timeout=15)

    async def _client(self) -> None:
        async with await self._gw.connect() as client:
            while not self._ends.is_set():
                began, watch = time.monotonic(), Watch()
                await client.send(self._gw.chat_request(stream=False))
                answer = await client.answer()
                self.asked.append((began, watch.own, answer.status))
                await asyncio.sleep(0.005)


TIMEOUT = 0.5
CLIENTS = 6


@pytest.mark.parametrize("word", Outages)
@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_redis_goes_under_load(backend: Backend, redis: redis_servers.Server, how: str, word: str) -> None:
    redis.start()
    rules: list[dict[str, Any]] = [
        {"requests": "1000000/minute"},
        {"concurrency": 1000},
        {"requests": "1000000/hour", "per": "all"},
    ]
    outage = limited(redis.url, *rules, on_outage=word, timeout=f"{TIMEOUT * 1000:.0f}ms")
    async with gateway_with(backend, policy=outage) as gw, Load(gw, CLIENTS) as load:
        await load.more(100)
        whole = {status for _, _, status in load.asked}
        assert whole == {200}
        (redis.freeze if how == "frozen" else redis.stop)()
        gone = time.monotonic()
        await mode(gw, word, within=10.0)
        known = time.monotonic()
        await load.more(200)
        await asyncio.sleep(2 * TIMEOUT)
        again = time.monotonic()
        # Those that were asking when it went, and those that began before it was known.
        during = load.since(gone - TIMEOUT, known + 0.01)
        after = load.since(known + 0.01, again - TIMEOUT)
        waited = [seconds for seconds, _ in load.since(gone - TIMEOUT) if seconds > 0.8 * TIMEOUT]
        # A machine that stands still once holds up every client once.
        assert len(waited) <= (3 * CLIENTS if how == "frozen" else CLIENTS), waited
        assert max(seconds for seconds, _ in during) < 4 * TIMEOUT
        assert statistics.median(seconds for seconds, _ in after) < 0.5 * TIMEOUT
        assert {status for _, status in after} == {AWAY[word]}
        assert {status for _, status in during} <= {200, AWAY[word]}
        if how == "frozen":
            redis.thaw()
        else:
            await asyncio.to_thread(redis.start)
        assert await mode(gw, "store", within=15.0) < BACK
        back = time.monotonic()
        await load.more(100)
        assert {status for _, status in load.since(back)} == {200}
        assert (said(gw, "store_lost"), said(gw, "store_back")) == (1, 1), gw.log_text()
