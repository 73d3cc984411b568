"""Retries of the last 10 s <= floor + budget x requests of the last 10 s (policy key `retry`)."""

import time
import timeit
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.config.settings.routes import RetrySettings
from policies.resilience.retry import RetryBudget

DEFAULT = RetrySettings()


def granted(budget: RetryBudget, now: float, settings: RetrySettings = DEFAULT, asked: int = 1000) -> int:
    return sum(budget.take(now, settings) for _ in range(asked))


@pytest.mark.parametrize(
    ("requests", "floor", "share", "retries"),
    [
        (0, 10, 0.2, 10),
        (1, 10, 0.2, 10),
        (5, 10, 0.2, 11),
        (9, 10, 0.2, 11),
        (100, 10, 0.2, 30),
        (100, 0, 0.2, 20),
        (100, 0, 0.29, 29),
        (100, 3, 0.0, 3),
        (100, 0, 0.0, 0),
        (100, 0, 2.5, 250),
    ],
)
def test_the_arithmetic_of_one_moment(requests: int, floor: int, share: float, retries: int) -> None:
    budget = RetryBudget()
    for _ in range(requests):
        budget.request(50.0)
    assert granted(budget, 50.0, replace(DEFAULT, floor=floor, budget=share)) == retries


def test_what_is_refused_is_not_counted() -> None:
    budget = RetryBudget()
    assert granted(budget, 0.0) == 10
    for _ in range(5):
        budget.request(0.0)
    assert granted(budget, 0.0) == 1


@pytest.mark.parametrize("start", [0.0, 0.1, 3.0625, 1e6 + 1 / 3])
def test_ten_seconds_later_the_floor_is_there_again(start: float) -> None:
    budget = RetryBudget()
    assert granted(budget, start) == 10
    assert granted(budget, start + 9.99) == 0
    assert granted(budget, start + 10.125) == 10


def test_requests_count_for_ten_seconds() -> None:
    settings = replace(DEFAULT, floor=0)
    for later, retries in ((9.875, 20), (10.0, 0), (1e6, 0)):
        budget = RetryBudget()
        for _ in range(100):
            budget.request(7.0)
        assert granted(budget, 7.0 + later, settings) == retries


def test_a_clock_that_starts_anywhere_begins_with_nothing() -> None:
    for start in (-100.0, 0.0, 1e9):
        assert granted(RetryBudget(), start, replace(DEFAULT, floor=0)) == 0


def test_routes_of_one_pool_share_its_budget() -> None:
    budget = RetryBudget()
    assert granted(budget, 0.0, replace(DEFAULT, floor=4)) == 4
    assert granted(budget, 0.0, replace(DEFAULT, floor=4)) == 0
    assert granted(budget, 0.0, replace(DEFAULT, floor=6)) == 2


def test_an_even_pace_gets_its_share() -> None:
    budget, settings, granted_so_far = RetryBudget(), replace(DEFAULT, floor=0), 0
    for tick in range(60 * 100):
        budget.request(tick / 100)
        granted_so_far += budget.take(tick / 100, settings)
    assert 0.97 * 0.2 * 6000 <= granted_so_far <= 0.2 * 6000


STEPS = st.lists(
    st.tuples(
        st.sampled_from([0.0, 1 / 1024, 0.0625, 0.125, 0.7, 1.0, 9.0, 9.999, 10.0, 11.0, 500.0]),
        st.integers(0, 30),
        st.integers(0, 12),
    ),
    max_size=40,
)


@given(steps=STEPS, floor=st.integers(0, 5), share=st.sampled_from([0.0, 0.07, 0.2, 0.5, 1.0, 3.0]))
def test_the_budget_is_never_exceeded(steps: list[tuple[float, int, int]], floor: int, share: float) -> None:
    budget, settings, now = RetryBudget(), replace(DEFAULT, floor=floor, budget=share), 12.3
    requests: list[float] = []
    retries: list[float] = []
    for later, coming, asked in steps:
        now += later
        for _ in range(coming):
            budget.request(now)
            requests.append(now)
        for _ in range(asked):
            if not budget.take(now, settings):
                continue
            retries.append(now)
            recent = sum(moment > now - 10 for moment in requests)
            assert sum(moment > now - 10 for moment in retries) <= floor + share * recent + 1e-6


def test_a_request_pays_next_to_nothing() -> None:
    budget = RetryBudget()
    request = budget.request
    moments = [tick / 1000 for tick in range(20_000)]

    def count() -> None:
        for now in moments:
            request(now)

    # 0.1 us where nothing else runs; the bound is for coverage's tracer and a machine that runs nine other things.
    assert min(timeit.repeat(count, number=1, repeat=5, timer=time.process_time)) / len(moments) < 10e-6


def test_all_requests_so_far_are_counted_for_hedges() -> None:
    budget = RetryBudget()
    for now in (0.0, 1.0, 100.0):
        budget.request(now)
    assert budget.requests == 3
