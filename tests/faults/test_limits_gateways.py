"""Faults 58 and 60: several gateways on one Redis, and one of them is killed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

from backends.store.base import LEASE_LIFETIME
from tests.fakes import redis_servers
from tests.fakes.backend import Backend
from tests.fakes.client import Client
from tests.faults.limit_rig import (
    anybody,
    chat,
    limited,
    ready,
    settled,
)
from tests.flow.harness import eventually, gateway_with
from tests.gateway.served import serving


async def test_two_gateways_on_one_redis_admit_exactly_the_limit(backend: Backend, redis: redis_servers.Server) -> None:
    redis.start()
    rules: list[dict[str, Any]] = [
        {"requests": "50/day", "per": "tenant"},
        {"concurrency": 1000},
        {"requests": "1000/day"},
    ]
    plan = limited(redis.url, *rules, timeout="5s", on_outage="closed")
    async with gateway_with(backend, policy=plan, quiet=False) as one:
        async with gateway_with(backend, policy=plan, quiet=False) as other:
            gateways = (one, other)
            asked = [gateways[number % 2].ask(stream=False) for number in range(200)]
            statuses = Counter([answer.status for answer in await asyncio.gather(*asked)])
            assert statuses == {200: 50, 429: 150}
            assert backend.attempts == 50
            # Who was refused took nothing of the other rules.
            await settled(one, [50, 0, 50])
            await settled(other, [50, 0, 50])


async def status(address: str, *, stream: bool = False) -> int:
    async with await Client.to(address) as client:
        await client.send(chat(stream))
        return (await client.answer()).status


def leases(redis: redis_servers.Server, bucket: str) -> dict[str, float]:
    """Who holds a slot, and until when; seconds of the server's clock."""
    found = redis.ask("ZRANGE", bucket, 0, -1, "WITHSCORES")
    return {lease: float(end) / 1e6 for lease, end in zip(found[::2], found[1::2], strict=True)}


def clock(redis: redis_servers.Server) -> float:
    """The server's."""
    seconds, micros = map(int, redis.ask("TIME"))
    return seconds + micros / 1e6


async def test_slots_of_a_gateway_that_was_killed_come_back(
    backend: Backend, redis: redis_servers.Server, tmp_path: Path
) -> None:
    redis.start()
    path = anybody(tmp_path / "p", backend, {"url": redis.url, "timeout": "5s"}, {"concurrency": 3, "per": "all"})
    with serving(path) as killed, serving(path) as other:
        first, second = await ready(killed), await ready(other)
        backend.streams("a", "b", hold=2)
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(3):
                client = await stack.enter_async_context(await Client.to(first))
                await client.send(chat(True))
                await client.until(b'"a"')
            backend.answers(200, b"{}")
            assert await status(second) == 429
            os.kill(killed.process.pid, signal.SIGKILL)
            await asyncio.to_thread(killed.process.wait, 5)
            assert await status(second) == 429
            (bucket,) = [key for key in redis.ask("KEYS", "*") if redis.ask("TYPE", key) == "zset" and "|" in key]
            held, now = leases(redis, bucket), clock(redis)
            assert len(held) == 3
            # They end a lifetime after they were taken or renewed, and whoever did that is dead.
            assert all(now < end <= now + LEASE_LIFETIME for end in held.values()), (held, now)
            # The same as waiting until a second before the first one's end, for all but the one who waits.
            skipped = min(held.values()) - clock(redis) - 1.0
            for lease, end in held.items():
                redis.ask("ZADD", bucket, "XX", f"{(end - skipped) * 1e6:.0f}", lease)
            moved = leases(redis, bucket)
            end = min(moved.values())
            while True:
                before = clock(redis)
                code = await status(second)
                if code == 200:
                    break
                # Whatever this machine does meanwhile: no request is refused that began after the end ...
                assert code == 429 and before <= end, (code, before, end)
                assert leases(redis, bucket) == moved, "nobody renews what a dead gateway held"
            # ... and none is let in before.
            assert clock(redis) > end
            await eventually(lambda: clock(redis) > max(moved.values()), "its clock stands still", timeout=20)
            statuses = await asyncio.gather(*(status(second) for _ in range(3)))
            assert statuses == [200] * 3
            # Nothing stays for ever.
            assert all(milliseconds > 0 for milliseconds in redis_servers.keys([redis]).values())
