"""The timer wheel on a clock that moves when told."""

import asyncio
import random
from collections.abc import Callable
from typing import Any, cast

import pytest

from backends.http1.timer_wheel import Timer, TimerWheel


class FakeLoop:
    """A clock and the timers set on it."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.problems: list[dict[str, Any]] = []
        self._timers: list[tuple[float, Callable[[], object]]] = []
        self.wakes = 0

    @property
    def timers(self) -> int:
        return len(self._timers)

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], object], /) -> asyncio.TimerHandle:
        self._timers.append((when, callback))
        # Nobody but a loop can make one, and the wheel never looks at it.
        return cast(asyncio.TimerHandle, callback)

    def call_exception_handler(self, context: dict[str, Any], /) -> None:
        self.problems.append(context)

    def advance(self, seconds: float, *, step: float = 0.01) -> None:
        """Let time pass, and run what falls due on the way."""
        end = self.now + seconds
        while self.now < end - 1e-9:
            self.now = min(self.now + step, end)
            due = [timer for timer in self._timers if timer[0] <= self.now]
            self._timers = [timer for timer in self._timers if timer[0] > self.now]
            for _, callback in due:
                self.wakes += 1
                callback()


@pytest.fixture
def loop() -> FakeLoop:
    return FakeLoop()


@pytest.fixture
def wheel(loop: FakeLoop) -> TimerWheel:
    return TimerWheel(loop, tick=0.05)


def test_a_timer_fires_once_not_early_and_at_most_a_tick_late(loop: FakeLoop, wheel: TimerWheel) -> None:
    chance = random.Random(5)
    fired: dict[float, float] = {}
    for _ in range(300):
        seconds = chance.uniform(0, 20)
        due = loop.now + seconds

        def note(due: float = due) -> None:
            assert due not in fired
            fired[due] = loop.now

        wheel.arm(seconds, note)
        loop.advance(chance.uniform(0, 0.1))
    loop.advance(25)
    assert len(fired) == 300
    assert all(0 <= at - due <= 0.05 + 0.02 for due, at in fired.items())


def test_the_loop_has_one_timer_however_many_are_armed_and_none_when_there_are_none(
    loop: FakeLoop, wheel: TimerWheel
) -> None:
    assert loop.timers == 0
    timers = [wheel.arm(1 + n * 0.1, lambda: None) for n in range(50)]
    assert loop.timers == 1
    for timer in timers[:-1]:
        wheel.cancel(timer)
    loop.advance(0.2)
    assert loop.timers == 1
    wheel.cancel(timers[-1])
    loop.advance(0.1)
    assert loop.timers == 0
    wakes = loop.wakes
    loop.advance(5)
    assert loop.wakes == wakes
    wheel.arm(0.1, lambda: None)
    assert loop.timers == 1
    loop.advance(0.3)
    assert loop.timers == 0


def test_a_cancelled_timer_never_fires_and_may_be_cancelled_again(loop: FakeLoop, wheel: TimerWheel) -> None:
    fired: list[int] = []
    timer = wheel.arm(0.2, lambda: fired.append(1))
    assert timer.armed
    wheel.cancel(timer)
    wheel.cancel(timer)
    assert not timer.armed
    loop.advance(1)
    assert fired == []


def test_a_timer_moved_to_later_fires_then_and_not_before(loop: FakeLoop, wheel: TimerWheel) -> None:
    fired: list[float] = []
    timer = wheel.arm(0.5, lambda: fired.append(loop.now))
    for _ in range(20):
        loop.advance(0.3)
        wheel.rearm(timer, 0.5)
        assert fired == []
    until = loop.now + 0.5
    loop.advance(1)
    assert len(fired) == 1
    assert until <= fired[0] <= until + 0.07


def test_a_timer_moved_to_sooner_fires_then(loop: FakeLoop, wheel: TimerWheel) -> None:
    fired: list[float] = []
    timer = wheel.arm(100, lambda: fired.append(loop.now))
    loop.advance(1)
    wheel.rearm(timer, 0.2)
    loop.advance(0.3)
    assert len(fired) == 1
    loop.advance(110)
    assert len(fired) == 1


def test_a_timer_that_has_fired_or_was_cancelled_can_be_armed_again(loop: FakeLoop, wheel: TimerWheel) -> None:
    fired: list[float] = []
    timer = wheel.arm(0.1, lambda: fired.append(loop.now))
    loop.advance(0.3)
    wheel.rearm(timer, 0.1)
    wheel.cancel(timer)
    wheel.rearm(timer, 0.1)
    loop.advance(0.3)
    assert len(fired) == 2


def test_a_callback_may_arm_rearm_and_cancel(loop: FakeLoop, wheel: TimerWheel) -> None:
    fired: list[str] = []
    timers: dict[str, Timer] = {}

    def first(me: str, other: str) -> None:
        fired.append(me)
        # They share a tick, so whichever comes first must stop the other.
        wheel.cancel(timers[other])
        if len(fired) < 3:
            wheel.rearm(timers[me], 0.1)

    timers["a"] = wheel.arm(0.1, lambda: first("a", "b"))
    timers["b"] = wheel.arm(0.1, lambda: first("b", "a"))
    loop.advance(2)
    assert fired in (["a"] * 3, ["b"] * 3)
    assert loop.timers == 0


def test_zero_and_negative_times_fire_at_the_next_tick(loop: FakeLoop, wheel: TimerWheel) -> None:
    fired: list[int] = []
    wheel.arm(0, lambda: fired.append(0))
    wheel.arm(-5, lambda: fired.append(1))
    assert fired == []
    loop.advance(0.11)
    assert sorted(fired) == [0, 1]


def test_after_a_stall_of_the_loop_all_that_is_due_fires_in_order(loop: FakeLoop, wheel: TimerWheel) -> None:
    fired: list[int] = []
    for n in range(20):
        wheel.arm(n * 1.0, lambda n=n: fired.append(n))  # type: ignore[misc]
    loop.advance(15, step=15)
    # What has come meanwhile is read before anybody is blamed for it.
    assert fired == []
    loop.advance(0.1)
    assert fired == list(range(16))
    loop.advance(6)
    assert fired == list(range(20))


def test_a_callback_that_fails_is_reported_and_stops_nobody_else(loop: FakeLoop, wheel: TimerWheel) -> None:
    fired: list[int] = []

    def fails() -> None:
        raise ValueError("a bug")

    for n in range(5):
        wheel.arm(0.1, fails if n % 2 else lambda: fired.append(1))
    loop.advance(0.2)
    assert len(fired) == 3
    assert [str(problem["exception"]) for problem in loop.problems] == ["a bug"] * 2


def test_cancelled_timers_with_far_deadlines_hold_no_memory(loop: FakeLoop, wheel: TimerWheel) -> None:
    for _ in range(20_000):
        wheel.cancel(wheel.arm(600, lambda: None))
        loop.now += 0.001
    assert len(wheel._buckets) == 0


async def test_it_works_on_a_real_loop() -> None:
    loop = asyncio.get_running_loop()
    wheel = TimerWheel(loop, tick=0.01)
    fired = asyncio.Event()
    begun = loop.time()
    wheel.arm(0.03, fired.set)
    async with asyncio.timeout(15):
        await fired.wait()
    assert 0.029 <= loop.time() - begun
