"""What hedging does for a pool with one endpoint that is now and then ten times as slow, and what it costs:
`python -m tests.bench.hedge [SECONDS [SEED]]`, twice so many seconds.

Four scripted endpoints yield their first content after `usual` seconds, one of them after ten times that for a fifth of
its requests, which are a twentieth of all. Requests come at a steady pace, whoever has answered; gateway, endpoints and
clients are one process on the loopback, so that one clock times them.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import uvloop

from tests.bench.load import share
from tests.bench.machine import machine
from tests.fakes.backend import LAST_CHUNK, STREAM_HEAD, Backend, Connection, Request, Said, Script, chunked
from tests.flow.harness import Running, gateway_with

SLOW = 10
"""How many times as long."""
PART = 0.2
"""How many of the one endpoint's requests are slow."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Times in seconds, `rate` a second."""

    usual: float
    after: float
    budget: float
    rate: float
    count: int
    seed: int
    warm: int = 0
    """Requests before, of which none is slow or timed: they pay for hedges, and count with them."""


@dataclass(slots=True)
class Measured:
    """first: seconds to the first content, of each request; left: from a winner's first content to its loser's end."""

    first: list[float] = field(default_factory=list)
    left: list[float] = field(default_factory=list)
    requests: int = 0
    upstream: int = 0
    """Attempts that engines were asked for."""

    @property
    def p99(self) -> float:
        return share(self.first, 0.99)

    @property
    def extra(self) -> float:
        """Attempts beyond one a request, as a part of the requests."""
        return self.upstream / self.requests - 1


@dataclass(slots=True)
class _Engines:
    """Who said what when, by request id: the loop's clock."""

    plan: Plan
    chance: random.Random
    warm: bool = True
    answered: dict[str, float] = field(default_factory=dict)
    left: dict[str, float] = field(default_factory=dict)
    asked: int = 0

    def script(self, *, sometimes_slow: bool) -> Script:
        async def answer(c: Connection, request: Request) -> None:
            self.asked += 1
            slow = sometimes_slow and not self.warm and self.chance.random() < PART
            name = request.header("x-request-id") or ""
            await c.send(STREAM_HEAD)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.plan.usual * (SLOW if slow else 1)):
                    await c.closed.wait()
                self.left[name] = c.closed_at or 0.0
                return
            self.answered[name] = asyncio.get_running_loop().time()
            await c.send(b"".join(chunked(event) for event in Said(("a", "b")).events()) + LAST_CHUNK)

        return answer


async def measure(plan: Plan, *, hedged: bool) -> Measured:
    """A gateway in front of such a pool, asked as the plan says."""
    async with contextlib.AsyncExitStack() as stack:
        engines = _Engines(plan, random.Random(plan.seed))
        backends = [await stack.enter_async_context(Backend()) for _ in range(4)]
        for number, backend in enumerate(backends):
            backend.does(engines.script(sometimes_slow=number == 0))
        gw = await stack.enter_async_context(gateway_with(*backends, policy=_POOL, route=_route(plan, hedged)))
        measured = Measured()
        await _asked(gw, plan.warm, plan.rate, [])
        engines.warm = False
        await _asked(gw, plan.count, plan.rate, measured.first)
        measured.requests, measured.upstream = plan.warm + plan.count, engines.asked
        measured.left = [engines.left[name] - at for name, at in engines.answered.items() if name in engines.left]
        return measured


_POOL: dict[str, Any] = {"pools": {"pool": {"balance": "round_robin", "health": "off", "slow_start": "off"}}}


def _route(plan: Plan, hedged: bool) -> dict[str, Any]:
    hedge = {"after": f"{round(plan.after * 1000)}ms", "budget": plan.budget} if hedged else "off"
    return {"hedge": hedge, "timeouts": {"first_byte": "60s"}}


async def _asked(gw: Running, count: int, rate: float, first: list[float]) -> None:
    """So many requests, at a steady pace; how long each waited for its first content."""
    loop = asyncio.get_running_loop()
    began, asking = loop.time(), gw.chat_request()

    async def one(number: int) -> None:
        await asyncio.sleep(began + number / rate - loop.time())
        async with await gw.connect() as client:
            sent = loop.time()
            await client.send(asking)
            # The head goes down with the first content (DESIGN rule 1).
            status, _ = await client.head(timeout=60)
            first.append(loop.time() - sent)
            assert status == 200, status
            await client.until(LAST_CHUNK, timeout=60)

    async with asyncio.TaskGroup() as group:
        for number in range(count):
            group.create_task(one(number), name="request")


async def main(seconds: float, seed: int) -> None:
    """Both, one after the other, as a table."""
    plan = Plan(usual=0.05, after=0.075, budget=0.06, rate=100, count=int(100 * seconds), seed=seed, warm=200)
    without, hedged = await measure(plan, hedged=False), await measure(plan, hedged=True)
    say = sys.stdout.write
    say(f"{machine()}\n{plan}\n\n| | without | hedged | |\n|---|---:|---:|---:|\n")
    for name, part in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
        a, b = share(without.first, part), share(hedged.first, part)
        say(f"| first content, {name}, ms | {a * 1000:.0f} | {b * 1000:.0f} | {b / a:.2f} |\n")
    say(f"| attempts more than requests, % | {without.extra * 100:.1f} | {hedged.extra * 100:.1f} | |\n")
    say(f"| a loser's socket closed after, p50 and most, ms | | {_ms(hedged.left)} | |\n")


def _ms(times: Sequence[float]) -> str:
    return f"{share(times, 0.5) * 1000:.1f}, {max(times) * 1000:.1f}" if times else "-"


if __name__ == "__main__":
    uvloop.run(main(float(sys.argv[1]) if len(sys.argv) > 1 else 15.0, int(sys.argv[2]) if len(sys.argv) > 2 else 1))
