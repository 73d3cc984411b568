"""Limits in Redis: one script call for all of a request's rules, exact for all processes that share the server.

All that is asked in one tick of the loop goes out in one write, over one connection. Nothing is asked twice: what was
not answered may have been done. While the server is away `OutageRules` answers, and says when it is asked again.
"""

import asyncio
from collections import deque
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any, Final, Protocol

from backends.store.redis_calls import (
    LIFETIME,
    NoScriptError,
    OutageRules,
    RefundCall,
    StoreCall,
    TakeCall,
    levels,
    states,
)
from backends.store.redis_channel import ChannelConnector, RedisChannel
from backends.store.redis_errors import StoreLostError
from backends.store.redis_link import RedisLink, Stopwatch
from backends.store.redis_wire import Change, RedisCommandWriter, Scripts
from policies.limits import Answer, Demand, Granted, LimitLevel
from policies.limits import Change as Used
from policies.limits.token_bucket import State

# Changes in one call of refund.lua, and buckets in one of beat.lua: the server does nothing else meanwhile.
_BATCH: Final = 100
_MOST_SETTLES: Final = 20_000
# A server's clock that went so much further than ours, or less far, has jumped.
_JUMP: Final = 5_000_000


class CommandPacker(Protocol):
    """Makes a command's bytes; `whole` with the script itself."""

    def __call__(self, nonce: int, whole: bool = False) -> bytes: ...


@dataclass(frozen=True, slots=True)
class StoreIdentity:
    """Identity of a store and of this process in it.

    prefix: policy key `store.prefix`
    timeout: seconds that a call may take
    process: a name that no other process has
    """

    prefix: str
    timeout: float
    process: str

    @property
    def keys(self) -> str:
        """Prefix of every key of limits. On a Cluster one node holds them all, since one call reads several."""
        return f"{{{self.prefix}:limits:v1}}:"


