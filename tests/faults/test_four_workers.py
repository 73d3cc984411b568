"""Faults 31, 33, 34 and 66: one of four workers fails under a steady load, and clients do not
see it."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import pytest

from tests.faults.steady import FIRST_BYTE, NAMES, SLOWEST, four_workers
from tests.flow.harness import eventually
from tests.sizes import sample

pytestmark = pytest.mark.timeout(120)

VICTIM = NAMES[1]
QUICK = {"health": {"every": "500ms", "timeout": "300ms", "suspect_every": "100ms"}}
FAIR = 1 / len(NAMES)


async def test_a_killed_worker_takes_only_its_begun_answers_with_it_and_is_out_within_a_second() -> None:
    async with four_workers(80) as house:
        killed = asyncio.get_running_loop().time()
        os.kill(house.pid(VICTIM), signal.SIGKILL)
        await eventually(lambda: VICTIM not in house.addresses(), "it is in the table after a second", timeout=1.0)
        await asyncio.sleep(max(0.0, killed + 1.0 - asyncio.get_running_loop().time()))
        before = house.attempts()[VICTIM]
        await asyncio.sleep(1.0)
        assert house.attempts()[VICTIM] == before
        assert all(one.began <= killed and one.endpoint == VICTIM and one.end == "cut" for one in house.load.errors)
        assert house.gw.total("streams_broken_total") == len(house.load.errors)
        # Restarted after a back-off, and taken in again.
        await eventually(lambda: VICTIM in house.addresses(), "it was never started again", timeout=10)
        await eventually(lambda: house.attempts()[VICTIM] > before, "it never got a request again", timeout=5)
        assert house.gw.total("worker_restarts_total") == 1


async def test_a_frozen_worker_is_ejected_within_first_byte_and_comes_back_slowly() -> None:
    async with four_workers(100, plain=10, pool={**QUICK, "slow_start": "4s"}) as house:
        loop = asyncio.get_running_loop()
        pid = house.pid(VICTIM)
        stopped = loop.time()
        os.kill(pid, signal.SIGSTOP)
        try:
            # The wheel's ticks and the time between two requests come on top.
            await eventually(
                lambda: house.state(VICTIM) in ("ejected", "down") or house.breaker(VICTIM) == "open",
                lambda: f"after first_byte it is {house.state(VICTIM)}", timeout=FIRST_BYTE + 0.25,
            )  # fmt: skip
            # What is under way on it fails over by its own timer; then nothing is sent to it any more.
            await asyncio.sleep(SLOWEST)
            assert (await house.shares(1.0))[VICTIM] == 0
            # Clients see only what had begun on it.
            assert {(one.endpoint, one.end) for one in house.load.errors} <= {(VICTIM, "cut")}
            assert all(one.began <= stopped for one in house.load.errors)
        finally:
            os.kill(pid, signal.SIGCONT)
        # Two probes, each in its interval and a jitter.
        await eventually(
            lambda: house.state(VICTIM) in ("up", "suspect") and house.breaker(VICTIM) != "open",
            lambda: f"it is {house.state(VICTIM)}, breaker {house.breaker(VICTIM)}", timeout=2.0,
        )  # fmt: skip
        cold = (await house.shares(1.0))[VICTIM]
        await asyncio.sleep(3.5)
        warm = (await house.shares(2.0))[VICTIM]
        assert 0 < cold < 0.6 * warm, (cold, warm)
        assert warm > 0.6 * FAIR
        assert house.state(VICTIM) == "up"


async def test_a_worker_that_answers_half_with_502_is_not_seen_by_clients() -> None:
    async with four_workers(100) as house:
        await house.fault(VICTIM, kind="status", code=502, probability=0.5, seed=7)
        await asyncio.sleep(8.0)
        assert len(house.load.errors) <= 0.001 * len(house.load.seen), house.load.errors[:5]
        assert house.gw.total("attempts_total", endpoint=VICTIM, outcome="502") > 5


async def test_a_worker_that_answers_half_with_500_reaches_few_clients() -> None:
    """A 500 is not retried by default: the input may be at fault."""
    async with four_workers(200, plain=1) as house:
        await house.fault(VICTIM, kind="status", code=500, probability=0.5, seed=7)
        await asyncio.sleep(20.0)
        assert {one.status for one in house.load.errors} <= {500}
        assert len(house.load.errors) <= 0.01 * len(house.load.seen), len(house.load.errors)
        assert house.gw.total("ejections_total", endpoint=VICTIM) >= 1


async def test_a_worker_that_fails_fast_draws_no_traffic_and_gets_its_share_back() -> None:
    async with four_workers(100, pool={**QUICK, "slow_start": "1s"}) as house:
        await house.fault(VICTIM, kind="status", code=503)
        await asyncio.sleep(1.0)
        shares = await house.shares(4.0)
        assert shares[VICTIM] < 0.02, shares
        await house.well(VICTIM)

        async def back() -> None:
            while (await house.shares(1.0))[VICTIM] < 0.6 * FAIR:
                pass

        async with asyncio.timeout(15):
            await back()
        assert house.load.errors == []


OUTAGES: dict[str, dict[str, Any]] = {
    "502": {"kind": "status", "code": 502},
    "503": {"kind": "status", "code": 503},
    "reset": {"kind": "reset_before"},
    "refuse": {"kind": "refuse", "for": 30},
}


@pytest.mark.parametrize(
    ("how", "guards"), sample([(how, guards) for how in OUTAGES for guards in ("all", "budget alone")], 3)
)
async def test_a_total_outage_is_not_multiplied(how: str, guards: str) -> None:
    # An idle connection is still open where new ones are refused.
    settings: dict[str, Any] = {"keep_alive": "0s"}
    if guards != "all":
        settings |= {"ejection": "off", "breaker": "off", "health": "off"}
    floor = 10
    async with four_workers(100, pool=settings, retry={"backoff": "10ms", "max": "20ms", "floor": floor}) as house:
        await house.fault(*NAMES, **OUTAGES[how])
        # What was under way has ended.
        await asyncio.sleep(0.5)
        # Retries of the last 10 s count: those of before, too.
        made, asked = sum(house.attempts().values()), house.gw.total("requests_total")
        await asyncio.sleep(5.0)
        made, asked = sum(house.attempts().values()) - made, house.gw.total("requests_total") - asked
        assert asked > 200
        assert made <= 1.2 * asked + floor, (made, asked)
        assert not any(one.good for one in house.load.seen[-100:])
