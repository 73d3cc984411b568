"""Contract of the balancing strategies: each registered strategy must do what every strategy does and what it promises.

A check takes a maker of strategies and raises AssertionError. `BROKEN` holds strategies that are wrong in one way each;
the checks must raise for them, so that a check that passes everything is noticed.
"""

from __future__ import annotations

import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.balancing import STRATEGIES, BalancingStrategy, Promise, RequestView
from policies.balancing.interface import C
from policies.balancing.registry import StrategyClass
from tests.fakes.request_view import FakeRequest

REQUEST: Final = FakeRequest()
Make = Callable[[random.Random], BalancingStrategy]
Check = Callable[[Make], None]


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


def counts_of(candidates: Sequence[Fake], chosen: Sequence[Fake]) -> list[int]:
    """How often each candidate was chosen, those that never were included."""
    counter = Counter(one.name for one in chosen)
    return [counter[one.name] for one in candidates]


def choices(chooser: BalancingStrategy, candidates: Sequence[Fake], count: int) -> list[Fake]:
    return [chooser.choose(candidates, REQUEST) for _ in range(count)]


def served(make: Make, candidates: Sequence[Fake], *, busy: int, count: int) -> list[int]:
    """How often each is chosen while `busy` requests are under way at a time, each as long as the others. An attempt at
    a failing one ends at once."""
    chooser, chosen, under_way = make(random.Random(20)), list[Fake](), list[Fake]()
    for _ in range(count):
        if len(under_way) >= max(busy, 1):
            under_way.pop(0).in_flight -= 1
        one = chooser.choose(candidates, REQUEST)
        chosen.append(one)
        if not one.failing:
            one.in_flight += 1
            under_way.append(one)
    return counts_of(candidates, chosen)


def assert_even(counts: Sequence[int]) -> None:
    assert min(counts) > 0
    assert max(counts) < 1.15 * min(counts)


# -- what every strategy does


def a_single_candidate_is_chosen(make: Make) -> None:
    for warmth in (1.0, 0.1):
        for others in (0, 4):
            chooser, everyone = make(random.Random(1)), fakes(others)
            choices(chooser, everyone, 10 if others else 0)
            one = Fake("one")
            one.warm_to(warmth)
            assert choices(chooser, [one], 20) == [one] * 20


def only_a_given_candidate_is_chosen(make: Make) -> None:
    chooser, everyone, rng = make(random.Random(2)), fakes(8), random.Random(3)
    for step in range(300):
        some = rng.sample(everyone, rng.randint(1, 8))
        for one in some:
            one.in_flight, one.weight = rng.randint(0, 50), rng.choice([0.5, 1.0, 2.0])
            one.failing = step % 5 == 0 and rng.random() < 0.5
        assert chooser.choose(some, REQUEST) in some


def the_same_randomness_chooses_the_same(make: Make) -> None:
    def run() -> list[str]:
        return [one.name for one in choices(make(random.Random(5)), fakes(5), 50)]

    assert run() == run()


def gone_endpoints_are_forgotten(make: Make) -> None:
    chooser = make(random.Random(8))
    for _ in range(2000):
        chooser.choose(fakes(2), REQUEST)
    # Through the instance's attributes, in slots or not: a collection that grows with every endpoint is a leak.
    slots = [slot for cls in type(chooser).__mro__ for slot in getattr(cls, "__slots__", ())]
    held = [getattr(chooser, name, None) for name in (*slots, *getattr(chooser, "__dict__", {}))]
    assert all(len(one) <= 512 for one in held if isinstance(one, (dict, list, set)))


def a_choice_among_256_takes_under_200_us(make: Make) -> None:
    for careful in (False, True):
        candidates = fakes(256)
        if careful:
            for one in candidates[::5]:
                one.warm_to(0.5)
            candidates[7].failing = True
        chooser, best = make(random.Random(7)), 1.0
        for _ in range(20):
            began = time.process_time()
            choices(chooser, candidates, 20)
            best = min(best, (time.process_time() - began) / 20)
        # Coverage's tracer, under which `make test` runs, takes several times as long as the choice.
        assert best < (200e-6 if sys.gettrace() is None else 2e-3)


