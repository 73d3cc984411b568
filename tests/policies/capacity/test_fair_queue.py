"""Tenants are served by their weights while they wait, in their own order, and nobody is lost."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.capacity.fair_queue import FairQueue

WEIGHTS = {"a": 1.0, "b": 2.0, "c": 5.0}


def test_one_tenant_is_first_come_first_served() -> None:
    queue: FairQueue[int] = FairQueue()
    for number in range(5):
        queue.push("a", 1.0, number)
    assert [queue.peek(), *(queue.take() for _ in range(5))] == [0, 0, 1, 2, 3, 4]
    with pytest.raises(IndexError):
        queue.peek()


def test_tenant_that_sends_one_is_not_behind_the_hundred_of_another() -> None:
    queue: FairQueue[str] = FairQueue()
    for number in range(100):
        queue.push("many", 1.0, f"m{number}")
    queue.push("one", 1.0, "o")
    assert queue.ahead("other", 1.0) == 2
    assert "o" in [queue.take(), queue.take()]


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=60))
def test_backlogged_tenants_get_their_weights_at_every_moment(order: list[str]) -> None:
    """Goyal's bound: the normalised service of any two that always wait differs by a request of each at most."""
    queue: FairQueue[tuple[str, int]] = FairQueue()
    for tenant, weight in WEIGHTS.items():
        for number in range(200):
            queue.push(tenant, weight, (tenant, number))
    served = dict.fromkeys(WEIGHTS, 0)
    for turn in range(200):
        tenant, number = queue.take()
        assert number == served[tenant]
        served[tenant] += 1
        for one in "abc":
            for other in "abc":
                apart = abs(served[one] / WEIGHTS[one] - served[other] / WEIGHTS[other])
                assert apart <= 1 / WEIGHTS[one] + 1 / WEIGHTS[other] + 1e-9
        if turn < len(order):
            queue.push(order[turn], WEIGHTS[order[turn]], (order[turn], 200 + turn + 10_000))
            served_last = queue.newest(order[turn])
            assert queue.remove(order[turn], served_last)


@given(st.randoms(use_true_random=False))
def test_whoever_leaves_costs_its_tenant_nothing(rng: random.Random) -> None:
    queue: FairQueue[tuple[str, int]] = FairQueue()
    for number in range(100):
        queue.push("a", 1.0, ("a", number))
        queue.push("b", 1.0, ("b", number))
    for number in rng.sample(range(100), 50):
        assert queue.remove("a", ("a", number))
    first = [queue.take()[0] for _ in range(80)]
    assert abs(first.count("a") - first.count("b")) <= 1


def test_tenant_that_comes_back_does_not_begin_anew() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.push("slow", 0.5, "s1")
    for number in range(10):
        queue.push("a", 1.0, f"a{number}")
    assert queue.take() == "s1"
    queue.push("slow", 0.5, "s2")
    # It had a turn worth two of the other's.
    assert [queue.take() for _ in range(3)].count("s2") == 1


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.sampled_from([0.5, 1.0, 3.0]), st.integers(0, 3)), max_size=200))
def test_nobody_is_lost_and_counts_are_right(steps: list[tuple[str, float, int]]) -> None:
    queue: FairQueue[int] = FairQueue()
    inside: dict[int, str] = {}
    for number, (tenant, weight, kind) in enumerate(steps):
        if kind <= 1:
            queue.push(tenant, weight, number)
            inside[number] = tenant
        elif kind == 2 and inside:
            chosen = sorted(inside)[number % len(inside)]
            assert queue.remove(inside.pop(chosen), chosen)
            assert not queue.remove(tenant, chosen)
        elif inside:
            head = queue.peek()
            assert queue.take() == head
            mine = [one for one, whose in inside.items() if whose == inside[head]]
            assert head == min(mine)
            del inside[head]
        counts = {whose: list(inside.values()).count(whose) for whose in set(inside.values())}
        assert (len(queue), dict(queue.counts())) == (len(inside), counts)
        assert all(queue.count(whose) == counts.get(whose, 0) for whose in "abcde")
        assert 0 <= queue.ahead(tenant, weight) <= len(queue)


def test_what_left_is_not_kept() -> None:
    queue: FairQueue[int] = FairQueue()
    queue.push("stays", 1.0, -1)
    for number in range(10_000):
        queue.push(f"t{number}", 1.0, number)
        assert queue.remove(f"t{number}", number)
    assert len(queue._heap) < 100 and len(queue._flows) < 100


def test_the_longest_queue_is_by_weight() -> None:
    queue: FairQueue[int] = FairQueue()
    for number in range(3):
        queue.push("light", 1.0, number)
    for number in range(4):
        queue.push("heavy", 4.0, 10 + number)
    assert queue.longest() == ("light", 3.0)


def test_a_tenants_own_weight_is_not_among_the_others() -> None:
    queue: FairQueue[int] = FairQueue()
    for number in range(2):
        queue.push("a", 1.0, number)
    for number in range(5):
        queue.push("b", 1.0, 10 + number)
    # Two of its own, and for each of three turns one of the other.
    assert queue.ahead("a", 1.0) == 5
    assert queue.ahead("new", 1.0) == 2
