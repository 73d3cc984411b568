"""Processes race for one bucket (16 of them in a long run): on every kind of Redis exactly as many requests are
admitted as the limit allows."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

import pytest

from tests.fakes.redis_servers import Servers, keys
from tests.faults.limit_client import COUNT
from tests.sizes import size

ROOT = Path(__file__).parents[2]
PROCESSES = size(4, 16)
REQUESTS = size(400, 200)
# A hit is atomic, so no window admits more than its limit; between reading and hitting some may be refused for nothing.
WINDOW_BOUND = 16 * PROCESSES


def admitted(url: str, strategies: Sequence[str]) -> dict[str, list[int]]:
    """How many requests of each process were admitted, by strategy."""
    command = [sys.executable, "-m", "tests.faults.limit_client", url, f"x{uuid4().hex[:8]}", str(REQUESTS)]
    counts = {}
    with ExitStack() as stack:
        started = [
            stack.enter_context(
                subprocess.Popen(
                    [*command, *strategies], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
                )
            )
            for _ in range(PROCESSES)
        ]
        try:
            for strategy in strategies:
                assert [line(one) for one in started] == ["ready"] * PROCESSES
                for one in started:
                    tell(one)
                counts[strategy] = [int(line(one)) for one in started]
                for one in started:
                    tell(one)
            assert [one.wait(20) for one in started] == [0] * PROCESSES
        finally:
            for one in started:
                one.kill()
    return counts


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", ["single", "sentinels", "cluster"])
def test_processes_on_a_bucket_of_1000_admit_exactly_1000(servers: Servers, kind: str) -> None:
    redis = getattr(servers, kind)()
    counts = admitted(redis.url, ["token_bucket", "fixed_window", "concurrency"])
    assert {strategy: sum(each) for strategy, each in counts.items()} == dict.fromkeys(counts, COUNT), counts


@pytest.mark.timeout(120)
def test_processes_on_a_window_admit_no_more_than_it_holds(servers: Servers) -> None:
    redis = servers.single()
    for each in admitted(redis.url, ["sliding_window", "moving_window"]).values():
        assert COUNT - WINDOW_BOUND <= sum(each) <= COUNT, each
    left = keys([redis])
    assert left and all(milliseconds > 0 for milliseconds in left.values()), left
