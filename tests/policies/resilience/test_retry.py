"""Who gets another attempt, after how long, and why not (DESIGN rules 3 and 4)."""

import math
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.config.settings.routes import RetrySettings
from policies.resilience import outcome
from policies.resilience.outcome import Outcome, of_status
from policies.resilience.retry import LONGEST_RETRY_WAIT, RetryBudget, RetryVerdict, judge

NOW = 1000.0
DEFAULT = RetrySettings()
# What a strategy may say at most: chance is below 1.
NEARLY_ONE = math.nextafter(1.0, 0.0)


def verdict(ended: Outcome = outcome.NO_ANSWER, **changed: Any) -> RetryVerdict:
    usual: dict[str, Any] = {
        "settings": DEFAULT,
        "attempts": 1,
        "fresh": True,
        "retry_after": None,
        "left": None,
        "budget": RetryBudget(),
        "now": NOW,
        "chance": lambda: 0.5,
    }
    return judge(ended, **(usual | changed))


@pytest.mark.parametrize(
    ("ended", "again"),
    [
        (outcome.NOT_SENT, True),
        (outcome.NO_ANSWER, True),
        (outcome.TOO_SLOW, True),
        (of_status(429), True),
        (of_status(502), True),
        (of_status(503), True),
        (of_status(504), True),
        (of_status(500), False),
        (of_status(501), False),
        (of_status(400), False),
        (of_status(404), False),
        (of_status(408), False),
        (outcome.OK, False),
        (outcome.BROKEN_OFF, False),
        (outcome.CLIENT_GONE, False),
    ],
    ids=lambda value: value.label if isinstance(value, Outcome) else "",
)
def test_what_is_retried_by_default(ended: Outcome, again: bool) -> None:
    assert verdict(ended) == (RetryVerdict(True, 0.0, "again") if again else RetryVerdict(False, 0.0, "not_listed"))


def test_a_route_lists_what_it_retries() -> None:
    listed = replace(DEFAULT, when=("not_sent", 500))
    assert verdict(outcome.NOT_SENT, settings=listed).again
    assert verdict(of_status(500), settings=listed).again
    assert not verdict(outcome.NO_ANSWER, settings=listed).again
    assert not verdict(of_status(503), settings=listed).again


def test_a_broken_answer_and_a_client_that_left_are_never_retried() -> None:
    # `broken_off` is a word of `when` lists, for breakers.
    everything = replace(DEFAULT, when=("not_sent", "no_answer", "too_slow", "broken_off", "client_gone", 200))
    for ended in (outcome.BROKEN_OFF, outcome.CLIENT_GONE, outcome.OK):
        assert verdict(ended, settings=everything) == RetryVerdict(False, 0.0, "not_listed")


def test_retry_off_retries_nothing() -> None:
    assert verdict(settings=None) == RetryVerdict(False, 0.0, "not_listed")


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_retries_are_the_attempts_after_the_first(retries: int) -> None:
    settings = replace(DEFAULT, retries=retries)
    said = [verdict(settings=settings, attempts=attempts).why for attempts in range(1, retries + 4)]
    assert said == ["again"] * retries + ["spent"] * 3


def test_an_endpoint_not_tried_yet_is_tried_at_once() -> None:
    # Whatever the answer asked for: it asked for itself.
    assert verdict(of_status(503), fresh=True, retry_after=3600.0) == RetryVerdict(True, 0.0, "again")


def test_the_ceiling_of_the_wait_doubles_up_to_max() -> None:
    settings = replace(DEFAULT, retries=9, jitter="none")
    waits = [verdict(settings=settings, attempts=attempts, fresh=False).wait for attempts in range(1, 6)]
    assert waits == [1.0, 2.0, 4.0, 4.0, 4.0]


@pytest.mark.parametrize(
    ("settings", "attempts", "wait"),
    [
        (RetrySettings(backoff=0.0, jitter="none"), 2, 0.0),
        (RetrySettings(max=0.0, jitter="none"), 2, 0.0),
        (RetrySettings(backoff=9.0, jitter="none"), 1, 4.0),
        (RetrySettings(factor=1.0, jitter="none"), 3, 1.0),
        (RetrySettings(factor=1e15, retries=100, jitter="none"), 99, 4.0),
        (RetrySettings(backoff=0.1, factor=3.0, max=60.0, jitter="none"), 3, 0.9),
    ],
)
def test_every_setting_of_the_wait_holds(settings: RetrySettings, attempts: int, wait: float) -> None:
    assert verdict(settings=settings, attempts=attempts, fresh=False).wait == pytest.approx(wait)


def test_full_jitter_draws_once_from_0_to_the_ceiling() -> None:
    assert verdict(attempts=3, fresh=False, chance=lambda: 0.0).wait == 0.0
    assert verdict(attempts=3, fresh=False, chance=lambda: 0.25).wait == 1.0
    assert verdict(attempts=3, fresh=False, chance=lambda: NEARLY_ONE).wait < 4.0
    draws = iter([0.5])
    assert verdict(attempts=2, fresh=False, chance=lambda: next(draws)).wait == 1.0


