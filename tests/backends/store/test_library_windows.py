"""What the storage of windows in memory forgets."""

from __future__ import annotations

import pytest

from backends.store.library_windows import LibraryWindows, WindowMemory
from policies.config.settings.auth import LimitSettings
from policies.config.units import RateValue
from policies.limits import Demand, LimitRule, rules_of


class Clock:
    now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


def rule(strategy: str, count: int = 5) -> LimitRule:
    return rules_of("p", [LimitSettings(requests=RateValue(count, 60), strategy=strategy)], "local")[0]  # type: ignore[arg-type]


@pytest.mark.parametrize("strategy", ["sliding_window", "moving_window"])
async def test_idle_windows_are_forgotten_while_others_come(strategy: str) -> None:
    clock = Clock()
    memory = WindowMemory(clock)
    windows, counted = LibraryWindows(memory, clock), rule(strategy)
    for number in range(500):
        assert await windows.hit(Demand(counted, f"b{number}", 1))
    assert len(memory) == 500
    clock.now += 121
    for number in range(500, 1000):
        assert await windows.hit(Demand(counted, f"b{number}", 1))
    assert len(memory) <= 500 + 2


@pytest.mark.parametrize("strategy", ["sliding_window", "moving_window"])
async def test_beyond_the_most_the_oldest_is_forgotten(strategy: str) -> None:
    clock = Clock()
    memory = WindowMemory(clock, most=10)
    windows, counted = LibraryWindows(memory, clock), rule(strategy, count=1)
    for number in range(100):
        assert await windows.hit(Demand(counted, f"b{number}", 1))
        assert len(memory) <= 10
    assert not await windows.hit(Demand(counted, "b99", 1))


@pytest.mark.parametrize("strategy", ["sliding_window", "moving_window"])
async def test_reading_and_being_refused_keep_nothing(strategy: str) -> None:
    clock = Clock()
    memory = WindowMemory(clock)
    windows, counted = LibraryWindows(memory, clock), rule(strategy, count=0)
    for number in range(100):
        await windows.read(Demand(counted, f"b{number}", 1))
        assert not await windows.hit(Demand(counted, f"b{number}", 1))
    assert len(memory) == 0


async def test_a_sliding_window_looks_back_on_the_one_before() -> None:
    clock = Clock()
    clock.now -= clock.now % 60
    windows, counted = LibraryWindows(WindowMemory(clock), clock), rule("sliding_window", count=60)
    bucket = Demand(counted, "b", 1)
    for _ in range(60):
        assert await windows.hit(bucket)
    assert not await windows.hit(bucket)
    clock.now += 60 + 15
    # Three quarters of the window before are looked back on: 45 of its 60.
    for _ in range(15):
        assert await windows.hit(bucket)
    assert not await windows.hit(bucket)
    clock.now += 120
    assert (await windows.read(bucket)).level.remaining == 60


async def test_a_window_that_is_still_looked_back_on_is_not_forgotten() -> None:
    clock = Clock()
    clock.now -= clock.now % 60
    windows = LibraryWindows(WindowMemory(clock), clock)
    bucket = Demand(rule("sliding_window"), "b", 1)
    for _ in range(5):
        assert await windows.hit(bucket)
    clock.now += 61
    for number in range(100):
        assert await windows.hit(Demand(bucket.rule, f"other{number}", 1))
    assert (await windows.read(bucket)).level.remaining == 1
