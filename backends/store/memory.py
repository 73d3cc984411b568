"""The store of one process: exact, at once, and gone with the process (policy key `store.url: memory://`).

A lease needs no lifetime here: who holds a slot and who counts it die together.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import Final, Protocol

from policies.limits import (
    Change,
    Demand,
    Granted,
    LimitLevel,
    LimitRefused,
    LimitRule,
    fixed_window,
    slots,
    token_bucket,
)
from policies.limits.token_bucket import State

MOST_BUCKETS: Final = 2_000_000
"""Half a GB of them. Beyond it the oldest is forgotten for every new one, as if it were full: a client may choose names
that buckets hang on (`per: user`), and must not choose how much memory we use."""

_MICROSECONDS: Final = 1_000_000


class _MemoryArithmetic(Protocol):
    """Arithmetic of one strategy: a module of `policies.limits`."""

    def wait(self, rule: LimitRule, state: State, amount: int, now: int) -> int | None: ...
    def changed(self, rule: LimitRule, state: State, amount: int) -> State: ...
    def level(self, rule: LimitRule, state: State, now: int) -> LimitLevel: ...


class _MemoryBucket(_MemoryArithmetic, Protocol):
    """Bucket whose state is kept as it is."""

    def current(self, rule: LimitRule, state: State | None, now: int) -> State: ...
    def refunded(self, rule: LimitRule, state: State, amount: int, taken: int, now: int) -> State: ...
    def idle(self, rule: LimitRule, state: State, now: int) -> bool: ...


_KEPT: Final[Mapping[str, _MemoryBucket]] = {"token_bucket": token_bucket, "fixed_window": fixed_window}
_ALL: Final[Mapping[str, _MemoryArithmetic]] = {**_KEPT, "slots": slots}


class MemoryStore:
    """A `Store` that answers at once and never awaits."""

    def __init__(self, clock: Callable[[], float], epoch: float = 0.0, most: int = MOST_BUCKETS) -> None:
        """
        clock: monotonic seconds
        epoch: what makes Unix time of them, read once at the start: windows begin with the hour and the day, and a wall
            clock that jumps later moves nothing
        most: buckets that are kept
        """
        self._clock = clock
        self._epoch = epoch
        self._most = most
        self._states: dict[str, State] = {}
        # Every bucket of _states once, in the order in which they are looked at to be forgotten.
        self._order: deque[str] = deque()
        # By the stem of their buckets' names, as they were last.
        self._rules: dict[str, LimitRule] = {}
        self._holders: dict[str, set[str]] = {}

    def __len__(self) -> int:
        """Return the number of buckets."""
        return len(self._states) + len(self._holders)

    def take(self, demands: Sequence[Demand], lease: str) -> Granted | LimitRefused:
        """Implement `LimitStore.take`."""
        now = self._now()
        if self._order:
            self._forget(1, now)
        states: list[State] = []
        waiting: LimitRule | None = None
        longest = 0.0
        for demand in demands:
            rule = demand.rule
            state = self._look(demand, lease, now)
            states.append(state)
            wait = _ALL[rule.strategy].wait(rule, state, demand.amount, now)
            if wait != 0 and longest < (needed := inf if wait is None else wait):
                waiting, longest = rule, needed
        if waiting is not None:
            return LimitRefused(waiting, longest / _MICROSECONDS, _levels(demands, states, now))
        held = self._debit(demands, states, lease, now)
        return Granted(_levels(demands, states, now), at=now, lease=lease, slots=held)

    def refund(self, granted: Granted, changes: Sequence[Change] = ()) -> None:
        """Implement `LimitStore.refund`."""
        now = self._now()
        for bucket in granted.slots:
            self._give_back(bucket, granted.lease)
        for demand, amount in changes:
            rule = demand.rule
            arithmetic = _KEPT.get(rule.strategy)
            if arithmetic is not None and amount:
                state = arithmetic.current(rule, self._states.get(demand.bucket), now)
                state = arithmetic.refunded(rule, state, amount, granted.at, now)
                if demand.bucket in self._states:
                    self._states[demand.bucket] = state
                else:
                    self._come(demand, state, now)

    async def seen(self, demands: Sequence[Demand]) -> tuple[LimitLevel, ...]:
        """Implement `LimitStore.seen`."""
        now = self._now()
        return _levels(demands, [self._look(demand, "", now) for demand in demands], now)

    async def start(self) -> None:
        """Do nothing."""

    async def stop(self) -> None:
        """Do nothing."""

    def _now(self) -> int:
        return round((self._clock() + self._epoch) * _MICROSECONDS)

    def _look(self, demand: Demand, lease: str, now: int) -> State:
        rule = demand.rule
        if rule.strategy == "slots":
            holders = self._holders.get(demand.bucket, ())
            return len(holders), int(lease in holders)
        return _KEPT[rule.strategy].current(rule, self._states.get(demand.bucket), now)

    def _debit(self, demands: Sequence[Demand], states: list[State], lease: str, now: int) -> tuple[str, ...]:
        """Take all, and put what is left into `states`. The buckets in which the lease holds a slot."""
        held: tuple[str, ...] = ()
        for index, demand in enumerate(demands):
            rule, bucket = demand.rule, demand.bucket
            states[index] = state = _ALL[rule.strategy].changed(rule, states[index], demand.amount)
            if rule.strategy == "slots":
                self._holders.setdefault(bucket, set()).add(lease)
                held = (*held, bucket)
            elif bucket in self._states:
                self._states[bucket] = state
            else:
                self._come(demand, state, now)
        return held

    def _give_back(self, bucket: str, lease: str) -> None:
        holders = self._holders.get(bucket, set())
        holders.discard(lease)
        if not holders:
            self._holders.pop(bucket, None)

    def _come(self, demand: Demand, state: State, now: int) -> None:
        """Keep a new bucket."""
        self._states[demand.bucket] = state
        self._rules[demand.rule.stem] = demand.rule
        self._order.append(demand.bucket)
        # Two for one that comes: however fast new ones come, the idle ones go faster.
        self._forget(2, now)
        if len(self._order) > self._most:
            del self._states[self._order.popleft()]

    def _forget(self, count: int, now: int) -> None:
        """Look at the next `count` buckets and drop those that are as good as new."""
        for _ in range(min(count, len(self._order))):
            bucket = self._order.popleft()
            rule = self._rules[bucket.partition("|")[0]]
            if _KEPT[rule.strategy].idle(rule, self._states[bucket], now):
                del self._states[bucket]
            else:
                self._order.append(bucket)


def _levels(demands: Sequence[Demand], states: Sequence[State], now: int) -> tuple[LimitLevel, ...]:
    return tuple(
        _ALL[demand.rule.strategy].level(demand.rule, state, now) for demand, state in zip(demands, states, strict=True)
    )
