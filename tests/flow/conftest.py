"""The gateway runs on uvloop, so its flows are tested on it: sockets end in another order there than on asyncio's."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Mapping

import pytest
import uvloop


def pytest_collection_finish() -> None:
    """Take what was collected (tests, modules) out of the garbage collector's sight, in every process of a run.

    The harness collects garbage twice for each gateway. With the objects of all tests of the suite, 430,000, that takes
    0.6 s of CPU; with those that a test itself makes, 10 ms.
    """
    gc.collect()
    gc.freeze()


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """pytest-asyncio's way of being told which loop to use."""
    return {"uvloop": uvloop.new_event_loop}
