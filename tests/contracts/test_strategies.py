"""What every strategy of `policies.balancing` must do; a new one is tested by being in the table."""

from __future__ import annotations

import random
import sys
import time
from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.balancing import STRATEGIES, strategy


@dataclass(eq=False)
class Fake:
    name: str
    in_flight: int = 0
    weight: float = 1.0
    warmth: float = 1.0
    failing: bool = False

    @property
    def usual(self) -> bool:
        return self.warmth == 1.0 and not self.failing

    def warm_to(self, warmth: float) -> None:
        """As an endpoint of weight 1 would be that came back."""
        self.weight = self.warmth = warmth


def fakes(count: int, weight: float = 1.0) -> list[Fake]:
    return [Fake(f"e{i}", weight=weight) for i in range(count)]


# The value that chi-square stays under in 999 of 1,000 runs, by degrees of freedom. The seeds are fixed, so no run is
# unlucky.
CHI_SQUARE = {1: 10.83, 3: 16.27, 7: 24.32}


def chi_square(counts: list[int]) -> float:
    expected = sum(counts) / len(counts)
    return sum((count - expected) ** 2 / expected for count in counts)


@pytest.fixture(params=sorted(STRATEGIES))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_single_candidate_is_chosen(name: str) -> None:
    (one,) = fakes(1)
    chooser = strategy(name, random.Random(1))
    assert [chooser.choose([one]) for _ in range(3)] == [one] * 3


def test_a_candidate_is_chosen_from_those_given_and_never_from_memory(name: str) -> None:
    chooser, everyone, rng = strategy(name, random.Random(2)), fakes(8), random.Random(3)
    for _ in range(300):
        some = rng.sample(everyone, rng.randint(1, 8))
        assert chooser.choose(some) in some


@pytest.mark.parametrize("count", [2, 4, 8])
def test_a_tie_on_an_idle_pool_is_broken_at_random(name: str, count: int) -> None:
    candidates = fakes(count)
    rng = random.Random(4)
    # A fresh strategy each time, as many processes that start together would have.
    chosen = Counter(strategy(name, rng).choose(candidates).name for _ in range(4000))
    assert chi_square([chosen[one.name] for one in candidates]) < CHI_SQUARE[count - 1]


def test_the_same_randomness_chooses_the_same(name: str) -> None:
    def run() -> list[str]:
        chooser, candidates = strategy(name, random.Random(5)), fakes(5)
        return [chooser.choose(candidates).name for _ in range(50)]

    assert run() == run()


def test_an_idle_pool_is_used_evenly(name: str) -> None:
    chooser, candidates = strategy(name, random.Random(6)), fakes(4)
    chosen = Counter(chooser.choose(candidates).name for _ in range(4000))
    assert max(chosen.values()) < 1.15 * min(chosen.values())


def test_choosing_among_256_takes_under_200_us(name: str) -> None:
    chooser, candidates = strategy(name, random.Random(7)), fakes(256)
    best = 1.0
    for _ in range(20):
        began = time.process_time()
        for _ in range(20):
            chooser.choose(candidates)
        best = min(best, (time.process_time() - began) / 20)
    # Coverage's tracer, under which `make test` runs, takes several times as long as the choice.
    assert best < (200e-6 if sys.gettrace() is None else 2e-3)


def test_endpoints_that_are_gone_are_forgotten(name: str) -> None:
    chooser = strategy(name, random.Random(8))
    for _ in range(2000):
        chooser.choose(fakes(2))
    held = [len(getattr(chooser, slot)) for slot in type(chooser).__slots__ if isinstance(getattr(chooser, slot), dict)]  # type: ignore[attr-defined]
    assert all(count <= 512 for count in held)


@given(
    st.lists(st.tuples(st.integers(0, 50), st.sampled_from([0.5, 1.0, 2.0, 3.0])), min_size=1, max_size=12),
    st.integers(),
)
def test_whatever_the_load_somebody_is_chosen(loads: list[tuple[int, float]], seed: int) -> None:
    candidates = [Fake(str(i), in_flight, weight) for i, (in_flight, weight) in enumerate(loads)]
    for each in STRATEGIES:
        assert strategy(each, random.Random(seed)).choose(candidates) in candidates


# -- slow start and failures -----------------------------------------------------------------------------------------


def served(name: str, candidates: list[Fake], *, busy: int, choices: int, seed: int = 20) -> Counter[str]:
    """Who is chosen while `busy` requests are under way at a time, each as long as the others."""
    chooser, counts, under_way = strategy(name, random.Random(seed)), Counter[str](), list[Fake]()
    for _ in range(choices):
        if len(under_way) >= max(busy, 1):
            under_way.pop(0).in_flight -= 1
        chosen = chooser.choose(candidates)
        counts[chosen.name] += 1
        chosen.in_flight += 1
        under_way.append(chosen)
    return counts


@pytest.mark.parametrize("busy", [0, 4, 40, 400], ids=lambda busy: f"{busy} under way")
def test_a_share_grows_with_its_warmth(name: str, busy: int) -> None:
    shares = []
    for warmth in (0.1, 0.4, 0.7, 1.0):
        candidates = fakes(4)
        candidates[0].warm_to(warmth)
        shares.append(served(name, candidates, busy=busy, choices=8000)["e0"] / 8000)
    assert shares == sorted(shares)
    # Enough to be seen to work, little enough to warm up: a tenth of a share of a quarter, give or take.
    assert 0.005 <= shares[0] <= 0.11
    assert 0.2 <= shares[-1] <= 0.3


