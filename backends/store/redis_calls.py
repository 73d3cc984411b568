"""Calls to the Redis store, and the parsing of their replies."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import Any, Final, Protocol

from backends.store.base import LEASE_LIFETIME
from backends.store.redis_channel import RedisChannel
from backends.store.redis_errors import Kind, ReplyError, StoreLostError
from backends.store.redis_link import DesyncError
from backends.store.redis_wire import Change, RedisCommandWriter
from policies.limits import (
    Answer,
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

LIFETIME: Final = round(LEASE_LIFETIME * 1_000_000)


class OutageRules(Protocol):
    """Told how the store does; answers in its place."""

    live: int
    """Number of processes that share the store, by its last reply."""
    open: bool
    """True during an outage of the store."""

    def worked(self) -> None: ...
    def failed(self, kind: Kind, reason: str) -> None: ...
    def answer(self, demands: Sequence[Demand], lease: str) -> Answer: ...


class CallOwner(Protocol):
    """The store that sends a call (`backends.store.redis_store.RedisStore`), as the call sees it."""

    wire: RedisCommandWriter
    channel: RedisChannel
    outage: OutageRules

    def number(self) -> int: ...
    def worked(self, now: int, *, in_time: bool) -> None: ...
    def granted(self, demands: Sequence[Demand], lease: str, states: Sequence[State], now: int) -> Granted: ...
    def give_back(self, demands: Sequence[Demand], lease: str, now: int) -> None: ...
    def release(self, demands: Sequence[Demand], lease: str) -> None: ...
    def keep(self, changes: Sequence[Change], *, whole: bool = False) -> None: ...


class _RedisArithmetic(Protocol):
    def wait(self, rule: LimitRule, state: State, amount: int, now: int) -> int | None: ...
    def level(self, rule: LimitRule, state: State, now: int) -> LimitLevel: ...


_ARITHMETIC: Final[Mapping[str, _RedisArithmetic]] = {
    "token_bucket": token_bucket,
    "fixed_window": fixed_window,
    "slots": slots,
}
_LEVELS: Final = {strategy: arithmetic.level for strategy, arithmetic in _ARITHMETIC.items()}


class TakeCall:
    """Call that takes the amounts of one request."""

    __slots__ = ("_nonce", "_store", "demands", "future", "lease", "whole")

    def __init__(self, store: CallOwner, demands: Sequence[Demand], lease: str, future: asyncio.Future[Answer]) -> None:
        self.demands = demands
        self.future = future
        self.lease = lease
        self.whole = False
        self._store = store
        self._nonce = 0

    def pack(self) -> bytes | None:
        if self.future.done():
            return None
        store = self._store
        self._nonce = store.number()
        return store.wire.take(self._nonce, self.demands, self.lease, looks=False, whole=self.whole)

    def replied(self, reply: Any) -> None:
        if type(reply) is not list:
            self._refused(reply)
            return
        demands, store = self.demands, self._store
        if not reply or reply[0] != self._nonce:
            raise DesyncError("it answers another call")
        found = states(demands, reply)
        self._nonce = 0
        now: int = reply[2]
        # One that came too late does not make good for that.
        store.worked(now, in_time=not self.future.done())
        if reply[1] != 1:
            answer: Answer = _refusal(demands, found, now)
        elif self.future.done():
            # Whoever asked has been answered otherwise, or has gone.
            store.give_back(demands, self.lease, now)
            return
        else:
            answer = store.granted(demands, self.lease, found, now)
        if not self.future.done():
            self.future.set_result(answer)

    def lost(self, kind: Kind, reason: str) -> None:
        if self._nonce:
            # It was sent and not answered, so perhaps it was taken. What was counted stays; a slot must not.
            self._store.release(self.demands, self.lease)
        if not self.future.done():
            outage = self._store.outage
            outage.failed(kind, reason)
            self.future.set_result(outage.answer(self.demands, self.lease))

    def _refused(self, reply: Any) -> None:
        if not isinstance(reply, ReplyError):
            raise DesyncError("it is no answer of a script")
        if reply.noscript and not self.whole and not self.future.done():
            # Nothing was done: this time the script goes along.
            self.whole = True
            packed = self.pack()
            assert packed is not None
            self._store.channel.again(self, packed)
            return
        late, self._nonce = self.future.done(), 0
        self.lost(reply.kind, str(reply))
        if not late and reply.kind in ("readonly", "moved", "noauth"):
            # The server that is asked is not the one to ask, or not in this way: it is looked for anew.
            self._store.channel.drop(reply.kind, str(reply))


class RefundCall:
    """A batch of what is made good."""

    __slots__ = ("_changes", "_count", "_nonce", "_store", "_whole")

    def __init__(self, store: CallOwner, changes: Sequence[Change]) -> None:
        self._store = store
        self._changes = changes
        self._count = len(changes)
        self._nonce = 0
        self._whole = False

    def pack(self) -> bytes:
        self._nonce = self._store.number()
        return self._store.wire.refund(self._nonce, self._changes, whole=self._whole)

    def replied(self, reply: Any) -> None:
        if isinstance(reply, ReplyError):
            if reply.noscript and self._changes and not self._whole:
                self._whole = True
                self._store.channel.again(self, self.pack())
                return
            if self._changes:
                # None of these has done anything, so all of it can be sent once more, and is, with what comes next.
                whole = reply.kind in ("readonly", "loading", "moved", "noauth")
                self._store.keep(self._changes, whole=whole)
                self._store.outage.failed(reply.kind, str(reply))
        elif reply != [self._nonce, self._count]:
            raise DesyncError("it answers no settlement")
        self._changes = ()

    def lost(self, kind: Kind, reason: str) -> None:
        changes, self._changes = self._changes, ()
        self._store.keep(changes)


class NoScriptError(StoreLostError):
    """The server does not know the script, and has done nothing."""


class StoreCall:
    """A question of the background."""

    def __init__(self, pack: Callable[[int], bytes], nonce: int = 0) -> None:
        """nonce: which the reply begins with; 0 where it is no script's"""
        self._pack = pack
        self._nonce = nonce
        self._future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def pack(self) -> bytes:
        return self._pack(self._nonce)

    def replied(self, reply: Any) -> None:
        if self._nonce and not isinstance(reply, ReplyError) and (type(reply) is not list or reply[0] != self._nonce):
            raise DesyncError("it answers another call")
        if not self._future.done():
            self._future.set_result(reply)

    def lost(self, kind: Kind, reason: str) -> None:
        if not self._future.done():
            self._future.set_result(StoreLostError(kind, reason))

    async def answer(self) -> Any:
        """The reply. Raises StoreLostError."""
        reply = await self._future
        if isinstance(reply, StoreLostError):
            raise reply
        if isinstance(reply, ReplyError):
            raise (NoScriptError if reply.noscript else StoreLostError)(reply.kind, str(reply))
        return reply

    async def checked(self) -> list[Any]:
        """The reply of a script. Raises StoreLostError."""
        reply = await self.answer()
        assert isinstance(reply, list)
        return reply


