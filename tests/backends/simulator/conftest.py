"""Every test of the server runs on asyncio's own loop, its process's, and on uvloop, the gateway's."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping

import pytest
import uvloop

from backends.simulator.server import Simulator
from backends.simulator.settings import SimulatorSettings


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture
async def sim() -> AsyncIterator[Simulator]:
    """Fast: no time to the first token, none between them; four tokens."""
    async with Simulator(SimulatorSettings(tokens=4)) as one:
        yield one
