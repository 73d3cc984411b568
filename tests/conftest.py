"""For every test: scripted backends, and examples that hypothesis does not time."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from hypothesis import HealthCheck, settings

from tests.fakes.backend import Backend
from tests.sizes import LONG, SEED

# An example that takes 200 ms fails otherwise, and so does one that is slow to draw: a machine that stands still is
# no bug of ours.
settings.register_profile("sluice", parent=settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("sluice")


def pytest_report_header() -> str:
    """Say what repeats this run."""
    return f"sizes: {'full' if LONG else 'sample'}, SLUICE_SEED={SEED}"


@pytest.fixture
async def backend() -> AsyncIterator[Backend]:
    """A backend that listens and answers 200 until it is told otherwise."""
    async with Backend() as one:
        yield one.answers(200)


@pytest.fixture
async def other() -> AsyncIterator[Backend]:
    """A second one."""
    async with Backend() as one:
        yield one.answers(200)
