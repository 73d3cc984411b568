"""Cancellation injected at every await of the gateway's own path and of the stores, in whichever
task of theirs. Whatever was taken is back in the end: counts end at zero.

That clients really leave at each of these places is in test_limits_leaving.py.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.data_plane import TableView
from backends.store.factory import StoreContext, make_store
from gateway.exchange import AttemptState, Exchange, LogRecord
from gateway.limits.limiter import RateLimiter
from gateway.limits.store_switch import LimitStoreSwitch, StoreListener
from policies.config.settings import StoreSettings
from policies.config.settings.auth import LimitSettings, PlanSettings
from policies.config.units import RateValue
from policies.identity.principal import Principal
from policies.limits import LimitSubject, demands
from policies.limits.plans import PlanLimits, plan_limits
from policies.request.describe import DescribedRequest
from tests.fakes.awaits import Cut, When
from tests.fakes.redis_servers import Servers
from tests.fakes.store import SpyMeter

# Nothing comes in while a test runs, and no window ends.
MONTH = 30 * 86400
OWN = (
    LimitSettings(concurrency=50),
    LimitSettings(tokens=RateValue(100_000, MONTH), strategy="fixed_window", per="tenant"),
    LimitSettings(tokens=RateValue(100_000, MONTH)),
    LimitSettings(output_tokens=RateValue(100_000, MONTH), per="all"),
)
WINDOW = LimitSettings(requests=RateValue(100_000, MONTH), strategy="moving_window")
PLANS = {"own": PlanSettings(limits=OWN), "windows": PlanSettings(limits=(*OWN, WINDOW))}
WHO = Principal(key="k", tenant="t", plan="own")
ASKS = DescribedRequest(model="m", stream=True, prompt_bytes=400, max_tokens=300, answers=1)


class Path:
    """The gateway's limiting alone, over a real store."""

    def __init__(self, url: str, plan: str) -> None:
        self.meter = SpyMeter()
        wanted = StoreSettings(url=url, prefix=f"c{uuid4().hex[:8]}", timeout=5.0, on_outage="closed")
        epoch = time.time() - time.monotonic()  # noqa: TID251  # as main does
        self.stores = LimitStoreSwitch(
            lambda: wanted,
            lambda store, meter: make_store(
                store, StoreContext(time.monotonic, epoch, _random(), meter, meter.log_event)
            ),
            lambda: StoreListener(self.meter, lambda event, what: None),
        )
        self.limits: PlanLimits = plan_limits(PLANS, "closed")[plan]
        self.limiting = RateLimiter(self.stores, lambda rule: None, "here")
        self.limiting.follow(cast(TableView, SimpleNamespace(limits={plan: self.limits})))

    async def request(self) -> None:
        """What the pipeline does, with an engine that takes a turn of the loop and then fails."""
        exchange = cast(Any, SimpleNamespace(kind=SimpleNamespace(path="/v1/chat/completions"), client="192.0.2.1",
            attempt=AttemptState(0.0), record=LogRecord()))  # fmt: skip
        held = None
        try:
            held = await self.limiting.take(cast(Exchange, exchange), self.limits, WHO, ASKS, "m")
            await asyncio.sleep(0)
        finally:
            if held is not None:
                self.limiting.refund(exchange, held)

    async def used(self) -> list[int]:
        """Of every rule but that of the window: what came last of a request that was cancelled counts there."""
        rules = [rule for rule in self.limits.rules if rule.strategy != "moving_window"]
        asked = demands(rules, LimitSubject("k", "t", "k", "192.0.2.1", "m"), tokens=1, output_tokens=1)
        assert self.stores.current is not None
        levels = await self.stores.current.seen(asked)
        return [level.limit - level.remaining for level in levels]

    async def nothing_stays(self) -> None:
        ends = time.monotonic() + 10
        while any(found := await self.used()):
            assert time.monotonic() < ends, found
            await asyncio.sleep(0.01)
        assert self.meter.errors == {}


def _random() -> Any:
    from random import Random

    return Random()


@asynccontextmanager
async def opened(url: str, plan: str) -> AsyncIterator[Path]:
    path = Path(url, plan)
    await path.stores.started()
    try:
        yield path
    finally:
        await path.stores.stop()


def run(work: Coroutine[Any, Any, None], loops: Callable[[], asyncio.AbstractEventLoop]) -> None:
    with asyncio.Runner(loop_factory=loops) as runner:
        runner.run(work)


def url_of(servers: Servers, kind: str) -> str:
    return "memory://" if kind == "memory" else str(servers.single().url)


@pytest.mark.parametrize("loops", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize("when", ["waits", "under way", "answered"])
@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("kind", ["memory", "redis"])
def test_cancelled_at_any_await_nothing_stays_taken(
    servers: Servers, kind: str, plan: str, when: When, loops: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def each() -> None:
        async with opened(url_of(servers, kind), plan) as path:
            at = 0
            while True:
                at += 1
                cut = Cut(at, when)
                await cut.run(path.request())
                await path.nothing_stays()
                if not cut.reached:
                    break
            # The engine's alone in memory; else the store's; with windows those of their own task as well.
            assert at > {"memory": 1, "redis": 2}[kind] + (3 if (kind, plan) == ("redis", "windows") else 0), at

    run(each(), loops)


Cuts = st.lists(
    st.tuples(st.integers(1, 10), st.sampled_from(["waits", "under way", "answered"]), st.integers(0, 3)), max_size=12
)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("kind", ["memory", "redis"])
@settings(max_examples=40)
@given(cuts=Cuts)
def test_many_at_once_cancelled_anywhere_leave_nothing_taken(
    servers: Servers, kind: str, plan: str, cuts: list[tuple[int, When, int]]
) -> None:
    """Each at an await of its own, begun after so many turns of the loop: some meet in one write and one read."""

    async def all_of_them() -> None:
        async with opened(url_of(servers, kind), plan) as path:

            async def one(at: int, when: When, turns: int) -> None:
                for _ in range(turns):
                    await asyncio.sleep(0)
                await Cut(at, when).run(path.request())

            await asyncio.gather(*(one(*cut) for cut in cuts))
            await path.nothing_stays()

    run(all_of_them(), uvloop.new_event_loop)