ALWAYS: Final[tuple[Check, ...]] = (
    a_single_candidate_is_chosen,
    only_a_given_candidate_is_chosen,
    the_same_randomness_chooses_the_same,
    gone_endpoints_are_forgotten,
    a_choice_among_256_takes_under_200_us,
)


# -- what a strategy promises


def an_idle_pool_is_used_evenly(make: Make) -> None:
    candidates = fakes(4)
    assert_even(counts_of(candidates, choices(make(random.Random(6)), candidates, 4000)))


def a_cold_pool_is_used_evenly(make: Make) -> None:
    candidates = fakes(4)
    for one in candidates:
        one.warm_to(0.1)
    assert_even(served(make, candidates, busy=8, count=8000))


def a_tie_on_an_idle_pool_is_broken_at_random(make: Make) -> None:
    for count in (2, 4, 8):
        candidates, rng = fakes(count), random.Random(4)
        # A new strategy each time, as many processes that start together have.
        chosen = [make(rng).choose(candidates, REQUEST) for _ in range(4000)]
        counts = counts_of(candidates, chosen)
        expected = sum(counts) / count
        assert sum((one - expected) ** 2 / expected for one in counts) < CHI_SQUARE[count - 1]


def the_least_loaded_for_its_weight_is_chosen(make: Make) -> None:
    rng = random.Random(9)
    for _ in range(300):
        weights = [rng.choice([0.5, 1.0, 2.0, 3.0]) for _ in range(rng.randint(1, 12))]
        candidates = [Fake(str(i), rng.randint(0, 50), weight) for i, weight in enumerate(weights)]
        chosen = make(rng).choose(candidates, REQUEST)
        assert (chosen.in_flight + 1) / chosen.weight == min((one.in_flight + 1) / one.weight for one in candidates)


def a_slow_endpoint_gets_less(make: Make) -> None:
    slow, fast = Fake("slow"), Fake("fast")
    chooser, chosen = make(random.Random(11)), list[Fake]()
    for step in range(1000):
        one = chooser.choose([slow, fast], REQUEST)
        chosen.append(one)
        one.in_flight += 1
        fast.in_flight = max(0, fast.in_flight - 1)
        if step % 10 == 0:
            slow.in_flight = max(0, slow.in_flight - 1)
    of_slow, of_fast = counts_of([slow, fast], chosen)
    assert of_fast > 5 * of_slow


def endpoints_fill_by_their_weights(make: Make) -> None:
    candidates = [Fake("a", weight=3), Fake("b", weight=1), Fake("c", weight=0.5)]
    chooser = make(random.Random(10))
    for _ in range(90):
        chooser.choose(candidates, REQUEST).in_flight += 1
    assert [one.in_flight for one in candidates] == [60, 20, 10]


def each_has_its_turn(make: Make) -> None:
    chooser, candidates = make(random.Random(12)), fakes(5)
    first = choices(chooser, candidates, 5)
    assert len({one.name for one in first}) == 5
    assert choices(chooser, candidates, 15) == first * 3


def turns_stay_fair_while_candidates_come_and_go(make: Make) -> None:
    chooser, everyone = make(random.Random(13)), fakes(4)
    chosen = []
    for step in range(3000):
        # One after another is missing for one choice, as the endpoint that just failed is in a retry.
        candidates = [one for i, one in enumerate(everyone) if i != step % 7]
        chosen.append(chooser.choose(candidates, REQUEST))
    counts = counts_of(everyone, chosen)
    assert max(counts) - min(counts) <= 3000 * 0.02