def test_chance_is_not_asked_where_nothing_is_drawn() -> None:
    nobody = iter(())
    assert verdict(chance=lambda: next(nobody)).wait == 0.0
    assert verdict(settings=RetrySettings(jitter="none"), fresh=False, chance=lambda: next(nobody)).wait == 1.0


@pytest.mark.parametrize(("retry_after", "wait"), [(None, 0.5), (0.0, 0.5), (0.2, 0.5), (0.7, 0.7), (30.0, 30.0)])
def test_retry_after_is_waited_for_at_least(retry_after: float | None, wait: float) -> None:
    assert verdict(of_status(503), fresh=False, retry_after=retry_after) == RetryVerdict(True, wait, "again")


def test_a_retry_after_longer_than_anybody_waits_is_an_answer() -> None:
    for seconds in (math.nextafter(LONGEST_RETRY_WAIT, 99), 1e9):
        assert verdict(of_status(503), fresh=False, retry_after=seconds) == RetryVerdict(False, 0.0, "deadline")


@pytest.mark.parametrize(
    ("fresh", "left", "retry_after", "why"),
    [
        (True, 0.001, None, "again"),
        (True, 0.0, None, "deadline"),
        (True, -1.0, None, "deadline"),
        (False, 0.5, None, "deadline"),
        (False, 0.51, None, "again"),
        (False, 4.9, 5.0, "deadline"),
        (False, 5.0, 5.0, "deadline"),
        (False, 5.1, 5.0, "again"),
        (False, None, 5.0, "again"),
    ],
)
def test_nobody_waits_up_to_the_deadline(fresh: bool, left: float, retry_after: float | None, why: str) -> None:
    assert verdict(fresh=fresh, left=left, retry_after=retry_after).why == why


def test_a_spent_budget_is_told() -> None:
    assert verdict(settings=replace(DEFAULT, floor=0)) == RetryVerdict(False, 0.0, "budget")


def test_the_budget_is_asked_last_and_pays_only_for_a_retry() -> None:
    one = replace(DEFAULT, floor=1)
    budget = RetryBudget()
    refused = [
        verdict(outcome.BROKEN_OFF, settings=one, budget=budget),
        verdict(settings=None, budget=budget),
        verdict(settings=one, attempts=4, budget=budget),
        verdict(settings=one, left=0.0, budget=budget),
        verdict(settings=one, fresh=False, retry_after=31.0, budget=budget),
    ]
    assert [said.why for said in refused] == ["not_listed", "not_listed", "spent", "deadline", "deadline"]
    assert verdict(settings=one, budget=budget).why == "again"
    assert verdict(settings=one, budget=budget).why == "budget"


LENGTHS = st.floats(0, 1000)
SETTINGS = st.builds(
    RetrySettings,
    retries=st.integers(0, 6),
    backoff=LENGTHS,
    factor=st.floats(1, 100),
    max=LENGTHS,
    jitter=st.sampled_from(["full", "none"]),
    floor=st.integers(0, 5),
)
ASKED = st.none() | st.floats(0, 100) | st.just(1e9)


@given(
    settings=SETTINGS,
    attempts=st.integers(1, 8),
    fresh=st.booleans(),
    asked=ASKED,
    left=st.none() | st.floats(-1, 100),
    chance=st.floats(0, NEARLY_ONE),
)
def test_every_wait_is_within_its_bounds(
    settings: RetrySettings, attempts: int, fresh: bool, asked: float | None, left: float | None, chance: float
) -> None:
    said = verdict(
        settings=settings, attempts=attempts, fresh=fresh, retry_after=asked, left=left, chance=lambda: chance
    )
    if not said.again:
        assert said.wait == 0.0
        return
    assert attempts <= settings.retries
    assert left is None or said.wait < left
    if fresh:
        assert said.wait == 0.0
    elif asked is not None and asked >= settings.max:
        assert said.wait == asked <= LONGEST_RETRY_WAIT
    else:
        ceiling = min(settings.max, settings.backoff * settings.factor ** (attempts - 1))
        assert (asked or 0.0) <= said.wait <= max(asked or 0.0, ceiling * (1 + 1e-9))


@given(settings=SETTINGS, plan=st.lists(st.tuples(st.booleans(), ASKED), min_size=9, max_size=9), seed=st.integers())
def test_no_request_is_attempted_more_often_than_its_cap(
    settings: RetrySettings, plan: list[tuple[bool, float | None]], seed: int
) -> None:
    generous = replace(settings, floor=100)
    budget, chance, attempts = RetryBudget(), Random(seed).random, 1
    for fresh, asked in plan:
        said = verdict(
            settings=generous, attempts=attempts, fresh=fresh, retry_after=asked, budget=budget, chance=chance
        )
        if not said.again:
            break
        attempts += 1
    assert attempts <= settings.retries + 1


def test_attempts_that_are_kept_for_the_fallback_pools_are_not_for_this_one() -> None:
    assert verdict(outcome.NOT_SENT, attempts=2, kept=1).again
    assert verdict(outcome.NOT_SENT, attempts=3, kept=1) == RetryVerdict(False, 0.0, "spent")
    assert verdict(outcome.NOT_SENT, attempts=3, kept=0).again
