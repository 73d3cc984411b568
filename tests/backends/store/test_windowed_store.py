"""Windows beside our own rules: the order of reading, taking and hitting, and what a race between them can do."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from limits.errors import StorageError

from backends.store.library_windows import LibraryWindows, WindowMemory
from backends.store.memory import MemoryStore
from backends.store.windowed_store import RACE_WAIT, WindowedStore
from policies.config.settings.auth import LimitSettings
from policies.config.units import RateValue
from policies.limits import Answer, Change, Demand, Granted, LimitRefused, LimitRule, LimitSubject, demands, rules_of

SUBJECT = LimitSubject(key="k1", tenant="acme", user="u1", ip="192.0.2.1", model="m")
LIMITS = (
    LimitSettings(requests=RateValue(100, 3600)),
    LimitSettings(tokens=RateValue(1000, 3600), strategy="fixed_window"),
    LimitSettings(concurrency=50),
    LimitSettings(requests=RateValue(10, 3600), strategy="moving_window"),
    LimitSettings(requests=RateValue(20, 3600), strategy="sliding_window"),
)
RULES = rules_of("p", LIMITS, "local")
ASKED = demands(RULES, SUBJECT, tokens=10)


def now() -> float:
    return 1_700_000_000.0


class Slow(LibraryWindows):
    """Windows in a store elsewhere: every question lets others go first."""

    def __init__(self) -> None:
        super().__init__(WindowMemory(now), now)
        self.at_once = False
        self.asked: list[str] = []
        self.stopped: asyncio.Event | None = None

    async def read(self, demand: Demand) -> Any:
        self.asked.append("read")
        await asyncio.sleep(0)
        return await super().read(demand)

    async def hit(self, demand: Demand) -> bool:
        self.asked.append("hit")
        if self.stopped is not None:
            self.stopped.set()
            await asyncio.sleep(60)
        await asyncio.sleep(0)
        return await super().hit(demand)


class Rig:
    def __init__(self, rules: Sequence[LimitRule] = RULES) -> None:
        self.memory = MemoryStore(lambda: 0.0, now())
        self.windows = Slow()
        self.store = WindowedStore(self.memory, lambda: self.windows)
        self.store.ready(rules)

    async def take(self, lease: str, asked: Sequence[Demand] = ASKED) -> Answer:
        answer = self.store.take(asked, lease)
        assert isinstance(answer, asyncio.Future)
        return await answer

    async def left(self) -> list[int]:
        return [level.remaining for level in await self.store.seen(ASKED)]


async def test_windows_are_read_first_and_hit_last() -> None:
    rig = Rig()
    answer = await rig.take("a")
    assert isinstance(answer, Granted)
    assert rig.windows.asked == ["read", "read", "hit", "hit"]
    assert [level.rule for level in answer.levels] == list(RULES)
    assert await rig.left() == [99, 990, 49, 9, 19]


async def test_a_race_never_leads_over_the_limit_and_leaves_our_own_rules_exact() -> None:
    rig = Rig()
    answers = await asyncio.gather(*(rig.take(f"{number}") for number in range(40)))
    granted = [answer for answer in answers if isinstance(answer, Granted)]
    refused = [answer for answer in answers if isinstance(answer, LimitRefused)]
    assert len(granted) == 10
    assert {answer.rule for answer in refused} == {RULES[3]}
    assert all(answer.retry_after >= RACE_WAIT for answer in refused)
    assert await rig.left() == [90, 900, 40, 0, 10]
    for answer in granted:
        rig.store.refund(answer)
    assert (await rig.left())[2] == 50


async def test_a_window_hit_before_one_that_fails_keeps_the_request() -> None:
    """What the library cannot give back: at most one a window for each request in the race, and never one too few."""
    rig = Rig()
    asked = (ASKED[4], ASKED[3])
    answers = await asyncio.gather(*(rig.take(f"{number}", asked) for number in range(15)))
    assert sum(isinstance(answer, Granted) for answer in answers) == 10
    left = await rig.left()
    assert left[3] == 0
    assert 20 - 15 <= left[4] <= 10


async def test_a_refusal_by_our_own_rules_hits_nothing() -> None:
    rules = rules_of("p", [LimitSettings(requests=RateValue(1, 3600)), LIMITS[3]], "local")
    rig = Rig(rules)
    asked = demands(rules, SUBJECT)
    await rig.take("a", asked)
    answer = await rig.take("b", asked)
    assert isinstance(answer, LimitRefused)
    assert answer.rule is rules[0]
    assert [level.remaining for level in answer.levels] == [0, 9]
    assert rig.windows.asked == ["read", "hit", "read"]


@pytest.mark.parametrize("turns", range(12))
async def test_a_request_that_leaves_at_any_moment_holds_nothing(turns: int) -> None:
    rig = Rig()
    answer = rig.store.take(ASKED, "a")
    assert isinstance(answer, asyncio.Future)
    for _ in range(turns):
        await asyncio.sleep(0)
    if not answer.cancel():
        done = answer.result()
        assert isinstance(done, Granted)
        rig.store.refund(done, [(demand, -demand.amount) for demand in ASKED])
    with pytest.raises(asyncio.CancelledError) if answer.cancelled() or not answer.done() else _nothing():
        await answer
    assert (await rig.left())[:3] == [100, 1000, 50]


class _nothing:
    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        pass


async def test_a_request_that_leaves_while_a_window_is_hit_holds_nothing() -> None:
    rig = Rig()
    rig.windows.stopped = asyncio.Event()
    answer = rig.store.take(ASKED, "a")
    assert isinstance(answer, asyncio.Future)
    await rig.windows.stopped.wait()
    assert await rig.left() == [99, 990, 49, 10, 20]
    answer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await answer
    assert await rig.left() == [100, 1000, 50, 10, 20]


class Elsewhere:
    """A store of our own rules that answers later, as over a network."""

    def __init__(self, memory: MemoryStore) -> None:
        self.memory = memory
        self.answers: list[asyncio.Future[Answer]] = []
        self.asked = asyncio.Event()

    def take(self, asked: Sequence[Demand], lease: str) -> asyncio.Future[Answer]:
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.answers.append(answer)
        self.asked.set()
        return answer

    def __getattr__(self, name: str) -> Any:
        return getattr(self.memory, name)


async def test_an_answer_in_the_turn_in_which_the_request_leaves_is_given_back() -> None:
    memory, windows = MemoryStore(lambda: 0.0, now()), Slow()
    elsewhere = Elsewhere(memory)
    store = WindowedStore(elsewhere, lambda: windows)
    store.ready(RULES)
    answer = store.take(ASKED, "a")
    assert isinstance(answer, asyncio.Future)
    await elsewhere.asked.wait()
    elsewhere.answers[0].set_result(memory.take(ASKED[:3], "a"))
    answer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await answer
    assert [level.remaining for level in await store.seen(ASKED)] == [100, 1000, 50, 10, 20]


class Spy(MemoryStore):
    def __init__(self) -> None:
        super().__init__(lambda: 0.0, now())
        self.changes: list[Change] = []

    def refund(self, granted: Granted, changes: Sequence[Change] = ()) -> None:
        self.changes += changes
        super().refund(granted, changes)


def test_the_store_below_hears_of_no_window() -> None:
    below = Spy()
    store = WindowedStore(below, lambda: LibraryWindows(WindowMemory(now), now))
    store.ready(RULES)
    answer = store.take(ASKED, "a")
    assert isinstance(answer, Granted)
    store.refund(answer, [(demand, -demand.amount) for demand in ASKED])
    assert [demand.rule for demand, _ in below.changes] == list(RULES[:3])


class Full(WindowMemory):
    """A window in which there is room whenever somebody reads, and none when it is hit."""

    async def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        return False


def test_who_lost_a_race_waits_though_there_is_room_again() -> None:
    store = WindowedStore(MemoryStore(lambda: 0.0), lambda: LibraryWindows(Full(now), now))
    store.ready(RULES)
    answer = store.take(ASKED, "a")
    assert isinstance(answer, LimitRefused)
    assert (answer.rule, answer.retry_after) == (RULES[3], RACE_WAIT)


class Lost(WindowMemory):
    """A storage that is away, as the library tells it."""

    reads = 0

    async def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        self.reads += 1
        if self.reads > 1:
            raise StorageError(OSError("gone"))
        return await super().get_moving_window(key, limit, expiry)

    async def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        raise StorageError(OSError("gone"))


async def test_while_the_windows_are_away_the_outage_answers_and_nothing_is_kept() -> None:
    asked_of: list[str] = []

    def outage(asked: Sequence[Demand], lease: str) -> Answer:
        asked_of.append(lease)
        return Granted((), mode="open", lease=lease)

    memory = MemoryStore(lambda: 0.0, now())
    store = WindowedStore(memory, lambda: LibraryWindows(Lost(now), now), outage)
    store.ready(RULES)
    for lease in ("a", "b"):
        answer = store.take(ASKED[:4], lease)
        assert isinstance(answer, Granted)
        assert answer.mode == "open"
    assert asked_of == ["a", "b"]
    assert [level.remaining for level in await store.seen(ASKED[:4])] == [100, 1000, 50]


def test_the_library_is_loaded_only_for_a_rule_that_needs_it() -> None:
    opened = []

    def open_windows() -> LibraryWindows:
        opened.append(1)
        return Slow()

    store = WindowedStore(MemoryStore(lambda: 0.0), open_windows)
    store.ready(RULES[:3])
    assert isinstance(store.take(ASKED[:3], "a"), Granted)
    assert not opened
    store.ready(RULES)
    store.ready(RULES)
    assert opened == [1]
