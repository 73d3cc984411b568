"""The gateway is killed with -9: no worker outlives it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.backends.workers.conftest import become, gone

SCRIPT = Path(__file__).with_name("gateway.py")
ROOT = Path(__file__).parents[3]


def started(*arguments: str, **environ: str) -> subprocess.Popen[str]:
    env = {**os.environ, "PYTHONPATH": ".", **environ}
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=env)


@contextmanager
def gateway(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, list[int]]]]:
    """A process that runs a supervisor; yields it with the process ids that it told, once all workers are ready."""
    process = started(*arguments)
    assert process.stdout is not None
    told: dict[str, list[int]] = {}
    with process, process.stdout:
        try:
            for line in process.stdout:
                word, *numbers = line.split()
                if word == "ready":
                    break
                told.setdefault(word, []).extend(map(int, numbers))
            yield process, told
        finally:
            process.kill()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_all_groups_go_with_a_gateway_that_is_killed(loop: str) -> None:
    with gateway(loop, "ignore_term", "fork", "session", "shared") as (process, told):
        assert len(told["worker"]) == 2 and len(told["helper"]) == 4
        process.kill()
        await gone(*told["worker"], *told["helper"], *told["guard"])
        assert _segments(told["segment"]) == []


async def test_a_kill_of_the_gateways_whole_group_does_not_reach_the_guard_first() -> None:
    with gateway("asyncio", "fork") as (process, told):
        os.kill(told["guard"][0], signal.SIGTERM)
        os.kill(told["guard"][0], signal.SIGINT)
        process.kill()
        await gone(*told["worker"], *told["helper"], *told["guard"])


async def test_the_kernel_ends_the_engines_where_the_guard_dies_too() -> None:
    with gateway("asyncio") as (process, told):
        os.kill(process.pid, signal.SIGSTOP)
        os.kill(told["guard"][0], signal.SIGKILL)
        process.kill()
        await gone(*told["worker"], *told["guard"])


async def test_a_gateway_killed_while_it_starts_its_workers_leaves_none() -> None:
    mark = f"{os.getpid()}-at-start"
    for delay in (0.15, 0.2, 0.25, 0.3):
        with started("asyncio", "fork", AT_START=mark) as process:
            await asyncio.sleep(delay)
            process.kill()
        await become(lambda: not _with_environment(f"AT_START={mark}"))


def _segments(numbers: list[int]) -> list[Path]:
    paths = [Path(f"/dev/shm/psm_{number:08x}") for number in numbers]
    return [path for path in paths if path.exists()]


def _with_environment(entry: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if entry.encode() in path.read_bytes().split(b"\0"):
                found.append(path.parent.name)
        except OSError:
            continue
    return found
