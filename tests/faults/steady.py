"""Four simulator workers of the supervisor under a steady load: shared by the tests of failing workers."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.faults.scenes import state
from tests.flow.harness import Running, eventually, gateway_with, merged
from tests.soak.faults import tell

TOKENS = 20
WORKERS = {"model": "m", "count": 4, "restart": {"backoff": "6s"}, "start_timeout": "20s",
           "args": {"first-byte": "20ms", "gap": "16ms", "tokens": TOKENS}}  # fmt: skip
NAMES = tuple(f"pool-w{number}" for number in range(4))
FIRST_BYTE = 1.0
SLOWEST = 1.8
"""After so long every attempt on a silent worker has run into its timer."""
TIMEOUTS = {"connect": "500ms", "first_byte": "1s", "first_byte_plain": "1500ms", "idle": "1s"}
"""A whole answer takes a third of a second; the gateway, its clients and four workers share the machine."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One answer. Times are the loop's."""

    began: float
    ended: float
    status: int
    end: str
    endpoint: str | None
    attempts: int

    @property
    def good(self) -> bool:
        return (self.status, self.end) == (200, "complete")


@dataclass(slots=True)
class Load:
    """So many requests a second, whatever the answers take; every `plain`th of them is no stream, and each has a
    connection of its own."""

    gw: Running
    rate: float
    plain: int = 2
    seen: list[Seen] = field(default_factory=list)
    late: float = 0.0
    """The longest that this loop, which is the gateway's too, had no time for anything, seconds."""

    async def run(self) -> None:
        """Until cancelled; then those under way come to their end."""
        loop = asyncio.get_running_loop()
        began, sent = loop.time(), 0
        async with asyncio.TaskGroup() as group:
            try:
                while True:
                    while sent < (loop.time() - began) * self.rate:
                        sent += 1
                        group.create_task(self._ask(stream=sent % self.plain > 0), name="request")
                    before = loop.time()
                    await asyncio.sleep(0.005)
                    self.late = max(self.late, loop.time() - before)
            except asyncio.CancelledError:
                pass

    async def _ask(self, *, stream: bool) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        answer = await self.gw.ask("tell me something", stream=stream)
        endpoint, attempts = answer.header("x-sluice-endpoint"), int(answer.header("x-sluice-attempts") or 0)
        self.seen.append(Seen(began, loop.time(), answer.status, answer.end, endpoint, attempts))

    @property
    def errors(self) -> list[Seen]:
        return [one for one in self.seen if not one.good]


@dataclass(slots=True)
class House:
    """The gateway, its workers and the load."""

    gw: Running
    load: Load

    def addresses(self) -> dict[str, str]:
        """Of the workers that are in the table now: name -> host:port."""
        view = self.gw.gateway.plane.view
        assert view is not None
        return {one.name: f"{one.spec.host}:{one.spec.port}" for one in view.pools["pool"].candidates}

    def pid(self, name: str) -> int:
        """The process of a worker: our child that was told its port."""
        wanted = self.addresses()[name].rpartition(":")[2].encode()
        for entry in os.listdir("/proc"):
            if not entry.isdigit():
                continue
            with contextlib.suppress(OSError):
                with open(f"/proc/{entry}/stat") as stat, open(f"/proc/{entry}/cmdline", "rb") as line:
                    words = line.read().split(b"\0")
                    ours = int(stat.read().rpartition(")")[2].split()[1]) == os.getpid()
                if ours and wanted in words and b"backends.simulator" in words:
                    return int(entry)
        raise AssertionError(f"{name} has no process")

    async def fault(self, *names: str, **fault: Any) -> None:
        """Set a fault on these workers."""
        for address in [self.addresses()[name] for name in names]:
            await tell(address, "POST", [fault])

    async def well(self, *names: str) -> None:
        """End all faults of these workers."""
        for address in [self.addresses()[name] for name in names]:
            await tell(address, "DELETE", None)

    def attempts(self) -> dict[str, float]:
        """So far, by worker."""
        return {name: self.gw.total("attempts_total", endpoint=name) for name in NAMES}

    async def shares(self, seconds: float) -> dict[str, float]:
        """Each worker's part of the attempts that end in so many seconds from now."""
        before = self.attempts()
        await asyncio.sleep(seconds)
        made = {name: count - before[name] for name, count in self.attempts().items()}
        return {name: count / max(1.0, sum(made.values())) for name, count in made.items()}

    def state(self, name: str) -> str:
        return state(self.gw, name)

    def breaker(self, name: str) -> str:
        return state(self.gw, name, "breaker_state")


@contextlib.asynccontextmanager
async def four_workers(
    rate: float,
    *,
    plain: int = 2,
    pool: Mapping[str, Any] | None = None,
    retry: Mapping[str, Any] | None = None,
) -> AsyncIterator[House]:
    """All four ready and under load for a moment. `pool` is laid over a pool with the defaults of everything."""
    settings = merged({"engine": "simulator", "endpoints": [], "workers": WORKERS}, pool or {})
    rule = {"timeouts": TIMEOUTS, **({"retry": retry} if retry is not None else {})}
    async with gateway_with(pools={"pool": []}, policy={"pools": {"pool": settings}}, route=rule) as gw:
        await eventually(lambda: gw.total("worker_state", state="ready") == 4, "the workers never got ready", 30)
        load = Load(gw, rate, plain)
        task = asyncio.get_running_loop().create_task(load.run(), name="load")
        try:
            await eventually(lambda: len(load.seen) >= rate / 2, "no load", 10)
            yield House(gw, load)
        except AssertionError as error:
            # Whose loop stands still for as long as an engine may be silent takes all engines for silent ones.
            if load.late > FIRST_BYTE / 2:
                pytest.skip(f"this machine had no time for the gateway for {load.late:.1f} s: {error}")
            raise
        finally:
            task.cancel()
            await task