def an_endpoint_that_returns_gets_one_turn_and_not_all_it_missed(make: Make) -> None:
    chooser, everyone = make(random.Random(14)), fakes(3)
    choices(chooser, everyone[:2], 100)
    assert counts_of(everyone, choices(chooser, everyone, 30)) == [10, 10, 10]


def a_share_grows_with_its_warmth(make: Make) -> None:
    for busy in (0, 4, 40, 400):
        shares = []
        for warmth in (0.1, 0.4, 0.7, 1.0):
            candidates = fakes(4)
            candidates[0].warm_to(warmth)
            shares.append(served(make, candidates, busy=busy, count=8000)[0] / 8000)
        assert shares == sorted(shares)
        # Enough to be seen to work, little enough to warm up: a tenth of a share of a quarter, give or take.
        assert 0.005 <= shares[0] <= 0.11
        assert 0.2 <= shares[-1] <= 0.3


def a_candidate_that_fails_fast_has_no_more_than_its_share(make: Make) -> None:
    """fault 34: it always has the fewest in flight, for it never has any."""
    candidates = fakes(4)
    candidates[0].failing = True
    counts = served(make, candidates, busy=60, count=4000)
    assert counts[0] <= 4000 * 0.26
    assert min(counts[1:]) > 0


def a_failure_on_an_idle_pool_changes_nothing(make: Make) -> None:
    candidates, chooser = fakes(4), make(random.Random(20))
    candidates[0].failing = True
    counts = counts_of(candidates, choices(chooser, candidates, 8000))
    assert all(0.2 < one / 8000 < 0.3 for one in counts)


PROMISED: Final[Mapping[Promise, tuple[Check, ...]]] = {
    Promise.EVEN_SHARES: (an_idle_pool_is_used_evenly, a_cold_pool_is_used_evenly),
    Promise.RANDOM_FIRST_CHOICE: (a_tie_on_an_idle_pool_is_broken_at_random,),
    Promise.LEAST_LOADED_FIRST: (the_least_loaded_for_its_weight_is_chosen, a_slow_endpoint_gets_less),
    Promise.WEIGHTED_SHARES: (endpoints_fill_by_their_weights,),
    Promise.TURNS: (
        each_has_its_turn,
        turns_stay_fair_while_candidates_come_and_go,
        an_endpoint_that_returns_gets_one_turn_and_not_all_it_missed,
    ),
    Promise.SLOW_START: (a_share_grows_with_its_warmth,),
    Promise.FAILING_GETS_NO_MORE: (
        a_candidate_that_fails_fast_has_no_more_than_its_share,
        a_failure_on_an_idle_pool_changes_nothing,
    ),
}


def checks_of(promises: frozenset[Promise]) -> list[Check]:
    return [*ALWAYS, *(check for promise in Promise if promise in promises for check in PROMISED[promise])]


CASES = [(name, check) for name, cls in STRATEGIES.items() for check in checks_of(cls.promises)]


@pytest.mark.parametrize(("name", "check"), CASES, ids=[f"{name}-{check.__name__}" for name, check in CASES])
def test_strategy(name: str, check: Check) -> None:
    check(STRATEGIES[name])


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_strategy_states_its_promises(name: str) -> None:
    assert STRATEGIES[name].promises <= set(Promise)
    assert STRATEGIES[name].promises, "a strategy that promises nothing is not tested"


def test_every_promise_has_checks() -> None:
    assert set(PROMISED) == set(Promise)
    assert all(PROMISED.values())


@given(
    st.lists(st.tuples(st.integers(0, 50), st.sampled_from([0.5, 1.0, 2.0, 3.0])), min_size=1, max_size=12),
    st.integers(),
)
def test_whatever_the_load_somebody_is_chosen(loads: list[tuple[int, float]], seed: int) -> None:
    candidates = [Fake(str(i), in_flight, weight) for i, (in_flight, weight) in enumerate(loads)]
    for make in STRATEGIES.values():
        assert make(random.Random(seed)).choose(candidates, REQUEST) in candidates


