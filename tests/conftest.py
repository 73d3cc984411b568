"""Fixtures for every test: scripted backends."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.fakes.backend import Backend


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
