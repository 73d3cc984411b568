"""Overload in short: `python -m tests.bench.overload` is the full measurement."""

from __future__ import annotations

import random

import pytest

from tests.bench.overload import SERVICE, SIZE, Report, overload
from tests.pace import slowdown

ROUNDS = 3
"""A machine that stands still for a moment spoils one, and what we do wrong spoils them all."""


def wrong(report: Report, slow: float) -> list[str]:
    """What is not as it should be."""
    good = {
        "goodput": report.goodput >= 0.9 / slow,
        "late": report.late(0.1 * slow) == 0,
        "high priority": report.p95("high") <= 2 * SERVICE * slow,
        # A tenth of the turns, give or take one or two.
        "low priority": report.served["low"] >= 0.05 * sum(report.served.values()),
        "shares": all(0.8 <= share <= 1.2 for share in report.shares.values()),
        "depth": report.depth <= SIZE,
        "recovery": report.recovery <= 2 * slow,
    }
    return [name for name, so in good.items() if not so]


@pytest.mark.timeout(180)
async def test_three_times_as_many_requests_as_a_pool_takes() -> None:
    seen = []
    for _ in range(ROUNDS):
        report = await overload(6.0, random.SystemRandom().randrange(1 << 31))
        found = wrong(report, slowdown())
        if not found:
            return
        seen.append(f"{', '.join(found)}:\n{report}")
    raise AssertionError("\n\n".join(seen))