class RedisStore:
    """Takes and settles. Whatever it raises is a StoreLostError; what `take` promises always comes."""

    def __init__(
        self,
        opens: ChannelConnector,
        scripts: Scripts,
        sharing: StoreIdentity,
        outage: OutageRules,
        rng: Random,
        stopwatch: Stopwatch,
    ) -> None:
        self.wire = RedisCommandWriter(scripts, sharing.keys, LIFETIME)
        self.outage = outage
        self.channel = RedisChannel(opens, sharing.timeout, self._greet, self._settlings, stopwatch)
        self._clock = stopwatch.clock
        self._process = sharing.process
        # No reply of another connection has one of this one's numbers.
        self._nonce = rng.getrandbits(47)
        self._settles: deque[Change] = deque(maxlen=_MOST_SETTLES)
        self._held: dict[str, set[str]] = {}
        self._offset: float | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def take(self, demands: Sequence[Demand], lease: str) -> "asyncio.Future[Answer]":
        """Implement `LimitStore.take`, without windows."""
        call = TakeCall(self, demands, lease, asyncio.get_running_loop().create_future())
        self.channel.send(call)
        return call.future

    def refund(self, granted: Granted, changes: Sequence[Used] = ()) -> None:
        """Implement `LimitStore.refund`."""
        for bucket in granted.slots:
            self._drop_slot(bucket, granted.lease)
        for demand, amount in changes:
            if amount and demand.rule.strategy != "slots":
                self._settles.append((demand.rule, demand.bucket, str(amount), granted.at))
        self.channel.soon()

    async def seen(self, demands: Sequence[Demand]) -> tuple[LimitLevel, ...]:
        """Implement `LimitStore.seen`. Raises StoreLostError."""
        reply = await self.ask(lambda nonce, whole=False: self.wire.take(nonce, demands, "", looks=True, whole=whole))
        return levels(demands, states(demands, reply), reply[2])

    async def ask(self, pack: CommandPacker) -> list[Any]:
        """The reply of a script: a list that begins with the nonce. Raises StoreLostError."""
        call = StoreCall(pack, self.number())
        self.channel.send(call)
        try:
            return await call.checked()
        except NoScriptError:
            call = StoreCall(partial(pack, whole=True), self.number())
            self.channel.send(call)
            return await call.checked()

    async def beat(self) -> None:
        """Say that this process lives, and renew its leases. Raises StoreLostError."""
        await self._beat(LIFETIME)

    async def connect(self) -> None:
        """Return when there is a connection over which the store works. Raises StoreLostError."""
        await self.channel.connected()

    async def probe(self) -> None:
        """Check the store over a new connection, which then serves all calls. Raises StoreLostError."""
        self.abandon("asked anew")
        await self.connect()

    def abandon(self, reason: str) -> None:
        """Use the connection no more: whoever waits is answered by the outage. What the server does later with what it
        was sent is still heard of, and given back."""
        self.channel.retire("connection", reason)

    @property
    def knows_time(self) -> bool:
        """True once the server has sent its time."""
        return self._offset is not None

    def time(self) -> float:
        """Unix seconds by the server's clock, as its last reply has it: within the time that this took, and however the
        wall clock here jumps."""
        assert self._offset is not None
        return (self._clock() * 1e6 + self._offset) / 1e6

    async def stop(self, patience: float) -> None:
        """Carry out what is left to refund, for so many seconds at most, and end."""
        try:
            async with asyncio.timeout(patience):
                if self.channel.up:
                    await self._beat(0)
        except (StoreLostError, TimeoutError):
            pass
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.channel.close()

    # -- for its calls

    def number(self) -> int:
        """One that no call had before."""
        self._nonce = (self._nonce + 1) & ((1 << 48) - 1)
        return self._nonce

    def granted(self, demands: Sequence[Demand], lease: str, found: Sequence[State], now: int) -> Granted:
        """Return the granted amounts of a request; its slots are renewed from now on."""
        slots: tuple[str, ...] = ()
        for demand in demands:
            if demand.rule.strategy == "slots":
                slots = (*slots, demand.bucket)
                held = self._held.get(demand.bucket)
                if held is None:
                    held = self._held[demand.bucket] = set()
                held.add(lease)
        return Granted(levels(demands, found, now), "store", now, lease, slots)

    def give_back(self, demands: Sequence[Demand], lease: str, at: int) -> None:
        """Give back amounts that were granted to a request that no longer waits."""
        self.release(demands, lease)
        for demand in demands:
            if demand.rule.strategy != "slots":
                self._settles.append((demand.rule, demand.bucket, str(-demand.amount), at))
        self.channel.soon()

    def release(self, demands: Sequence[Demand], lease: str) -> None:
        """Release the slots of a lease, held or not."""
        for demand in demands:
            if demand.rule.strategy == "slots":
                self._drop_slot(demand.bucket, lease)

    def keep(self, changes: Sequence[Change], *, whole: bool = False) -> None:
        """These were sent, and nobody knows whether they were carried out. A slot can be given back twice; `whole`:
        it is known that none was."""
        self._settles.extend(change for change in changes if whole or change[0] is None)

    def worked(self, now: int, in_time: bool) -> None:
        """There was a reply, and with it the server's time."""
        if not in_time:
            # Nor does it tell what the time is now.
            return
        self.outage.worked()
        offset = now - self._clock() * 1e6
        if self._offset is not None and abs(offset - self._offset) > _JUMP:
            # By the server's clock leases may have ended that are held: they are there again with the next beat.
            self._later(self._beat_again())
        self._offset = offset

    # -- the background

    async def _greet(self, link: RedisLink) -> None:
        """Check a new connection: it must be quick, know the scripts and allow writes."""
        held = self._leases()
        loading = [StoreCall(partial(_same, text)) for text in self.wire.load()]
        beat = StoreCall(self._beating(held[:_BATCH], LIFETIME), self.number())
        calls = [*loading, beat]
        link.send(b"".join([call.pack() for call in calls]), calls)
        for call in loading:
            await call.answer()
        self._beaten(await beat.checked())
        if len(held) > _BATCH:
            self._later(self._beat_again())

    async def _beat(self, lifetime: int) -> None:
        held = self._leases() if lifetime else []
        for start in range(0, len(held) or 1, _BATCH):
            self._beaten(await self.ask(self._beating(held[start : start + _BATCH], lifetime)))

    def _beating(self, held: Sequence[tuple[str, Sequence[str]]], lifetime: int) -> CommandPacker:
        return lambda nonce, whole=False: self.wire.beat(nonce, self._process, lifetime, held, whole=whole)

    async def _beat_again(self) -> None:
        try:
            await self.beat()
        except StoreLostError as error:
            self.outage.failed(error.kind, str(error))

    def _beaten(self, reply: list[Any]) -> None:
        self.outage.live = max(reply[2], 1)
        self._offset = reply[1] - self._clock() * 1e6

    def _settlings(self) -> Iterator[RefundCall]:
        """Yield the refunds that are left. They are sent before takes: a slot given back is free."""
        while self._settles:
            yield RefundCall(self, [self._settles.popleft() for _ in range(min(_BATCH, len(self._settles)))])

    def _leases(self) -> list[tuple[str, list[str]]]:
        return [(bucket, list(leases)) for bucket, leases in self._held.items()]

    def _drop_slot(self, bucket: str, lease: str) -> None:
        holders = self._held.get(bucket)
        if holders is not None:
            holders.discard(lease)
            if not holders:
                del self._held[bucket]
        self._settles.append((None, bucket, lease, 0))

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work, name="store beat")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _same(data: bytes, nonce: int) -> bytes:
    return data