def states(demands: Sequence[Demand], reply: Sequence[Any]) -> list[State]:
    """The state of each bucket, out of a reply of take.lua."""
    if len(reply) != 3 + 2 * len(demands):
        raise DesyncError("it has another length")
    now = reply[2]
    # The time is a part only of a bucket's state; nobody minds it in the others.
    return [(reply[at], reply[at + 1], now) for at in range(3, len(reply), 2)]


def levels(demands: Sequence[Demand], found: Sequence[State], now: int) -> tuple[LimitLevel, ...]:
    """Return the levels of the buckets."""
    return tuple(
        [
            _LEVELS[(rule := demand.rule).strategy](rule, state, now)
            for demand, state in zip(demands, found, strict=True)
        ]
    )


def _refusal(demands: Sequence[Demand], found: Sequence[State], now: int) -> LimitRefused:
    longest, waiting = 0.0, None
    for demand, state in zip(demands, found, strict=True):
        rule = demand.rule
        wait = _ARITHMETIC[rule.strategy].wait(rule, state, demand.amount, now)
        wait_for = inf if wait is None else wait
        if wait_for > longest:
            longest, waiting = wait_for, rule
    if waiting is None:
        raise DesyncError("it refuses for no reason")
    return LimitRefused(waiting, longest / 1_000_000, levels(demands, found, now))
