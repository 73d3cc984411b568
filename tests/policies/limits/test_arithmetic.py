"""The arithmetic of buckets and windows at its edges; the contract suite shows the rest."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.config.settings.auth import MOST, LimitSettings
from policies.config.units import RateValue
from policies.limits import LimitRule, fixed_window, rules_of, token_bucket
from policies.limits.token_bucket import MICRO, State

SECOND = 1_000_000
HOUR = 3600 * SECOND
NOW = 1_700_000_000 * SECOND


def bucket(count: int, seconds: int, burst: int) -> LimitRule:
    return rules_of("p", [LimitSettings(requests=RateValue(count, seconds), burst=burst if count else None)], "local")[
        0
    ]


def window(count: int, seconds: int) -> LimitRule:
    return rules_of("p", [LimitSettings(requests=RateValue(count, seconds), strategy="fixed_window")], "local")[0]


RATES = st.builds(bucket, st.integers(1, MOST), st.sampled_from([1, 60, 3600, 86400, 30 * 86400]), st.integers(1, MOST))


@given(RATES, st.integers(0, MOST), st.lists(st.integers(0, HOUR), min_size=1, max_size=20))
def test_looking_often_and_looking_once_find_the_same(rule: LimitRule, start: int, waits: list[int]) -> None:
    state: State = (min(start, rule.burst) * MICRO, 0, NOW)
    often = state
    now = NOW
    for wait in waits:
        now += wait
        often = token_bucket.current(rule, often, now)
    assert often[:2] == token_bucket.current(rule, state, now)[:2]


@given(RATES, st.integers(1, MOST), st.integers(-MOST, MOST), st.data())
def test_a_wait_is_as_long_as_needed_and_no_longer(
    rule: LimitRule, amount: int, level: int, data: st.DataObject
) -> None:
    amount = min(amount, rule.burst)
    rest = data.draw(st.integers(0, rule.seconds - 1))
    state = (min(level, rule.burst - 1) * MICRO, rest, NOW)
    wait = token_bucket.wait(rule, state, amount, NOW)
    assert wait is not None
    assert token_bucket.current(rule, state, NOW + wait)[0] >= amount * MICRO
    if wait:
        assert token_bucket.current(rule, state, NOW + wait - 1)[0] < amount * MICRO


@given(RATES, st.integers(-3 * MOST, 3 * MOST))
def test_a_level_stays_between_minus_burst_and_burst(rule: LimitRule, amount: int) -> None:
    level, rest, _ = token_bucket.changed(rule, (0, rule.seconds - 1, NOW), amount)
    assert abs(level) <= rule.burst * MICRO
    assert level < rule.burst * MICRO or rest == 0


def test_a_clock_that_goes_back_takes_nothing_away_and_stops_nothing() -> None:
    rule = bucket(60, 60, 10)
    state = token_bucket.current(rule, (2 * MICRO, 0, NOW), NOW - HOUR)
    assert state == (2 * MICRO, 0, NOW - HOUR)
    assert token_bucket.current(rule, state, NOW - HOUR + 3 * SECOND)[0] == 5 * MICRO


def test_a_clock_that_goes_over_a_border_and_back_stays_in_the_later_window() -> None:
    rule = window(10, 86400)
    later = fixed_window.changed(rule, fixed_window.current(rule, None, NOW), 4)
    back = fixed_window.current(rule, later, NOW - 86400 * SECOND)
    assert back == later
    assert fixed_window.wait(rule, back, 7, NOW - 1) == fixed_window.wait(rule, later, 7, NOW) + 1  # type: ignore[operator]


def test_a_clock_that_goes_back_far_begins_anew() -> None:
    rule = window(10, 60)
    state = fixed_window.changed(rule, fixed_window.current(rule, None, NOW), 10)
    assert fixed_window.current(rule, state, NOW - HOUR)[1] == 0


def test_windows_begin_with_the_hour_the_day_and_every_thirty_days_of_the_epoch() -> None:
    # 2026-03-01T00:00:00Z; 30-day windows know no months.
    midnight = 1_772_323_200 * SECOND
    for seconds in (1, 60, 3600, 86400):
        number = fixed_window.number_of(window(1, seconds), midnight)
        assert fixed_window.number_of(window(1, seconds), midnight - 1) == number - 1
    assert fixed_window.number_of(window(1, 30 * 86400), 30 * 86400 * SECOND) == 1
    assert fixed_window.number_of(window(1, 30 * 86400), 30 * 86400 * SECOND - 1) == 0


def test_a_bucket_shows_its_level_and_when_it_is_full() -> None:
    rule = bucket(60, 60, 20)
    empty_for_a_second = (5 * MICRO, 0, 0)
    shown = token_bucket.level(rule, empty_for_a_second, 0)
    assert (shown.limit, shown.remaining, shown.reset) == (20, 5, 15.0)
    assert token_bucket.level(rule, (20 * MICRO, 0, 0), 0).reset == 0.0
    assert token_bucket.level(rule, (-3 * MICRO, 0, 0), 0).remaining == 0
    assert token_bucket.level(bucket(0, 60, 0), (0, 0, 0), 0).reset == 0.0


@pytest.mark.parametrize(
    ("level", "amount", "after"),
    [(5, 3, (2, 7)), (5, -3, (8, 7)), (19, -5, (20, 0)), (-19, 5, (-20, 0)), (0, 1, (-1, 7)), (5, 30, (-20, 0))],
)
def test_a_bucket_changes_within_its_bounds(level: int, amount: int, after: tuple[int, int]) -> None:
    changed = token_bucket.changed(bucket(60, 60, 20), (level * MICRO, 7, 99), amount)
    assert changed == (after[0] * MICRO, after[1], 99)


def test_a_full_bucket_may_be_forgotten() -> None:
    rule = bucket(60, 60, 20)
    assert token_bucket.idle(rule, (20 * MICRO, 0, 0), 0)
    assert token_bucket.idle(rule, (15 * MICRO, 0, 0), 5_000_000)
    assert not token_bucket.idle(rule, (15 * MICRO, 0, 0), 4_000_000)


def test_a_fixed_window_shows_what_is_left_and_ends_with_its_number() -> None:
    (rule,) = rules_of("p", [LimitSettings(requests=RateValue(10, 60), strategy="fixed_window")], "local")
    now = 3 * 60_000_000 + 20_000_000
    assert fixed_window.number_of(rule, now) == 3
    assert fixed_window.current(rule, None, now) == (3, 0)
    assert fixed_window.current(rule, (3, 4 * MICRO), now) == (3, 4 * MICRO)
    assert fixed_window.current(rule, (2, 4 * MICRO), now) == (3, 0)
    assert fixed_window.current(rule, (4, 4 * MICRO), now) == (4, 4 * MICRO)
    assert fixed_window.current(rule, (5, 4 * MICRO), now) == (3, 0)
    shown = fixed_window.level(rule, (3, 4 * MICRO), now)
    assert (shown.limit, shown.remaining, shown.reset) == (10, 6, 40.0)
    assert fixed_window.level(rule, (3, 15 * MICRO), now).remaining == 0
    assert fixed_window.wait(rule, (3, 4 * MICRO), 6, now) == 0
    assert fixed_window.wait(rule, (3, 4 * MICRO), 7, now) == 40_000_000
    assert fixed_window.wait(rule, (3, 4 * MICRO), 10, now) == 40_000_000
    assert fixed_window.wait(rule, (3, 4 * MICRO), 11, now) is None
    assert fixed_window.idle(rule, (2, 4 * MICRO), now)
    assert not fixed_window.idle(rule, (3, 1), now)


def test_a_fixed_window_changes_within_its_bounds_and_gives_nothing_back_of_another_one() -> None:
    (rule,) = rules_of("p", [LimitSettings(requests=RateValue(10, 60), strategy="fixed_window")], "local")
    state, taken = (3, 4 * MICRO), 3 * 60_000_000
    assert fixed_window.changed(rule, state, 3) == (3, 7 * MICRO)
    assert fixed_window.changed(rule, state, -9) == (3, 0)
    assert fixed_window.changed(rule, state, 99) == (3, 20 * MICRO)
    assert fixed_window.refunded(rule, state, -3, taken, taken) == (3, 1 * MICRO)
    assert fixed_window.refunded(rule, state, -3, taken - 1, taken) == state
    assert fixed_window.refunded(rule, state, 3, taken - 1, taken) == (3, 7 * MICRO)
