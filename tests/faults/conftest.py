"""The gateway runs on uvloop, so its flows are tested on it: sockets end in another order there than on asyncio's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import uvloop

from tests.fakes import redis_servers
from tests.fakes.redis_fixtures import proxy, servers

__all__ = ["proxy", "pytest_asyncio_loop_factories", "redis", "servers"]


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """pytest-asyncio's way of being told which loop to use."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[redis_servers.Server]:
    """One that is not started yet."""
    one = redis_servers.Server(tmp_path / "redis")
    try:
        yield one
    finally:
        one.stop()
