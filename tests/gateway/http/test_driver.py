"""A coroutine is driven without a task, and nobody can tell."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Coroutine
from typing import Any

import pytest

from gateway.http.driver import RequestDriver, Signal
from tests.flow.harness import eventually


class Left(Exception):
    """What is thrown into a coroutine here."""


class Rig:
    """Drives coroutines and writes down what happened in which order."""

    def __init__(self) -> None:
        self.said: list[object] = []
        self.ended: list[RequestDriver] = []

    def drive(self, coroutine: Coroutine[Any, Any, None]) -> RequestDriver:
        """A started drive."""
        drive = RequestDriver(coroutine, asyncio.get_running_loop(), self.ended.append)
        drive.start()
        return drive

    async def waits(self, signal: Signal) -> None:
        """Waits for a signal and tells how that went."""
        self.said.append("waits")
        try:
            await signal
        except Left:
            self.said.append("left")
            raise
        self.said.append("goes on")


async def turn(times: int = 1) -> None:
    """Let the loop turn."""
    for _ in range(times):
        await asyncio.sleep(0)


@pytest.fixture
def rig() -> Rig:
    return Rig()


# -- starting and ending


async def test_a_drive_starts_at_once_and_not_in_the_next_turn(rig: Rig) -> None:
    drive = rig.drive(rig.waits(Signal()))
    assert rig.said == ["waits"]
    assert rig.ended == []
    with pytest.raises(Left):
        drive.throw(Left())


async def test_a_coroutine_that_never_waits_has_ended_when_start_returns(rig: Rig) -> None:
    async def short() -> None:
        rig.said.append("done")

    drive = rig.drive(short())
    assert rig.said == ["done"]
    assert rig.ended == [drive]


async def test_an_end_is_told_once(rig: Rig) -> None:
    signal = Signal()
    drive = rig.drive(rig.waits(signal))
    signal.set()
    await turn()
    drive.throw(Left())
    signal.set()
    await turn(2)
    assert rig.ended == [drive]


async def test_an_exception_ends_the_drive_and_reaches_whoever_stepped_it(rig: Rig) -> None:
    async def breaks() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        rig.drive(breaks())
    assert len(rig.ended) == 1


async def test_an_exception_after_a_wait_is_told_to_the_loop(rig: Rig) -> None:
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    signal = Signal()

    async def breaks() -> None:
        await signal
        raise ZeroDivisionError

    rig.drive(breaks())
    signal.set()
    await turn(2)
    assert [type(context["exception"]) for context in told] == [ZeroDivisionError]
    assert len(rig.ended) == 1


# -- signals


async def test_a_set_signal_wakes_its_waiter_in_the_next_turn(rig: Rig) -> None:
    signal = Signal()
    rig.drive(rig.waits(signal))
    signal.set()
    assert rig.said == ["waits"], "whoever sets a signal is never run into"
    await turn()
    assert rig.said == ["waits", "goes on"]
    assert len(rig.ended) == 1


async def test_a_signal_that_was_set_before_is_not_waited_for(rig: Rig) -> None:
    signal = Signal()
    signal.set()
    rig.drive(rig.waits(signal))
    assert rig.said == ["waits", "goes on"]


async def test_a_signal_set_twice_wakes_once(rig: Rig) -> None:
    first, second = Signal(), Signal()

    async def two() -> None:
        await rig.waits(first)
        await rig.waits(second)

    rig.drive(two())
    first.set()
    first.set()
    await turn(3)
    assert rig.said == ["waits", "goes on", "waits"]
    second.set()
    await turn()
    assert len(rig.ended) == 1


async def test_a_signal_set_by_its_own_waiter_on_its_way_to_wait_is_not_lost(rig: Rig) -> None:
    signal = Signal()

    async def own() -> None:
        asyncio.get_running_loop().call_soon(signal.set)
        await rig.waits(signal)

    rig.drive(own())
    await turn(3)
    assert len(rig.ended) == 1


# -- throwing


async def test_what_is_thrown_is_raised_at_once_where_the_coroutine_waits(rig: Rig) -> None:
    drive = rig.drive(rig.waits(Signal()))
    with pytest.raises(Left):
        drive.throw(Left())
    assert rig.said == ["waits", "left"]
    assert rig.ended == [drive]


async def test_a_coroutine_may_catch_what_is_thrown_and_wait_again(rig: Rig) -> None:
    first, second = Signal(), Signal()

    async def stubborn() -> None:
        try:
            await rig.waits(first)
        except Left:
            await rig.waits(second)

    drive = rig.drive(stubborn())
    drive.throw(Left())
    assert rig.said == ["waits", "left", "waits"]
    first.set()
    await turn(2)
    assert rig.said == ["waits", "left", "waits"], "the wake-up of a wait that is over is stale"
    second.set()
    await turn()
    assert rig.said[-1] == "goes on"
    assert len(rig.ended) == 1


async def test_a_wake_up_under_way_is_stale_once_something_was_thrown(rig: Rig) -> None:
    first, second = Signal(), Signal()

    async def stubborn() -> None:
        try:
            await rig.waits(first)
        except Left:
            await rig.waits(second)

    drive = rig.drive(stubborn())
    first.set()
    drive.throw(Left())
    await turn(2)
    assert rig.said == ["waits", "left", "waits"]
    second.set()
    await turn()
    assert len(rig.ended) == 1


async def test_what_is_thrown_while_the_coroutine_runs_is_raised_where_it_waits_next(rig: Rig) -> None:
    drives: list[RequestDriver] = []

    async def provokes() -> None:
        drives[0].throw(Left())
        rig.said.append("still running")
        try:
            await rig.waits(Signal())
        except Left:
            rig.said.append("caught")

    drives.append(RequestDriver(provokes(), asyncio.get_running_loop(), rig.ended.append))
    drives[0].start()
    assert rig.said == ["still running", "waits"]
    await turn()
    assert rig.said == ["still running", "waits", "left", "caught"]
    assert rig.ended == drives


async def test_what_is_thrown_while_the_coroutine_runs_to_its_end_is_dropped(rig: Rig) -> None:
    drives: list[RequestDriver] = []

    async def provokes() -> None:
        drives[0].throw(Left())

    drives.append(RequestDriver(provokes(), asyncio.get_running_loop(), rig.ended.append))
    drives[0].start()
    await turn(2)
    assert rig.ended == drives


async def test_nothing_is_thrown_into_what_has_ended(rig: Rig) -> None:
    signal = Signal()
    drive = rig.drive(rig.waits(signal))
    signal.set()
    await turn()
    drive.throw(Left())
    assert rig.said == ["waits", "goes on"]


# -- asyncio's futures and tasks


async def test_a_future_may_be_awaited_and_gives_its_result(rig: Rig) -> None:
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def asks() -> None:
        rig.said.append(await future)

    rig.drive(asks())
    future.set_result(7)
    await turn()
    assert rig.said == [7]
    assert len(rig.ended) == 1


async def test_a_future_that_is_done_is_not_waited_for(rig: Rig) -> None:
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    future.set_result(7)

    async def asks() -> None:
        rig.said.append(await future)

    rig.drive(asks())
    assert rig.said == [7]


@pytest.mark.parametrize("late", [True, False], ids=["later", "at once"])
async def test_the_exception_of_an_awaited_task_is_raised_in_the_coroutine(rig: Rig, late: bool) -> None:
    async def fails() -> None:
        if late:
            await turn(2)
        raise Left

    async def asks() -> None:
        try:
            await asyncio.get_running_loop().create_task(fails())
        except Left:
            rig.said.append("told")

    rig.drive(asks())
    await turn(5)
    assert rig.said == ["told"]


async def test_a_cancelled_task_is_cancelled_for_its_waiter_too(rig: Rig) -> None:
    task = asyncio.get_running_loop().create_task(asyncio.sleep(60))

    async def asks() -> None:
        try:
            await task
        except asyncio.CancelledError:
            rig.said.append("cancelled")

    rig.drive(asks())
    task.cancel()
    await turn(3)
    assert rig.said == ["cancelled"]


async def test_whoever_is_thrown_out_of_waiting_for_a_task_is_not_woken_by_it_later(rig: Rig) -> None:
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    signal = Signal()

    async def asks() -> None:
        try:
            await future
        except Left:
            await rig.waits(signal)

    drive = rig.drive(asks())
    drive.throw(Left())
    future.set_result(7)
    await turn(2)
    assert rig.said == ["waits"]
    signal.set()
    await turn()
    assert rig.said == ["waits", "goes on"]
    assert told == []


async def test_a_thread_may_be_awaited(rig: Rig) -> None:
    async def asks() -> None:
        rig.said.append(await asyncio.to_thread(lambda: "from the thread"))

    rig.drive(asks())
    await eventually(lambda: rig.ended != [], "the thread's end woke nobody")
    assert rig.said == ["from the thread"]


@pytest.mark.parametrize("steps", [1, 3, 1000])
async def test_a_drive_goes_on_through_any_number_of_waits(rig: Rig, steps: int) -> None:
    signals = [Signal() for _ in range(steps)]

    async def many() -> None:
        for signal in signals:
            await signal

    drive = rig.drive(many())
    for signal in signals:
        signal.set()
    await turn(steps + 1)
    assert rig.ended == [drive]


async def test_a_drive_leaves_no_task_and_no_cycle_behind(rig: Rig) -> None:
    before = asyncio.all_tasks()
    gc.collect()
    signal = Signal()
    rig.drive(rig.waits(signal))
    assert asyncio.all_tasks() == before
    signal.set()
    await turn()
    del signal
    rig.ended.clear()
    assert gc.collect() == 0, "a request that has ended is freed at once, not when the collector comes by"
