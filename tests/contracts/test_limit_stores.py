"""What every store of limits must do (`backends.store.base`); a new one is tested by being in the table of stages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from math import inf
from typing import Any

import pytest

from backends.store.base import LEASE_LIFETIME
from policies.config.settings.auth import LimitSettings
from policies.limits import Granted, LimitRefused, LimitSubject
from tests.contracts.limit_stages import (
    MORTAL,
    STAGES,
    START,
    SUBJECT,
    Stage,
    granted,
    one,
    per,
    plan,
    refused,
    remaining,
    take,
)

# Long enough that nothing comes in while a test runs.
MONTH = 30 * 86400
OWN = {
    "token_bucket": per(1000, MONTH),
    "fixed_window": per(1000, MONTH, strategy="fixed_window"),
    "tokens": per(1000, MONTH, "tokens"),
    "output_tokens": per(1000, MONTH, "output_tokens"),
    "concurrency": LimitSettings(concurrency=1000),
}
WINDOWED = {
    "sliding_window": per(1000, MONTH, strategy="sliding_window"),
    "moving_window": per(1000, MONTH, strategy="moving_window"),
}
ALL = OWN | WINDOWED
MOST_OVER = 0
"""How many a window may admit over its limit. A hit is atomic, so there are none; some may be refused for nothing."""


@pytest.fixture(params=list(STAGES))
async def stage(request: pytest.FixtureRequest) -> AsyncIterator[Stage]:
    async with STAGES[request.param]() as opened:
        yield opened


@pytest.fixture(params=MORTAL)
async def mortal(request: pytest.FixtureRequest) -> AsyncIterator[Stage]:
    async with STAGES[request.param]() as opened:
        yield opened


# -- exactness


async def storm(stage: Stage, limits: list[LimitSettings]) -> int:
    """How many of 16 tasks x 200 requests are admitted, half of them by another process."""
    asked = one(plan(stage, *limits), tokens=1, output=1)
    stores = [stage.store, await stage.peer()]

    async def client(number: int) -> int:
        admitted = 0
        for turn in range(200):
            answer = await take(stores[number % 2], asked, f"{number}-{turn}")
            admitted += isinstance(answer, Granted)
            if turn % 8 == 0:
                await asyncio.sleep(0)
        return admitted

    return sum(await asyncio.gather(*(client(number) for number in range(16))))


@pytest.mark.parametrize("rule", list(OWN))
async def test_16_tasks_x_200_on_a_bucket_of_1000_admit_exactly_1000(stage: Stage, rule: str) -> None:
    assert await storm(stage, [OWN[rule]]) == 1000


@pytest.mark.parametrize("rule", list(WINDOWED))
async def test_windows_admit_at_most_their_bound_over(stage: Stage, rule: str) -> None:
    assert 1000 - 16 <= await storm(stage, [WINDOWED[rule]]) <= 1000 + MOST_OVER


async def test_all_rules_together_admit_what_the_strictest_does(stage: Stage) -> None:
    limits = [OWN["token_bucket"], per(400, MONTH, "tokens"), OWN["fixed_window"], LimitSettings(concurrency=700)]
    assert await storm(stage, limits) == 400
    assert (await remaining(stage.store, one(plan(stage, *limits), tokens=1))) == [600, 0, 600, 300]


async def test_rules_with_windows_together_admit_what_the_strictest_does(stage: Stage) -> None:
    limits = [*WINDOWED.values(), per(400, MONTH), LimitSettings(concurrency=700)]
    assert await storm(stage, limits) == 400
    assert (await remaining(stage.store, one(plan(stage, *limits)))) == [600, 600, 0, 300]


async def test_a_tenth_of_a_request_a_second_is_exact_over_an_hour(stage: Stage) -> None:
    asked = one(plan(stage, per(6, 60, burst=1)))
    admitted = 0
    for _ in range(1200):
        admitted += isinstance(await take(stage.store, asked), Granted)
        await stage.advance(3.0)
    # One at the start, and one whenever ten more seconds have passed: the 360th comes after the last question.
    assert admitted == 300, "asked every 3 s, one comes every 12 s"


@pytest.mark.parametrize("pace", [1.0, 2.5, 0.7])
async def test_an_odd_rate_loses_nothing_to_rounding(stage: Stage, pace: float) -> None:
    """7 a minute, asked for at an odd pace: after a quarter of an hour as many as have come in, to the last one."""
    asked = one(plan(stage, per(7, 60, burst=3)))
    turns = int(900 / pace)
    admitted = 0
    for _ in range(turns):
        admitted += isinstance(await take(stage.store, asked), Granted)
        await stage.advance(pace)
    admitted += isinstance(await take(stage.store, asked), Granted)
    assert admitted == 3 + int(turns * pace * 7 / 60 + 1e-6)


# -- all or none


@pytest.mark.parametrize("rule", list(ALL))
async def test_a_refused_request_consumes_nothing(stage: Stage, rule: str) -> None:
    others = [limit for name, limit in ALL.items() if name != rule]
    tight = replace(ALL[rule], concurrency=2) if rule == "concurrency" else _of(ALL[rule], 2)
    rules = plan(stage, *others, tight)
    asked = one(rules, tokens=1, output=1)
    for lease in ("a", "b"):
        await granted(stage.store, asked, lease)
    before = await remaining(stage.store, asked)

    for lease in ("c", "d", "e"):
        assert (await refused(stage.store, asked, lease)).rule is rules[-1]

    assert await remaining(stage.store, asked) == before
    assert before == [998] * len(others) + [0]


def _of(limit: LimitSettings, count: int) -> LimitSettings:
    """The limit with another count."""
    kind, rate = limit.rated()
    changes: dict[str, Any] = {kind: replace(rate, count=count)}
    return replace(limit, **changes)


async def test_a_refusal_names_the_rule_with_the_longest_wait(stage: Stage) -> None:
    rules = plan(stage, per(1, 10), per(1, 60), per(1, 30), LimitSettings(concurrency=1))
    asked = one(rules)
    await granted(stage.store, asked, "a")
    answer = await refused(stage.store, asked, "b")
    assert answer.rule is rules[1]
    assert answer.retry_after == pytest.approx(60, abs=1)
    assert [level.remaining for level in answer.levels] == [0, 0, 0, 0]


async def test_of_two_with_the_same_wait_the_first_is_named(stage: Stage) -> None:
    rules = plan(stage, per(1000, 60), LimitSettings(concurrency=1), LimitSettings(concurrency=1, per="tenant"))
    asked = one(rules)
    await granted(stage.store, asked, "a")
    assert (await refused(stage.store, asked, "b")).rule is rules[1]
    assert (await refused(stage.store, asked[::-1], "b")).rule is rules[2]


# -- waiting


@pytest.mark.parametrize(
    ("limit", "seconds"),
    [
        (per(6, 60), 10.0),
        (per(6, 60, burst=1), 10.0),
        (per(10, 60, strategy="fixed_window"), 60 - START % 60),
        (per(5, 3600, strategy="fixed_window"), 3600 - START % 3600),
        (per(5, 86400, strategy="fixed_window"), 86400 - START % 86400),
        (per(5, MONTH, strategy="fixed_window"), MONTH - START % MONTH),
        (per(5, 60, strategy="moving_window"), 60.0),
    ],
)
async def test_retry_after_is_when_it_works_again(stage: Stage, limit: LimitSettings, seconds: float) -> None:
    asked = one(plan(stage, limit))
    while isinstance(answer := await take(stage.store, asked), Granted):
        pass
    # A store with a clock of its own is up to a second further than it was at the start.
    assert seconds - 1.1 <= answer.retry_after <= seconds + 0.01
    await stage.advance(answer.retry_after - 0.9)
    assert isinstance(await take(stage.store, asked), LimitRefused)
    await stage.advance(0.91)
    await granted(stage.store, asked)


async def test_retry_after_of_a_sliding_window_is_when_it_works_again(stage: Stage) -> None:
    asked = one(plan(stage, per(6, 60, strategy="sliding_window")))
    for _ in range(20):
        while isinstance(answer := await take(stage.store, asked), Granted):
            pass
        assert 0 < answer.retry_after < 120
        await stage.advance(max(answer.retry_after - 0.9, 0))
        if answer.retry_after > 1.5:
            assert isinstance(await take(stage.store, asked), LimitRefused)
        await stage.advance(0.9 + 0.05)
        await granted(stage.store, asked)


async def test_a_moving_window_is_exact_in_every_stretch_of_time(stage: Stage) -> None:
    asked = one(plan(stage, per(5, 60, strategy="moving_window")))
    times: list[float] = []
    now = 0.0
    for _ in range(300):
        if isinstance(await take(stage.store, asked), Granted):
            times.append(now)
        await stage.advance(1.7)
        now += 1.7
    assert all(later - earlier > 59 for earlier, later in zip(times, times[5:], strict=False))
    # 510 s are eight windows and a half.
    assert 40 <= len(times) <= 45


@pytest.mark.parametrize("rule", ["token_bucket", "fixed_window", "tokens"])
async def test_more_than_the_burst_is_refused_for_ever(stage: Stage, rule: str) -> None:
    (rule_,) = plan(stage, OWN[rule])
    (demand,) = one((rule_,), tokens=1)
    assert (await refused(stage.store, [replace(demand, amount=1001)])).retry_after == inf
    await granted(stage.store, [replace(demand, amount=1000)])


@pytest.mark.parametrize(
    "limit",
    [
        per(0, 60),
        per(0, 60, strategy="fixed_window"),
        per(0, 60, strategy="sliding_window"),
        per(0, 60, strategy="moving_window"),
        LimitSettings(concurrency=0),
    ],
)
async def test_a_count_of_0_refuses_everything(stage: Stage, limit: LimitSettings) -> None:
    answer = await refused(stage.store, one(plan(stage, limit)))
    assert answer.retry_after == inf
    assert [(level.limit, level.remaining) for level in answer.levels] == [(0, 0)]


# -- levels


async def test_levels_say_what_is_left_and_until_when(stage: Stage) -> None:
    rules = plan(
        stage,
        per(60, 60, burst=20),
        per(1000, 3600, strategy="sliding_window"),
        per(100_000, 60, "tokens"),
        per(5_000_000, 86400, "tokens", strategy="fixed_window"),
        LimitSettings(concurrency=4),
        per(100, 60, strategy="moving_window"),
    )
    asked = one(rules, tokens=2500)
    levels = (await granted(stage.store, asked)).levels
    assert [level.rule for level in levels] == list(rules)
    assert [level.limit for level in levels] == [20, 1000, 100_000, 5_000_000, 4, 100]
    assert [level.remaining for level in levels] == [19, 999, 97_500, 4_997_500, 3, 99]
    assert levels[0].reset == pytest.approx(1.0, abs=0.01)
    assert 3600 <= levels[1].reset <= 7200
    assert levels[2].reset == pytest.approx(1.5, abs=0.01)
    assert levels[3].reset == pytest.approx(86400 - START % 86400, abs=1)
    assert levels[4].reset == 0
    assert levels[5].reset == pytest.approx(60, abs=1)
    seen = await stage.store.seen(asked)
    assert [(level.limit, level.remaining) for level in seen] == [(level.limit, level.remaining) for level in levels]


async def test_nobody_has_asked_yet_and_everything_is_there(stage: Stage) -> None:
    rules = plan(stage, *ALL.values())
    levels = await stage.store.seen(one(rules, tokens=1, output=1))
    assert [level.remaining for level in levels] == [1000] * len(rules)
    assert [level.reset for level in levels if level.rule.strategy != "fixed_window"] == [0.0] * (len(rules) - 1)


async def test_subjects_and_rules_are_counted_apart(stage: Stage) -> None:
    rules = plan(stage, per(2, MONTH), per(3, MONTH, per="tenant"))
    other_key, other_tenant = replace(SUBJECT, key="k2"), LimitSubject("k3", "other", "u", "ip", "m")
    for subject in (SUBJECT, SUBJECT, other_key, other_tenant, other_tenant):
        await granted(stage.store, one(rules, subject))
    assert (await refused(stage.store, one(rules, other_key))).rule is rules[1]
    assert (await refused(stage.store, one(rules, other_tenant))).rule is rules[0]


async def test_a_changed_count_keeps_what_was_used(stage: Stage) -> None:
    few = [per(10, 3600, burst=10), per(10, MONTH, strategy="fixed_window"), LimitSettings(concurrency=10)]
    many = [per(30, 3600, burst=30), per(30, MONTH, strategy="fixed_window"), LimitSettings(concurrency=30)]
    for turn in range(4):
        await granted(stage.store, one(plan(stage, *few)), f"{turn}")
    # A bucket holds what it held, and fills up to more.
    assert await remaining(stage.store, one(plan(stage, *many))) == [6, 26, 26]
    await stage.advance(1200)
    assert await remaining(stage.store, one(plan(stage, *many))) == [16, 26, 26]
    assert await remaining(stage.store, one(plan(stage, *few))) == [9, 6, 6]


# -- settling


@pytest.mark.parametrize("rule", ["tokens", "output_tokens"])
async def test_what_was_not_used_is_given_back_and_what_was_used_beyond_is_taken(stage: Stage, rule: str) -> None:
    asked = one(plan(stage, _of(OWN[rule], 100)), tokens=60, output=60)
    first = await granted(stage.store, asked)
    stage.store.refund(first, [(asked[0], -40)])
    await stage.settled()
    assert await remaining(stage.store, asked) == [80]
    second = await granted(stage.store, asked)
    stage.store.refund(second, [(asked[0], 15)])
    await stage.settled()
    assert await remaining(stage.store, asked) == [5]


@pytest.mark.parametrize("strategy", ["token_bucket", "fixed_window"])
async def test_debt_is_remembered_shown_as_nothing_and_bounded(stage: Stage, strategy: str) -> None:
    asked = one(plan(stage, per(3600, 3600, "tokens", strategy=strategy)), tokens=3000)
    done = await granted(stage.store, asked)
    stage.store.refund(done, [(asked[0], 100_000)])
    await stage.settled()
    assert await remaining(stage.store, asked) == [0]
    small = [replace(asked[0], amount=1)]
    wait = (await refused(stage.store, small)).retry_after
    # Debt is a burst at most, and a bucket needs an hour to make good for it; a window ends anyway.
    expected = 3601.0 if strategy == "token_bucket" else 3600 - START % 3600
    assert expected - 1.1 <= wait <= expected
    await stage.advance(wait - 0.9)
    await refused(stage.store, small)
    await stage.advance(0.91)
    await granted(stage.store, small)


@pytest.mark.parametrize("strategy", ["token_bucket", "fixed_window"])
async def test_no_refund_leads_above_the_burst(stage: Stage, strategy: str) -> None:
    asked = one(plan(stage, per(100, MONTH, "tokens", strategy=strategy)), tokens=10)
    done = await granted(stage.store, asked)
    stage.store.refund(done, [(asked[0], -1000)])
    await stage.settled()
    assert await remaining(stage.store, asked) == [100]
    for _ in range(10):
        await granted(stage.store, asked)
    await refused(stage.store, asked)


async def test_a_window_that_has_ended_is_given_nothing_back_and_the_next_pays_what_came_later(stage: Stage) -> None:
    asked = one(plan(stage, per(100, 3600, "tokens", strategy="fixed_window")), tokens=50)
    first, second = await granted(stage.store, asked), await granted(stage.store, asked)
    await stage.advance(3600)
    await granted(stage.store, asked)
    stage.store.refund(first, [(asked[0], -50)])
    await stage.settled()
    assert await remaining(stage.store, asked) == [50]
    stage.store.refund(second, [(asked[0], 20)])
    await stage.settled()
    assert await remaining(stage.store, asked) == [30]


async def test_a_request_can_be_given_back(stage: Stage) -> None:
    asked = one(plan(stage, per(2, MONTH), per(2, MONTH, strategy="moving_window")))
    done = await granted(stage.store, asked)
    stage.store.refund(done, [(demand, -1) for demand in asked])
    await stage.settled()
    # The library gives nothing back.
    assert await remaining(stage.store, asked) == [2, 1]


# -- leases


async def test_a_slot_is_given_back_when_the_request_is_settled(stage: Stage) -> None:
    asked = one(plan(stage, LimitSettings(concurrency=2)))
    first = await granted(stage.store, asked, "a")
    await granted(stage.store, asked, "b")
    answer = await refused(stage.store, asked, "c")
    assert answer.retry_after == 1.0
    stage.store.refund(first)
    await stage.settled()
    assert await remaining(stage.store, asked) == [1]
    await granted(stage.store, asked, "c")
    stage.store.refund(first)
    await stage.settled()
    assert await remaining(stage.store, asked) == [0]


async def test_a_lease_holds_one_slot_however_often_it_is_taken(stage: Stage) -> None:
    asked = one(plan(stage, LimitSettings(concurrency=2)))
    for _ in range(5):
        await granted(stage.store, asked, "a")
    assert await remaining(stage.store, asked) == [1]


async def test_a_slot_is_held_for_as_long_as_the_request_is_open(stage: Stage) -> None:
    asked = one(plan(stage, LimitSettings(concurrency=1)))
    held = await granted(stage.store, asked, "a")
    for _ in range(12):
        await stage.advance(LEASE_LIFETIME / 3)
        await stage.settled()
        await refused(stage.store, asked, "b")
    stage.store.refund(held)
    await stage.settled()
    await granted(stage.store, asked, "b")


async def test_slots_of_a_process_that_died_are_free_after_the_lifetime(mortal: Stage) -> None:
    asked = one(plan(mortal, LimitSettings(concurrency=3)))
    peer = await mortal.peer()
    held = await granted(peer, asked, "theirs")
    for lease in ("a", "b"):
        await granted(mortal.store, asked, lease)
    await mortal.die()
    await refused(mortal.store, asked, "c")
    for _ in range(4):
        await mortal.advance(LEASE_LIFETIME / 3)
        await mortal.settled()
    assert await remaining(mortal.store, asked) == [2]
    peer.refund(held)


# -- an answer that nobody waits for


async def test_who_stops_waiting_has_taken_nothing(stage: Stage) -> None:
    rules = plan(stage, per(100, MONTH), LimitSettings(concurrency=100))
    asked = one(rules)
    for turn in range(20):
        answer = stage.store.take(asked, f"{turn}")
        for _ in range(turn % 4):
            await asyncio.sleep(0)
        if not isinstance(answer, asyncio.Future):
            done = answer
        elif answer.cancel():
            continue
        else:
            done = answer.result()
        assert isinstance(done, Granted)
        stage.store.refund(done, [(demand, -demand.amount) for demand in asked])
    await stage.settled()
    assert await remaining(stage.store, asked) == [100, 100]
