"""The bound of a pool finds what its engines take, follows it, and never falls to nothing."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.capacity.adaptive import FIRST, MOST, AdaptiveLimit


def run(limit: AdaptiveLimit, capacity: int, answers: int, rng: random.Random, *, demand: int = 10**6) -> list[int]:
    """An engine that begins `capacity` streams at once after 0.1 s each, and the rest after those."""
    seen = []
    for _ in range(answers):
        taken = min(limit.limit, demand)
        wait = max(0, taken - capacity) / capacity * 2.0
        limit.answered("stream", (0.1 + wait) * rng.uniform(0.8, 1.2), taken)
        seen.append(limit.limit)
    return seen


@pytest.mark.parametrize("capacity", [10, 40, 300])
def test_it_finds_what_the_engine_takes(capacity: int) -> None:
    rng = random.Random(7)
    last = run(AdaptiveLimit(), capacity, 300 * capacity, rng)[-50 * capacity :]
    assert capacity * 0.7 <= sum(last) / len(last) <= capacity * 1.2
    assert max(last) <= capacity * 1.2 + 1


def test_it_follows_an_engine_that_takes_less_and_more_again() -> None:
    rng = random.Random(8)
    limit = AdaptiveLimit()
    run(limit, 40, 10_000, rng)
    last = run(limit, 10, 2_000, rng)[-500:]
    assert sum(last) / len(last) <= 14
    last = run(limit, 40, 40_000, rng)[-500:]
    assert sum(last) / len(last) >= 28


def test_slots_that_nobody_uses_do_not_become_more() -> None:
    limit = AdaptiveLimit()
    run(limit, 1000, 5_000, random.Random(9), demand=5)
    assert limit.limit == FIRST


def test_an_engine_that_says_so_gets_less_once_for_all_that_it_refuses() -> None:
    limit = AdaptiveLimit(100)
    for _ in range(100):
        limit.saturated(100)
    assert limit.limit == 80


@given(
    st.lists(
        st.tuples(st.sampled_from(["stream", "plain", "saturated"]), st.floats(0, 1000), st.integers(1, 5000)),
        max_size=300,
    )
)
def test_it_stays_within_its_bounds(events: list[tuple[str, float, int]]) -> None:
    limit = AdaptiveLimit()
    for kind, seconds, taken in events:
        if kind == "saturated":
            limit.saturated(taken)
        else:
            limit.answered("stream" if kind == "stream" else "plain", seconds, taken)
        assert 1 <= limit.limit <= MOST
