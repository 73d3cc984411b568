"""Hedging in short: a pool of which one endpoint is now and then ten times as slow. `python -m
tests.bench.hedge` is the long version."""

from __future__ import annotations

import sys

import pytest

from tests.bench.hedge import SLOW, Plan, measure
from tests.bench.load import share
from tests.pace import slowdown

SEED = 20
ROUNDS = 3
"""A machine that stands still for a moment spoils one, and what we do wrong spoils them all."""


@pytest.mark.timeout(180)
async def test_hedging_cuts_the_tail_off_and_costs_little() -> None:
    slow = slowdown()
    usual = 0.2 * slow
    plan = Plan(usual, after=1.5 * usual, budget=0.06, rate=8 / usual, count=160, warm=80, seed=SEED)
    sys.stdout.write(f"{plan}\n")
    for _ in range(ROUNDS):
        measured = await measure(plan, hedged=True)
        assert len(measured.first) == 160
        assert 0 < measured.extra <= 0.06
        # The middle one: the others are the machine's.
        left = share(measured.left, 0.5)
        if measured.p99 <= 0.3 * SLOW * usual and left <= 0.05 * slow:
            return
    raise AssertionError(f"p99 {measured.p99} of {usual}, a loser left after {left}: {sorted(measured.first)[-5:]}")
