"""Three times as many requests as a pool takes: what is served, for whom, and how soon it is over.

    .venv/bin/python -m tests.bench.overload [--seconds 60] [--seed N]

Four simulators take 4 requests each for 0.5 s; requests come at random moments, whatever became of those before. A
fifth of what the pool takes is asked for with a high priority, a third with a low one, and all the rest by three
tenants with weights 1, 2 and 4, each of whom asks for more than its share. A third of the clients gives itself 1 s, the
others 3 s.
The simulators, the gateway and the clients share one process, and all is on loopback.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import uvloop

from backends.identity.keyfile import change_keys
from backends.simulator.server import Simulator
from backends.simulator.settings import SimulatorSettings
from policies.identity.api_keys import KeyEntry, digest, new_key
from tests.flow.harness import Running, gateway_with

ENDPOINTS: Final = 4
SLOTS: Final = 4
SERVICE: Final = 0.5
CAPACITY: Final = ENDPOINTS * SLOTS / SERVICE
"""Requests a second."""
SIZE: Final = 40
WEIGHTS: Final = {"a": 1, "b": 2, "c": 4}
# Parts of the capacity that are asked for: three times of it altogether.
LOAD: Final = {"high": 0.2, "low": 0.3, "a": 0.8, "b": 0.8, "c": 0.9}
PLANS: Final[dict[str, dict[str, Any]]] = {
    "high": {"priority": 10}, "low": {"priority": -10}, **{one: {"weight": by} for one, by in WEIGHTS.items()},
}  # fmt: skip


@dataclass(slots=True)
class Asked:
    """One request, as its client saw it; seconds."""

    tenant: str
    began: float
    deadline: float
    took: float
    status: int


@dataclass(slots=True)
class Report:
    """What came of it. Rates are over the time of the load, its first two service times left out."""

    seed: int
    seconds: float
    asked: list[Asked] = field(default_factory=list)
    depth: int = 0
    waits: dict[str, list[float]] = field(default_factory=dict)
    recovery: float = 0.0

    @property
    def served(self) -> Counter[str]:
        """By tenant, what was served while there was load."""
        return Counter(
            one.tenant for one in self.asked
            if one.status == 200 and 2 * SERVICE <= one.began + one.took <= self.seconds
        )  # fmt: skip

    @property
    def goodput(self) -> float:
        """Of the capacity."""
        return sum(self.served.values()) / (self.seconds - 2 * SERVICE) / CAPACITY

    def late(self, slack: float = 0.1) -> int:
        """Served after their clients' deadlines; the gateway's timers are exact to 50 ms, and a process has its
        lags."""
        return sum(one.status == 200 and one.took > one.deadline + slack for one in self.asked)

    def p95(self, tenant: str) -> float:
        """Seconds that its requests waited, those that did not included."""
        waits = sorted(self.waits.get(tenant, [0.0]))
        return waits[min(len(waits) - 1, int(len(waits) * 0.95))]

    @property
    def shares(self) -> dict[str, float]:
        """What each tenant got, for what its weight gives it."""
        served, weights = self.served, sum(WEIGHTS.values())
        every = sum(served[one] for one in WEIGHTS) or 1
        return {one: served[one] / every * weights / by for one, by in WEIGHTS.items()}

    def __str__(self) -> str:
        statuses = Counter(one.status for one in self.asked)
        shares = ", ".join(f"{one} {share:.3f}" for one, share in self.shares.items())
        return "\n".join([
            f"seed {self.seed}, {self.seconds:g} s, {len(self.asked)} requests: {dict(sorted(statuses.items()))}",
            f"goodput {self.goodput:.3f} of the capacity; {self.late()} served after their deadline",
            f"high priority waited {self.p95('high') * 1000:.0f} ms (p95), served {self.served['high']} of "
            f"{sum(one.tenant == 'high' for one in self.asked)}; low priority served {self.served['low']}",
            f"shares for the weights: {shares}",
            f"at most {self.depth} of {SIZE} waited; well again {self.recovery:.2f} s after the load",
        ])  # fmt: skip


async def overload(seconds: float, seed: int) -> Report:
    """The load for so many seconds."""
    report = Report(seed, seconds)
    async with contextlib.AsyncExitStack() as stack:
        settings = SimulatorSettings(
            models=("m",), first_byte=0.1, tokens=9, gap=(SERVICE - 0.1) / 8, max_num_seqs=SLOTS
        )
        engines = [await stack.enter_async_context(Simulator(settings, record=False)) for _ in range(ENDPOINTS)]
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        keys = {name: new_key() for name in PLANS}
        entries = [KeyEntry(id=one, sha256=digest(keys[one]), tenant=one, plan=one, created=1.0) for one in PLANS]
        change_keys(folder / "keys.yaml", lambda _: entries)
        policy = {
            "auth": {"api_keys": {"file": str(folder / "keys.yaml")}},
            "plans": PLANS,
            "pools": {"pool": {"max_in_flight": ENDPOINTS * SLOTS, "queue": {"size": SIZE, "wait": "10s"}}},
        }
        urls = [engine.url for engine in engines]
        gw = await stack.enter_async_context(
            gateway_with(*urls, policy=policy, endpoint={"max_in_flight": SLOTS}, quiet=False)
        )
        await _storm(gw, keys, report, random.Random(seed))
        for line in await gw.access_lines():
            if line["status"] == 200:
                report.waits.setdefault(line["tenant"], []).append((line["queued_ms"] or 0.0) / 1000)
    return report


async def _storm(gw: Running, keys: dict[str, str], report: Report, rng: random.Random) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with asyncio.TaskGroup() as group:
        watch = group.create_task(_watch(gw, report))
        at = 0.0
        while at < report.seconds:
            at += rng.expovariate(CAPACITY * sum(LOAD.values()))
            tenant = rng.choices(list(LOAD), list(LOAD.values()))[0]
            await asyncio.sleep(began + at - loop.time())
            group.create_task(_ask(gw, keys[tenant], tenant, rng.choice((1.0, 3.0, 3.0)), began, report))
        ended = loop.time()
        after = []
        for _ in range(40):
            after.append(group.create_task(_ask(gw, keys["a"], "after", 30.0, began, Report(0, 0.0))))
            await asyncio.sleep(0.1)
        watch.cancel()
    # From then on everybody was served at once.
    slow = [one.result().began for one in after if one.result().took > 1.5 * SERVICE]
    report.recovery = max(slow, default=ended - began) - (ended - began)


async def _ask(gw: Running, key: str, tenant: str, deadline: float, began: float, report: Report) -> Asked:
    loop = asyncio.get_running_loop()
    sent = loop.time()
    headers = [("authorization", f"Bearer {key}"), ("x-sluice-deadline", f"{deadline:g}s")]
    answer = await gw.send(gw.chat_request("hi", headers=headers, stream=False))
    asked = Asked(tenant, sent - began, deadline, loop.time() - sent, answer.status)
    report.asked.append(asked)
    return asked


async def _watch(gw: Running, report: Report) -> None:
    while True:
        report.depth = max(report.depth, int(gw.gateway.metrics.pool("pool").queue_depth.value))
        await asyncio.sleep(0.01)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.overload", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the load lasts (default: %(default)g)")
    parser.add_argument("--seed", type=int, help="of every draw (default: another one each time, printed)")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 31)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        report = runner.run(overload(options.seconds, seed))
    sys.stdout.write(f"{report}\n")
    good = report.goodput >= 0.95 and not report.late() and report.recovery <= 2 and report.p95("high") <= 2 * SERVICE
    return 0 if good and all(0.95 <= share <= 1.05 for share in report.shares.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
