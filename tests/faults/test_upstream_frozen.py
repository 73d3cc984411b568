"""fault 31: an engine that stands still (SIGSTOP, as in a long garbage collection) and goes on after a while."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from tests.faults.scenes import pool, route, state
from tests.flow.harness import Running, eventually, gateway_with
from tests.pace import Watch

SETTINGS = {
    "engine": "simulator",
    "balance": "least_requests",
    "health": {"every": "1s", "timeout": "100ms", "suspect_every": "50ms", "unhealthy_after": 3, "healthy_after": 2},
    # Far longer than the test: it is the probes that bring it back.
    "ejection": {"consecutive": 3, "for": "5m"},
    "slow_start": "3s",
}


@contextlib.asynccontextmanager
async def simulators(count: int) -> AsyncIterator[list[tuple[int, str]]]:
    """So many engines in processes of their own: (process id, base URL)."""
    command = [sys.executable, "-m", "backends.simulator", "--port", "0", "--model", "m"]
    pace = ["--tokens", "2", "--first-byte", "5ms", "--gap", "1ms"]
    started = [
        await asyncio.create_subprocess_exec(*command, *pace, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
        for _ in range(count)
    ]
    found = []
    try:
        for process in started:
            assert process.stderr is not None
            async with asyncio.timeout(20):
                line = (await process.stderr.readline()).decode()
            found.append((process.pid, f"http://127.0.0.1:{int(line.rpartition(':')[2])}"))
        yield found
    finally:
        for process in started:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


class Load:
    """Clients that ask one request after another, until they are told to stop."""

    def __init__(self, gw: Running) -> None:
        self._gw = gw
        self.stop = False
        self.seen: list[tuple[int, str | None]] = []
        self.waits: list[float] = []

    async def client(self) -> None:
        async with await self._gw.connect() as client:
            while not self.stop:
                watch = Watch()
                # Not streamed: what the engine has begun to stream when it is stopped can only be broken off.
                await client.send(self._gw.chat_request(stream=False))
                answer = await client.answer()
                assert (answer.status, answer.end) == (200, "complete"), answer
                self.seen.append((answer.status, answer.header("x-sluice-endpoint")))
                self.waits.append(watch.own)

    async def share(self, endpoint: str, of: int) -> float:
        """This endpoint's share of the next so many answers."""
        start = len(self.seen)
        await eventually(lambda: len(self.seen) >= start + of, "no load", timeout=20)
        return Counter(name for _, name in self.seen[start : start + of])[endpoint] / of


@pytest.mark.timeout(120)
async def test_an_engine_that_stands_still_is_left_out_and_comes_back_slowly_once_it_goes_on() -> None:
    async with simulators(3) as engines:
        rule = route(first_byte_plain="200ms")
        async with gateway_with(*(url for _, url in engines), policy=pool(**SETTINGS), route=rule) as gw:
            load = Load(gw)
            frozen = engines[0][0]
            async with asyncio.TaskGroup() as group:
                for _ in range(6):
                    group.create_task(load.client())
                assert 0.2 < await load.share("pool-0", of=300) < 0.5
                os.kill(frozen, signal.SIGSTOP)
                watch = Watch()
                await eventually(lambda: state(gw, "pool-0") in ("ejected", "down"), "nobody noticed")
                # Some wait for `first_byte` once, then it is known; probes alone would need 3 x (50 + 100) ms.
                assert watch.own < 1.5
                assert await load.share("pool-0", of=300) == 0.0
                os.kill(frozen, signal.SIGCONT)
                watch = Watch()
                await eventually(lambda: load.seen[-1][1] == "pool-0", "it never came back", timeout=5)
                assert watch.own < 1.5
                assert state(gw, "pool-0") == "up"
                # It is cold: at first it gets far less than its share.
                assert await load.share("pool-0", of=100) < 0.2
                await asyncio.sleep(3.0)
                assert await load.share("pool-0", of=300) > 0.2
                load.stop = True
            assert {status for status, _ in load.seen} == {200}
            # Whatever had been sent to it was moved.
            assert max(load.waits) < 1.5
            assert gw.total("attempts_total", endpoint="pool-0", outcome="too_slow") >= 1
            assert gw.total("requests_total") == gw.total("requests_total", code="200") == len(load.seen)
