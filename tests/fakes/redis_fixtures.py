"""Redis servers of a module's tests, as fixtures; the conftest.py of a folder imports those that it offers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.fakes.redis_servers import Server, Servers
from tests.fakes.store_proxy import StoreProxy, store_proxy

__all__ = ["proxy", "servers"]


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    """One server, sentinels and a cluster, each started when it is first used. Tests leave them as they were."""
    started = Servers()
    try:
        yield started
    finally:
        started.close()


@pytest.fixture
async def proxy(redis: Server) -> AsyncIterator[StoreProxy]:
    """A proxy before the module's `redis`, which is emptied first."""
    redis.ask("FLUSHALL")
    async with store_proxy(redis.port) as one:
        yield one