# -- the checks themselves


class Broken:
    """Base of the strategies that are wrong."""

    promises: ClassVar = frozenset(Promise)

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.seen: list[object] = []


class AlwaysTheFirst(Broken):
    def choose(self, candidates: Sequence[C], request: RequestView) -> C:
        return candidates[0]


class AlwaysTheSame(Broken):
    """Chooses at random once and stays there, so that many instances together look even."""

    def choose(self, candidates: Sequence[C], request: RequestView) -> C:
        chosen = next((one for one in candidates if one in self.seen), None) or self.rng.choice(candidates)
        self.seen = [chosen]
        return chosen


class NeverTheLast(Broken):
    def choose(self, candidates: Sequence[C], request: RequestView) -> C:
        return self.rng.choice(candidates[:-1] or candidates)


class FromMemory(Broken):
    """Chooses among all that it has ever seen, those that are gone included."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__(rng)
        self.old: dict[object, object] = {}

    def choose(self, candidates: Sequence[C], request: RequestView) -> C:
        chosen: C = next(iter(self.old.values()), candidates[0])  # type: ignore[assignment]
        self.old |= {one: one for one in candidates}
        return chosen


class OwnRandomness(Broken):
    """Ignores the randomness that it is given."""

    def choose(self, candidates: Sequence[C], request: RequestView) -> C:
        return random.SystemRandom().choice(candidates)


class FewestInFlight(Broken):
    """Ignores weights, warmth and failures."""

    def choose(self, candidates: Sequence[C], request: RequestView) -> C:
        least = min(one.in_flight for one in candidates)
        return self.rng.choice([one for one in candidates if one.in_flight == least])


class MostInFlight(Broken):
    def choose(self, candidates: Sequence[C], request: RequestView) -> C:
        return max(candidates, key=lambda one: one.in_flight)


class Slow(Broken):
    def choose(self, candidates: Sequence[C], request: RequestView) -> C:
        if len(candidates) == 256:
            deadline = time.process_time() + 3e-3
            while time.process_time() < deadline:
                pass
        return self.rng.choice(candidates)


EVEN, RANDOM, LEAST, WEIGHTED, TURNS, SLOW_START, FAILING = Promise
BROKEN: Final[Mapping[StrategyClass, tuple[Check, ...]]] = {
    AlwaysTheFirst: tuple(check for promise in Promise for check in PROMISED[promise]),
    AlwaysTheSame: (*PROMISED[EVEN], *PROMISED[TURNS], *PROMISED[SLOW_START], *PROMISED[FAILING]),
    NeverTheLast: (*PROMISED[EVEN], *PROMISED[RANDOM], *PROMISED[TURNS]),
    FromMemory: (a_single_candidate_is_chosen, only_a_given_candidate_is_chosen, gone_endpoints_are_forgotten),
    OwnRandomness: (the_same_randomness_chooses_the_same,),
    FewestInFlight: (*PROMISED[WEIGHTED], a_candidate_that_fails_fast_has_no_more_than_its_share),
    MostInFlight: (*PROMISED[LEAST], *PROMISED[WEIGHTED]),
    Slow: (a_choice_among_256_takes_under_200_us,),
}
REFUSED = [(cls, check) for cls, checks in BROKEN.items() for check in checks]


@pytest.mark.parametrize(
    ("broken", "check"), REFUSED, ids=[f"{cls.__name__}-{check.__name__}" for cls, check in REFUSED]  # type: ignore[attr-defined]
)  # fmt: skip
def test_checks_refuse_a_broken_strategy(broken: StrategyClass, check: Check) -> None:
    with pytest.raises(AssertionError):
        check(broken)


def test_every_check_refuses_some_broken_strategy() -> None:
    refused = {check for _, check in REFUSED}
    assert refused == {*ALWAYS, *(check for checks in PROMISED.values() for check in checks)}
