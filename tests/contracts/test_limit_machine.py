"""Any order of requests, settlements and waits: every store says what a plain model says."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from fractions import Fraction
from math import inf
from typing import Any, TypeVar

import pytest
from hypothesis import settings as run_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from policies.config.settings.auth import LimitSettings
from policies.limits import Demand, Granted, LimitLevel, LimitRefused, LimitRule
from tests.contracts.limit_stages import STAGES, START, SUBJECT, one, per, plan, take

T = TypeVar("T")

LIMITS = st.one_of(
    st.builds(per, st.integers(0, 12), st.sampled_from([7, 60]), st.just("tokens")),
    st.builds(lambda count, burst: per(count, 60, "tokens", burst=burst), st.integers(1, 12), st.integers(1, 20)),
    st.builds(lambda count: per(count, 60, "tokens", strategy="fixed_window"), st.integers(0, 12)),
    st.builds(lambda count: LimitSettings(concurrency=count), st.integers(0, 4)),
)
# Milliseconds are whole microseconds: no clock of any store rounds them.
WAITS = st.one_of(st.integers(1, 3000), st.integers(1, 90_000))


@dataclass
class Model:
    """One rule's only bucket, in fractions and whole history where a store keeps three numbers."""

    rule: LimitRule
    level: Fraction = field(init=False)
    at: Fraction = Fraction(0)
    window: int = -1
    used: int = 0
    holders: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.level = Fraction(self.rule.burst)

    def look(self, now: Fraction) -> None:
        if self.rule.strategy == "token_bucket":
            came = (now - self.at) * self.rule.count / self.rule.seconds
            self.level, self.at = min(self.level + came, Fraction(self.rule.burst)), now
        elif self.rule.strategy == "fixed_window" and now // self.rule.seconds != self.window:
            self.window, self.used = int(now // self.rule.seconds), 0

    @property
    def left(self) -> Fraction:
        if self.rule.strategy == "token_bucket":
            return self.level
        held = self.used if self.rule.strategy == "fixed_window" else len(self.holders)
        return Fraction(self.rule.count - held)

    def wait(self, amount: int, lease: str, now: Fraction) -> float:
        if self.rule.strategy == "slots":
            free = lease in self.holders or len(self.holders) < self.rule.count
            return 0.0 if free else 1.0 if self.rule.count else inf
        # A store sees a millionth of a unit, and what is less is not there yet.
        if amount <= self.left:
            return 0.0
        if amount > self.rule.burst or self.rule.count == 0:
            return inf
        if self.rule.strategy == "token_bucket":
            return float((amount - self.level) * self.rule.seconds / self.rule.count)
        return float((self.window + 1) * self.rule.seconds - now)

    def use(self, amount: int, lease: str) -> None:
        if self.rule.strategy == "token_bucket":
            self.level = max(min(self.level - amount, Fraction(self.rule.burst)), Fraction(-self.rule.burst))
        elif self.rule.strategy == "fixed_window":
            self.used = min(max(self.used + amount, 0), 2 * self.rule.count)
        else:
            self.holders.add(lease)


@dataclass
class Open:
    """A request that was granted and is not settled."""

    granted: Granted
    asked: tuple[Demand, ...]
    windows: list[int]


class LimitMachine(RuleBasedStateMachine):
    stage_name = ""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.closing = AsyncExitStack()
        self.stage = self.run(self.closing.enter_async_context(STAGES[self.stage_name]()))
        self.now = Fraction(START)
        self.models: list[Model] = []
        self.open: list[Open] = []
        self.leases = 0

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def teardown(self) -> None:
        self.run(self.closing.aclose())
        self.loop.close()

    @initialize(limits=st.lists(LIMITS, min_size=1, max_size=4))
    def start(self, limits: list[LimitSettings]) -> None:
        self.plan = plan(self.stage, *limits)
        self.models = [Model(rule, at=self.now) for rule in self.plan]

    @rule(milliseconds=WAITS)
    def wait(self, milliseconds: int) -> None:
        self.run(self.stage.advance(milliseconds / 1000))
        self.now += Fraction(milliseconds, 1000)

    @rule(tokens=st.integers(1, 25), again=st.booleans())
    def ask(self, tokens: int, again: bool) -> None:
        asked = one(self.plan, SUBJECT, tokens)
        self.leases += not again or not self.leases
        lease = f"lease-{self.leases}"
        answer = self.run(take(self.stage.store, asked, lease))
        for model in self.models:
            model.look(self.now)
        waits = [model.wait(demand.amount, lease, self.now) for model, demand in zip(self.models, asked, strict=True)]
        longest = max(waits)
        if isinstance(answer, LimitRefused):
            # Less than a millionth of a unit may be missing.
            assert longest > 0
            assert answer.retry_after == pytest.approx(longest, abs=2e-6)
            assert waits[self.plan.index(answer.rule)] == pytest.approx(longest, abs=2e-6)
        else:
            assert longest == 0
            for model, demand in zip(self.models, asked, strict=True):
                model.use(demand.amount, lease)
            self.open.append(Open(answer, asked, [model.window for model in self.models]))
        self.judge(answer.levels)

    @precondition(lambda self: self.open)
    @rule(which=st.integers(0, 10), used=st.integers(0, 60))
    def refund(self, which: int, used: int) -> None:
        done = self.open.pop(which % len(self.open))
        changes = [(d, used - d.amount) for d in done.asked if d.rule.kind == "tokens" and used != d.amount]
        self.stage.store.refund(done.granted, changes)
        self.run(self.stage.settled())
        for model, demand, window in zip(self.models, done.asked, done.windows, strict=True):
            model.look(self.now)
            if model.rule.strategy == "slots":
                model.holders.discard(done.granted.lease)
            elif used >= demand.amount or model.window == window:
                model.use(used - demand.amount, "")

    def judge(self, levels: tuple[LimitLevel, ...]) -> None:
        assert [level.rule for level in levels] == list(self.plan)
        for level, model in zip(levels, self.models, strict=True):
            assert 0 <= level.remaining <= level.limit == model.rule.burst
            assert level.remaining == max(int(model.left), 0)
            assert 0 <= level.reset < inf

    @invariant()
    def what_is_seen_is_so(self) -> None:
        if self.models:
            asked = tuple(replace(demand) for demand in one(self.plan, SUBJECT, 1))
            levels = self.run(self.stage.store.seen(asked))
            for model in self.models:
                model.look(self.now)
            self.judge(levels)


@pytest.mark.parametrize("stage_name", list(STAGES))
def test_any_order_of_requests_settlements_and_waits(stage_name: str) -> None:
    machine = type("Machine", (LimitMachine,), {"stage_name": stage_name})
    examples = 150 if stage_name == "memory" else 25
    run_state_machine_as_test(
        machine, settings=run_settings(max_examples=examples, stateful_step_count=40, deadline=None)
    )
