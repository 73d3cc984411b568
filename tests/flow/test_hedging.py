"""Point 4 of issue 5, in short: a pool of which one endpoint is now and then ten times as slow. `python -m
tests.bench.hedge` is the long version."""

from __future__ import annotations

import sys

from tests.bench.hedge import SLOW, Plan, measure
from tests.bench.load import share
from tests.pace import slowdown

SEED = 20


async def test_hedging_cuts_the_tail_off_and_costs_little() -> None:
    usual = 0.2 * slowdown()
    plan = Plan(usual, after=1.5 * usual, budget=0.06, rate=8 / usual, count=160, warm=80, seed=SEED)
    sys.stdout.write(f"{plan}\n")
    measured = await measure(plan, hedged=True)
    assert len(measured.first) == 160
    assert measured.p99 <= 0.3 * SLOW * usual, sorted(measured.first)[-5:]
    assert 0 < measured.extra <= 0.06
    # The middle one: the others are the machine's.
    assert share(measured.left, 0.5) <= 0.05, measured.left
