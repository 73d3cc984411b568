"""Ends what the tables of this folder have started."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contracts.limit_stages import SERVERS


@pytest.fixture(scope="session", autouse=True)
def servers() -> Iterator[None]:
    yield
    SERVERS.close()
