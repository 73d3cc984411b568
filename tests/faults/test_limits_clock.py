"""fault 59: the gateway's wall clock jumps, and no limit notices."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import redis_servers
from tests.fakes.backend import Backend
from tests.fakes.client import Client
from tests.faults.limit_rig import (
    anybody,
    chat,
    ready,
)
from tests.flow.harness import eventually
from tests.gateway.served import serving

JUMPY = """
import os, time
_real = time.time
def _jumped():
    try:
        with open(os.environ['SLUICE_TEST_JUMP']) as file:
            by = file.read() or '0'
    except FileNotFoundError:
        by = '0'
    if by != '0':
        with open(os.environ['SLUICE_TEST_JUMP'] + '.seen', 'w') as file:
            file.write(by)
    return _real() + float(by)
time.time = _jumped
"""


BUCKETS: dict[str, list[dict[str, Any]]] = {
    "token_bucket": [{"requests": "5/day"}],
    "fixed_window": [{"requests": "5/month", "strategy": "fixed_window"}],
    "sliding_window": [{"requests": "5/day", "strategy": "sliding_window"}],
    "moving_window": [{"requests": "5/day", "strategy": "moving_window"}],
}


@pytest.mark.parametrize("strategy", BUCKETS)
@pytest.mark.parametrize("kind", ["memory", "redis"])
async def test_the_gateways_clock_jumps_and_no_limit_notices(
    backend: Backend, redis: redis_servers.Server, tmp_path: Path, kind: str, strategy: str
) -> None:
    """A real process whose `time.time` (all that Python code has of the wall clock here) is moved under it."""
    if kind == "redis":
        redis.start()
    library, jump = tmp_path / "library", tmp_path / "jump"
    library.mkdir()
    (library / "sitecustomize.py").write_text(JUMPY)
    store = {"url": redis.url if kind == "redis" else "memory://", "timeout": "5s", "on_outage": "closed"}
    path = anybody(tmp_path / "p", backend, store, {"concurrency": 2, "per": "all"}, *BUCKETS[strategy])
    with serving(path, PYTHONPATH=str(library), SLUICE_TEST_JUMP=str(jump)) as served:
        address = await ready(served)
        backend.streams("a", "b", hold=2)
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(2):
                client = await stack.enter_async_context(await Client.to(address))
                await client.send(chat(True))
                await client.until(b'"a"')
            for by in JUMPS:
                jump.write_text(by)
                # Nobody's slot has ended.
                assert await refusal(address) == "concurrency_limit_exceeded"
        backend.answers(200, b"{}")
        async with asyncio.timeout(20):
            while (code := await refusal(address)) not in USED_UP:
                assert code in (None, "concurrency_limit_exceeded")
        assert backend.attempts == 5
        # A day that did not pass gives nothing back, and one that came back takes nothing.
        for by in JUMPS:
            jump.write_text(by)
            assert await refusal(address) in USED_UP, by
        assert backend.attempts == 5
        jump.write_text("7")
        seen = Path(f"{jump}.seen")
        await refusal(address)
        await eventually(lambda: seen.exists() and seen.read_text() == "7", "the process never sees a jump")


USED_UP = ("rate_limit_exceeded", "insufficient_quota")
JUMPS = ("3600", "-3600", "86401", "-86401", "0")


async def refusal(address: str) -> str | None:
    """The code with which a request is refused; None where it is not."""
    async with await Client.to(address) as client:
        await client.send(chat(False))
        answer = await client.answer()
        return None if answer.status == 200 else answer.error["code"]
