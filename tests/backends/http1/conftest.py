"""The upstream client is tested on the loop that it is made for, and leaves no socket behind in any test."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest
import uvloop


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(autouse=True)
async def no_socket_stays() -> AsyncIterator[None]:
    before = _sockets()
    yield
    for _ in range(100):
        if _sockets() <= before:
            return
        await asyncio.sleep(0.01)
    assert _sockets() <= before


def _sockets() -> int:
    """Internet sockets of this process; the loop itself opens other descriptors when it likes."""
    inodes = set()
    for table in ("tcp", "tcp6"):
        lines = Path("/proc/self/net", table).read_text().splitlines()[1:]
        inodes |= {f"socket:[{line.split()[9]}]" for line in lines}
    count = 0
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            count += os.readlink(f"/proc/self/fd/{descriptor}") in inodes
    return count
