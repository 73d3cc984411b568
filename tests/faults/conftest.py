"""The gateway runs on uvloop, so its flows are tested on it: sockets end in another order there than on asyncio's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """pytest-asyncio's way of being told which loop to use."""
    return {"uvloop": uvloop.new_event_loop}
