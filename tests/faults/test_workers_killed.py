"""Kill -9 of one of two simulator workers under load."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from tests.flow.harness import Running, eventually, gateway_with

WORKERS = {
    "pools": {
        "pool": {
            "engine": "simulator",
            "endpoints": [],
            "workers": {"model": "m", "count": 2, "restart": {"backoff": "100ms"}, "start_timeout": "20s"},
        }
    }
}


def ready(gw: Running) -> set[str]:
    series = gw.series()
    return {
        dict(labels)["worker"]
        for (name, labels), value in series.items()
        if name == "worker_state" and value == 1 and ("state", "ready") in labels
    }


def processes() -> list[int]:
    """The process ids of our own children that listen as simulators."""
    me, found = os.getpid(), []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat") as stat, open(f"/proc/{name}/cmdline", "rb") as line:
                    if int(stat.read().rpartition(")")[2].split()[1]) == me and b"simulat" in line.read():
                        found.append(int(name))
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


@pytest.mark.timeout(120)
async def test_requests_after_a_worker_was_killed_succeed_and_it_comes_back() -> None:
    async with gateway_with(pools={"pool": []}, policy=WORKERS) as gw:
        await eventually(lambda: len(ready(gw)) == 2, "the workers never became ready", timeout=30)
        killed = asyncio.Event()
        stop = asyncio.Event()
        before: list[tuple[int, str]] = []
        after: list[tuple[int, str]] = []

        async def load() -> None:
            while not stop.is_set():
                began_after = killed.is_set()
                answer = await gw.ask("tell me something", max_tokens=20)
                (after if began_after else before).append((answer.status, answer.end))

        async with asyncio.TaskGroup() as group:
            for _ in range(8):
                group.create_task(load())
            await eventually(lambda: len(before) > 40, "no load", timeout=20)
            victim, *_ = processes()
            os.kill(victim, signal.SIGKILL)
            await eventually(lambda: len(ready(gw)) == 1, "nobody noticed", timeout=1.0)
            killed.set()
            await eventually(lambda: len(after) > 40, "no load", timeout=20)
            await eventually(lambda: len(ready(gw)) == 2, "it never came back", timeout=20)
            stop.set()
        assert set(after) == {(200, "complete")}
        assert gw.total("worker_restarts_total") == 1
        assert victim not in processes()
    assert processes() == []
