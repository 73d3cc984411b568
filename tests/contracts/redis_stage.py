"""Limits in a real Redis, whose time is ours: the scripts read it from a key instead of the server's clock."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from random import Random

from backends.store.base import LimitStore
from backends.store.factory import open_memory
from backends.store.outage import GuardedStore, StoreOutage
from backends.store.redis_client import RedisClient
from backends.store.redis_errors import StoreLostError
from backends.store.redis_link import Stopwatch
from backends.store.redis_store import RedisStore, StoreIdentity
from backends.store.redis_windows import open_redis_windows
from backends.store.redis_wire import Scripts
from backends.store.windowed_store import WindowedStore
from policies.config.store_url import read_target
from policies.limits import LimitRule
from tests.fakes.redis_servers import Server
from tests.fakes.store import SpyMeter

_CLOCK = "redis.call('MGET', KEYS[1]:match('^{.-}:') .. 'clock-s', KEYS[1]:match('^{.-}:') .. 'clock-us')"


def scripts_with_our_clock() -> Scripts:
    shipped = Scripts.shipped()
    assert all("redis.call('TIME')" in text for text in shipped.texts.values())
    return Scripts({name: text.replace("redis.call('TIME')", _CLOCK) for name, text in shipped.texts.items()})


class Process:
    """The store as one process has it."""

    def __init__(self, url: str, sharing: StoreIdentity, scripts: Scripts, timeout: float = 5.0) -> None:
        loop = asyncio.get_running_loop()
        self.meter = SpyMeter()
        self.said: list[tuple[str, dict[str, object]]] = []
        self.client = RedisClient(read_target(url), None, sharing.keys)
        outage = StoreOutage(
            open_memory(loop.time, time.time() - loop.time()),  # noqa: TID251  # windows of local shares begin with the hour
            "closed", self.meter, lambda event, what: self.said.append((event, dict(what))), loop.time,
        )  # fmt: skip
        self.redis = RedisStore(
            self.client, scripts, sharing, outage, Random(), Stopwatch(time.monotonic, self.meter.store_seconds)
        )
        self.store = WindowedStore(
            GuardedStore(self.redis, outage, StoreLostError),
            lambda: open_redis_windows(self.redis, sharing.keys),
            outage.answer,
        )

    async def settled(self) -> None:
        # Replies come in their order: after the first what was given back is known, after the second it is carried out.
        await self.redis.beat()
        await self.redis.beat()


class RedisStage:
    mortal = True

    def __init__(self, url: str, nodes: Sequence[Server], owner: Server, prefix: str, start: float) -> None:
        self._url = url
        self._nodes = nodes
        self._owner = owner
        self._prefix = prefix
        self._now = round(start * 1_000_000)
        self._scripts = scripts_with_our_clock()
        self._rules: list[LimitRule] = []
        self._living: list[Process] = []
        self._mine = self._born()
        self._peer: Process | None = None
        self._tell_time()

    @property
    def store(self) -> LimitStore:
        return self._mine.store

    def ready(self, rules: Sequence[LimitRule]) -> None:
        self._rules += rules
        for process in self._living:
            process.store.ready(rules)

    async def advance(self, seconds: float) -> None:
        self._now += round(seconds * 1_000_000)
        self._tell_time()
        # What they do every ten seconds.
        for process in self._living:
            await process.redis.beat()
        for node in self._nodes:
            for key in node.ask("KEYS", f"*{self._prefix}:limits:v1}}:w*"):
                _age(node, key, seconds)

    def jump(self, seconds: float) -> None:
        """The server's clock jumps; no time has passed."""
        self._now += round(seconds * 1_000_000)
        self._tell_time()

    async def settled(self) -> None:
        for process in self._living:
            await process.settled()

    async def peer(self) -> LimitStore:
        if self._peer is None:
            self._peer = self._born()
        return self._peer.store

    async def die(self) -> None:
        self._living.remove(self._mine)
        await self._mine.redis.channel.close()
        self._mine = self._born()

    async def close(self) -> None:
        for process in self._living:
            await process.redis.stop(1.0)
            assert process.meter.errors == {}, process.said

    def _born(self) -> Process:
        sharing = StoreIdentity(self._prefix, 5.0, f"process-{len(self._living)}-{id(self)}")
        process = Process(self._url, sharing, self._scripts)
        process.store.ready(self._rules)
        self._living.append(process)
        return process

    def _tell_time(self) -> None:
        tag = f"{{{self._prefix}:limits:v1}}:"
        self._owner.ask(
            "MSET", f"{tag}clock-s", self._now // 1_000_000, f"{tag}clock-us", self._now % 1_000_000
        )  # fmt: skip


def _age(node: Server, key: str, seconds: float) -> None:
    """A window of the library ends so much sooner. The times in it are ours; how long it is there is the server's."""
    left = node.ask("PTTL", key) - round(seconds * 1000)
    if left <= 0:
        node.ask("DEL", key)
        return
    node.ask("PEXPIRE", key, left)


@asynccontextmanager
async def redis_stage(
    url: str, nodes: Sequence[Server], owner: Server, prefix: str, start: float
) -> AsyncIterator[RedisStage]:
    stage = RedisStage(url, nodes, owner, prefix, start)
    try:
        yield stage
    finally:
        await stage.close()
