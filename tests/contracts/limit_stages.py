"""Where the contract of limits is shown: each store with what a test needs beside it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, Protocol
from uuid import uuid4

from backends.store.base import LimitStore
from backends.store.factory import open_memory
from policies.config.settings.auth import LimitSettings
from policies.config.units import RateValue
from policies.limits import Answer, Demand, Granted, LimitRefused, LimitRule, LimitSubject, demands, rules_of
from tests.contracts.redis_stage import redis_stage
from tests.fakes.redis_servers import Servers

START: Final = 1_700_000_000.0
"""Unix seconds of a stage's beginning, as near as the store can be made to believe it: its day has begun 22 h ago, its
hour 800 s, its minute 20 s."""


class Stage(Protocol):
    """One store with nothing in it, and the power over its time."""

    @property
    def store(self) -> LimitStore: ...

    mortal: bool
    """Whether who holds a lease can die and the store go on."""

    def ready(self, rules: Sequence[LimitRule]) -> None:
        """These rules will be asked for."""

    async def advance(self, seconds: float) -> None:
        """The store's time goes on."""

    async def settled(self) -> None:
        """Return when what was told to `settle` has been carried out."""

    async def peer(self) -> LimitStore:
        """The store as another process has it; itself where there can be no other."""

    async def die(self) -> None:
        """The process of `store` is killed, and another takes its place."""


class MemoryStage:
    mortal = False

    def __init__(self) -> None:
        self.now = 5000.0
        self.memory = open_memory(lambda: self.now, START - self.now)
        self.store: LimitStore = self.memory

    def ready(self, rules: Sequence[LimitRule]) -> None:
        self.memory.ready(rules)

    async def advance(self, seconds: float) -> None:
        self.now += seconds

    async def settled(self) -> None:
        pass

    async def peer(self) -> LimitStore:
        return self.store

    async def die(self) -> None:
        raise AssertionError("its leases die with it")


@asynccontextmanager
async def memory() -> AsyncIterator[Stage]:
    yield MemoryStage()


SERVERS: Final = Servers()
"""Of the whole run; each kind is started when it is first needed, and `conftest.py` ends them."""


def on_redis(kind: str) -> Callable[[], AbstractAsyncContextManager[Stage]]:
    """A stage on a Redis that all tests share, under a prefix of its own."""

    def opened() -> AbstractAsyncContextManager[Stage]:
        prefix = f"t{uuid4().hex[:12]}"
        if kind == "single":
            one = SERVERS.single()
            return redis_stage(one.url, [one], one, prefix, START)
        if kind == "sentinel":
            watched = SERVERS.sentinels()
            return redis_stage(watched.url, [watched.primary], watched.primary, prefix, START)
        nodes = SERVERS.cluster()
        return redis_stage(nodes.url, nodes.nodes, nodes.owner(f"{{{prefix}:limits:v1}}:"), prefix, START)

    return opened


STAGES: Final[Mapping[str, Callable[[], AbstractAsyncContextManager[Stage]]]] = {
    "memory": memory,
    "redis": on_redis("single"),
    "sentinel": on_redis("sentinel"),
    "cluster": on_redis("cluster"),
}
MORTAL: Final[Sequence[str]] = ["redis", "sentinel", "cluster"]
"""Those of them whose leases outlive their holder."""

SUBJECT: Final = LimitSubject(key="k1", tenant="acme", user="u1", ip="192.0.2.1", model="m")


def plan(stage: Stage, *limits: LimitSettings, name: str = "plan") -> tuple[LimitRule, ...]:
    """The rules of a plan with these limits, which the stage is ready for."""
    rules = rules_of(name, limits, "closed")
    stage.ready(rules)
    return rules


def per(count: int, seconds: int, what: str = "requests", **more: Any) -> LimitSettings:
    return LimitSettings(**{what: RateValue(count, seconds), **more})


async def take(store: LimitStore, asked: Sequence[Demand], lease: str = "lease") -> Answer:
    answer = store.take(asked, lease)
    return await answer if isinstance(answer, asyncio.Future) else answer


async def granted(store: LimitStore, asked: Sequence[Demand], lease: str = "lease") -> Granted:
    answer = await take(store, asked, lease)
    assert isinstance(answer, Granted), answer
    return answer


async def refused(store: LimitStore, asked: Sequence[Demand], lease: str = "lease") -> LimitRefused:
    answer = await take(store, asked, lease)
    assert isinstance(answer, LimitRefused), answer
    return answer


def one(
    rules: Sequence[LimitRule], subject: LimitSubject = SUBJECT, tokens: int = 0, output: int = 0
) -> tuple[Demand, ...]:
    """What one request asks."""
    return demands(rules, subject, tokens, output)


async def remaining(store: LimitStore, asked: Sequence[Demand]) -> list[int]:
    return [level.remaining for level in await store.seen(asked)]
