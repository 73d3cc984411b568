"""A store as a gateway has it, and somebody who asks it one request after the other."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random

from backends.store.factory import StoreContext, make_store
from backends.store.windowed_store import WindowedStore
from policies.config.settings import Secret
from policies.config.settings.auth import LimitSettings
from policies.config.settings.server import StoreSettings
from policies.config.units import RateValue
from policies.limits import Answer, Demand, Granted, LimitSubject, demands, rules_of
from policies.limits.rules import Outage
from tests.fakes.store import SpyMeter
from tests.pace import Watch

TIMEOUT = 0.2
BACK_WITHIN = 5.0
"""Seconds in which a store is found again: 2 are promised, and a busy machine may stand still meanwhile."""
SUBJECT = LimitSubject("k", "t", "u", "192.0.2.1", "m")
MANY = (LimitSettings(requests=RateValue(100_000, 86400)), LimitSettings(concurrency=1000))


@dataclass(frozen=True, slots=True)
class Asked:
    """answer: what came of it; seconds: how long it took; waited: whether it had to be waited for"""

    answer: Answer
    seconds: float
    waited: bool


class Asker:
    def __init__(self, store: WindowedStore, meter: SpyMeter, said: list[tuple[str, dict[str, object]]]) -> None:
        self.store = store
        self.meter = meter
        self.said = said
        self._leases = 0

    def plan(self, *limits: LimitSettings, on_outage: Outage = "local") -> tuple[Demand, ...]:
        """What one request asks under a plan with these limits."""
        rules = rules_of("plan", limits, on_outage)
        self.store.ready(rules)
        return demands(rules, SUBJECT, tokens=1)

    async def ask(self, asked: Sequence[Demand]) -> Asked:
        self._leases += 1
        watch = Watch()
        answer = self.store.take(asked, f"lease-{id(self)}-{self._leases}")
        waited = isinstance(answer, asyncio.Future)
        found = await answer if isinstance(answer, asyncio.Future) else answer
        return Asked(found, watch.own, waited)

    async def mode(self, asked: Sequence[Demand]) -> str:
        """By whom a request was decided just now; it is over at once."""
        answer = (await self.ask(asked)).answer
        if isinstance(answer, Granted):
            self.store.refund(answer, [(demand, -demand.amount) for demand in asked])
        return answer.mode

    async def lose(self, asked: Sequence[Demand]) -> list[Asked]:
        """Ask until nobody waits for the store any more: all that were asked till then."""
        found: list[Asked] = []
        ends = time.perf_counter() + 20
        while True:
            assert time.perf_counter() < ends, "the store still decides"
            one = await self.ask(asked)
            if not one.waited:
                return found
            if one.answer.mode != "store":
                found.append(one)
            assert len(found) < 10

    @staticmethod
    async def until(true: Callable[[], bool], within: float = 20.0) -> None:
        """Return when something is so that only asking again can show."""
        ends = time.perf_counter() + within
        while not true():
            assert time.perf_counter() < ends
            await asyncio.sleep(0.05)

    async def back(self, asked: Sequence[Demand], within: float = BACK_WITHIN) -> float:
        """Seconds until the store decides again."""
        began = time.perf_counter()
        while await self.mode(asked) != "store":
            assert time.perf_counter() - began < within, (self.said, self.meter.errors)
            await asyncio.sleep(0.01)
        return time.perf_counter() - began

    def events(self) -> list[str]:
        return [event for event, _ in self.said]


@asynccontextmanager
async def asker(
    url: str, *, timeout: float = TIMEOUT, on_outage: Outage = "local", password: str | None = None, start: bool = True
) -> AsyncIterator[Asker]:
    meter, said = SpyMeter(), list[tuple[str, dict[str, object]]]()
    secret = None if password is None else Secret(env="SOME", value=password)
    around = StoreContext(time.monotonic, time.time() - time.monotonic(), Random(), meter, lambda event, what: said.append((event, dict(what))))  # noqa: E501, TID251  # as main does  # fmt: skip
    store = make_store(StoreSettings(url=url, timeout=timeout, on_outage=on_outage, password=secret), around)
    if start:
        await store.start()
    try:
        yield Asker(store, meter, said)
    finally:
        await store.stop()
