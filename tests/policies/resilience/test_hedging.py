"""Hedges are never more than their share of the requests, and an answer that only repeats itself is waited for once
(policy key `hedge`)."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.config.settings.routes import HedgeSettings, RetrySettings
from policies.resilience.hedging import HedgeBudget, applies, judge, wins
from policies.resilience.outcome import BROKEN_OFF, NO_ANSWER, OK, TOO_SLOW, of_status
from policies.resilience.retry_budget import RetryBudget

DEFAULT = HedgeSettings()
RETRY = RetrySettings()


def budgets() -> tuple[RetryBudget, HedgeBudget]:
    requests = RetryBudget()
    return requests, HedgeBudget(requests)


def granted(budget: HedgeBudget, now: float, settings: HedgeSettings = DEFAULT, asked: int = 1000) -> int:
    return sum(budget.take(now, settings) for _ in range(asked))


@pytest.mark.parametrize(
    ("requests", "share", "hedges"),
    [
        (0, 0.05, 0),
        (19, 0.05, 0),
        (20, 0.05, 1),
        (39, 0.05, 1),
        (1000, 0.05, 50),
        (100, 0.29, 29),
        (7, 1.0, 7),
        (7, 0.0, 0),
    ],
)
def test_the_arithmetic_of_one_moment(requests: int, share: float, hedges: int) -> None:
    counted, budget = budgets()
    for _ in range(requests):
        counted.request(50.0)
    assert granted(budget, 50.0, replace(DEFAULT, budget=share)) == hedges


def test_a_quiet_pool_has_its_share_too() -> None:
    counted, budget = budgets()
    hedges = 0
    for second in range(2000):
        counted.request(float(second))
        hedges += budget.take(float(second), DEFAULT)
    assert hedges == 100


def test_what_was_not_spent_for_an_hour_is_not_there_at_once() -> None:
    counted, budget = budgets()
    for tick in range(36_000):
        counted.request(tick / 10)
    # What 10 s of 10 requests a second have earned; the oldest eighth of a second may be left out.
    assert granted(budget, 3600.0) in (4, 5)


def test_what_is_refused_costs_nothing() -> None:
    counted, budget = budgets()
    for _ in range(19):
        counted.request(0.0)
    assert granted(budget, 0.0) == 0
    counted.request(0.0)
    assert granted(budget, 0.0) == 1


def test_routes_of_one_pool_pay_their_own_price_from_one_purse() -> None:
    counted, budget = budgets()
    for _ in range(100):
        counted.request(0.0)
    assert budget.take(0.0, replace(DEFAULT, budget=0.02))
    assert granted(budget, 0.0, replace(DEFAULT, budget=0.1)) == 5
    assert granted(budget, 0.0, replace(DEFAULT, budget=1.0)) == 0


STEPS = st.lists(
    st.tuples(
        st.sampled_from([0.0, 1 / 1024, 0.125, 0.7, 5.0, 9.999, 10.0, 500.0]), st.integers(0, 60), st.integers(0, 5)
    ),
    max_size=60,
)


@given(steps=STEPS, share=st.sampled_from([0.0, 0.01, 0.05, 0.3, 1.0]))
def test_the_share_is_never_exceeded(steps: list[tuple[float, int, int]], share: float) -> None:
    (counted, budget), now = budgets(), 12.3
    settings = replace(DEFAULT, budget=share)
    requests: list[float] = []
    hedges: list[float] = []
    for later, coming, asked in steps:
        now += later
        for _ in range(coming):
            counted.request(now)
            requests.append(now)
        for _ in range(asked):
            if budget.take(now, settings):
                hedges.append(now)
                assert len(hedges) <= share * len(requests) + 1e-6
                recent = sum(moment > now - 10 for moment in requests)
                # What 10 s have earned may be spent in the next 10 s, beside what those earn.
                before = sum(now - 20.25 < moment <= now - 10 for moment in requests)
                most = max(1.0, share * before) + share * recent
                assert sum(moment > now - 10 for moment in hedges) <= most + 1e-6


def asked(*, attempts: int = 1, fresh: bool = True, retry: RetrySettings | None = RETRY, paid: int = 20) -> str:
    counted, budget = budgets()
    for _ in range(paid):
        counted.request(0.0)
    return judge(DEFAULT, retry, attempts=attempts, fresh=fresh, budget=budget, now=0.0)


def test_a_hedge_needs_an_attempt_an_endpoint_and_its_price() -> None:
    assert asked() == "hedge"
    assert asked(paid=19) == "budget"
    assert asked(fresh=False) == "nobody"


def test_hedges_and_retries_share_one_cap() -> None:
    assert asked(attempts=3) == "hedge"
    assert asked(attempts=4) == "spent"
    assert asked(retry=replace(RETRY, retries=0)) == "spent"
    assert asked(retry=None) == "spent"


@pytest.mark.parametrize(("attempts", "fresh"), [(4, True), (1, False)])
def test_only_a_hedge_that_is_made_is_paid_for(attempts: int, fresh: bool) -> None:
    counted, budget = budgets()
    for _ in range(20):
        counted.request(0.0)
    assert judge(DEFAULT, RETRY, attempts=attempts, fresh=fresh, budget=budget, now=0.0) != "hedge"
    assert judge(DEFAULT, RETRY, attempts=1, fresh=True, budget=budget, now=0.0) == "hedge"


@pytest.mark.parametrize("status", [400, 401, 404, 413, 422])
def test_what_is_the_requests_fault_is_not_asked_twice(status: int) -> None:
    assert wins(of_status(status), RETRY)
    assert wins(of_status(status), None)
    assert not wins(of_status(status), replace(RETRY, when=(status,)))


def test_a_good_answer_wins_and_a_failure_leaves_the_word_to_the_other() -> None:
    assert wins(OK, RETRY)
    failures = [NO_ANSWER, TOO_SLOW, BROKEN_OFF, *map(of_status, (408, 429, 500, 501, 502, 503, 504))]
    assert not any(wins(outcome, rule) for outcome in failures for rule in (RETRY, None))


def test_a_plain_generation_is_not_slow_because_it_takes_long() -> None:
    assert not applies("chat", stream=False, first_byte_plain=None)
    assert not applies("completions", stream=False, first_byte_plain=None)
    assert applies("chat", stream=True, first_byte_plain=None)
    assert applies("chat", stream=False, first_byte_plain=30.0)
    assert applies("embeddings", stream=False, first_byte_plain=None)