def test_where_everybody_is_cold_everybody_has_the_same(name: str) -> None:
    candidates = fakes(4)
    for one in candidates:
        one.warm_to(0.1)
    counts = served(name, candidates, busy=8, choices=8000)
    assert max(counts.values()) < 1.15 * min(counts.values())


def test_a_single_cold_candidate_is_chosen(name: str) -> None:
    (one,) = fakes(1)
    one.warm_to(0.1)
    chooser = strategy(name, random.Random(21))
    assert [chooser.choose([one]) for _ in range(20)] == [one] * 20


def test_a_candidate_that_fails_fast_has_no_more_than_its_share(name: str) -> None:
    """fault 34: it always has the fewest in flight, for it never has any."""
    candidates = fakes(4)
    chooser, counts, under_way = strategy(name, random.Random(22)), Counter[str](), list[Fake]()
    candidates[0].failing = True
    for _ in range(4000):
        if len(under_way) >= 60:
            under_way.pop(0).in_flight -= 1
        chosen = chooser.choose(candidates)
        counts[chosen.name] += 1
        if not chosen.failing:
            chosen.in_flight += 1
            under_way.append(chosen)
    assert counts["e0"] <= 4000 * 0.26


def test_a_failure_on_an_idle_pool_changes_nothing(name: str) -> None:
    candidates = fakes(4)
    candidates[0].failing = True
    counts = served(name, candidates, busy=0, choices=8000)
    rng = random.Random(23)
    idle = Counter(strategy(name, rng).choose(fakes(4)).name for _ in range(100))
    assert set(idle) == {"e0", "e1", "e2", "e3"}
    assert 0.2 < counts["e0"] / 8000 < 0.3


def test_choosing_among_256_of_which_some_are_cold_or_failing_takes_under_200_us(name: str) -> None:
    chooser, candidates = strategy(name, random.Random(24)), fakes(256)
    for one in candidates[::5]:
        one.warm_to(0.5)
    candidates[7].failing = True
    best = 1.0
    for _ in range(20):
        began = time.process_time()
        for _ in range(20):
            chooser.choose(candidates)
        best = min(best, (time.process_time() - began) / 20)
    # Coverage's tracer, under which `make test` runs, takes several times as long as the choice.
    assert best < (200e-6 if sys.gettrace() is None else 2e-3)


# -- what only one of them promises ----------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 50), st.sampled_from([0.5, 1.0, 2.0, 3.0])), min_size=1, max_size=12))
def test_least_requests_takes_the_least_for_its_weight(loads: list[tuple[int, float]]) -> None:
    candidates = [Fake(str(i), in_flight, weight) for i, (in_flight, weight) in enumerate(loads)]
    chosen = strategy("least_requests", random.Random(9)).choose(candidates)
    assert (chosen.in_flight + 1) / chosen.weight == min((one.in_flight + 1) / one.weight for one in candidates)


def test_least_requests_fills_endpoints_by_their_weights() -> None:
    candidates = [Fake("a", weight=3), Fake("b", weight=1), Fake("c", weight=0.5)]
    chooser = strategy("least_requests", random.Random(10))
    for _ in range(90):
        chooser.choose(candidates).in_flight += 1
    assert [one.in_flight for one in candidates] == [60, 20, 10]


def test_least_requests_gives_a_slow_endpoint_less() -> None:
    slow, fast = Fake("slow"), Fake("fast")
    chooser = strategy("least_requests", random.Random(11))
    served: Counter[str] = Counter()
    for step in range(1000):
        chosen = chooser.choose([slow, fast])
        served[chosen.name] += 1
        chosen.in_flight += 1
        fast.in_flight = max(0, fast.in_flight - 1)
        if step % 10 == 0:
            slow.in_flight = max(0, slow.in_flight - 1)
    assert served["fast"] > 5 * served["slow"]


def test_round_robin_gives_each_its_turn() -> None:
    chooser, candidates = strategy("round_robin", random.Random(12)), fakes(5)
    first = [chooser.choose(candidates).name for _ in range(5)]
    assert len(set(first)) == 5
    assert [chooser.choose(candidates).name for _ in range(15)] == first * 3


def test_round_robin_stays_fair_while_candidates_come_and_go() -> None:
    chooser, everyone = strategy("round_robin", random.Random(13)), fakes(4)
    chosen: Counter[str] = Counter()
    for step in range(3000):
        # One after another is missing for one choice, as the endpoint that just failed is in a retry.
        candidates = [one for i, one in enumerate(everyone) if i != step % 7]
        chosen[chooser.choose(candidates).name] += 1
    assert max(chosen.values()) - min(chosen.values()) <= 3000 * 0.02


def test_round_robin_gives_who_returns_one_turn_and_not_all_it_missed() -> None:
    chooser, everyone = strategy("round_robin", random.Random(14)), fakes(3)
    for _ in range(100):
        chooser.choose(everyone[:2])
    after = Counter(chooser.choose(everyone).name for _ in range(30))
    assert after == {"e0": 10, "e1": 10, "e2": 10}
