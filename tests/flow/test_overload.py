"""Point 1 of issue 5 in short; `python -m tests.bench.overload` is the whole of it."""

from __future__ import annotations

import random

import pytest

from tests.bench.overload import SERVICE, SIZE, overload
from tests.pace import slowdown


@pytest.mark.timeout(120)
async def test_three_times_as_many_requests_as_a_pool_takes() -> None:
    seed = random.SystemRandom().randrange(1 << 31)
    report = await overload(6.0, seed)
    slow = slowdown()
    assert report.goodput >= 0.9 / slow, report
    assert report.late(0.1 * slow) == 0, report
    assert report.p95("high") <= 2 * SERVICE * slow, report
    # A tenth of the turns, give or take one or two.
    assert report.served["low"] >= 0.05 * sum(report.served.values()), report
    assert all(0.8 <= share <= 1.2 for share in report.shares.values()), report
    assert report.depth <= SIZE, report
    assert report.recovery <= 2 * slow, report
