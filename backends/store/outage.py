"""Outage of the store: the answers meanwhile, and the detection of its return.

Three failures in a row and nobody waits for the store any more: each limit's `on_outage` decides. Meanwhile the
background asks anew four times a second, over a new connection, and once that works all is as before.

local: this process's share of the limit, in memory: the limit divided by how many processes lived when the store last
    said so, and at least one. A bucket begins full, so right after the loss a limit may be used twice.
open: the limit is not checked. closed: nothing gets through.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final, Literal, Protocol

from backends.control.meters import StoreMeter
from backends.store.base import HEARTBEAT
from backends.store.windowed_store import WindowedStore
from backends.tasks import ended
from policies.limits import Answer, Change, Demand, Granted, LimitLevel, LimitRefused, LimitRule
from policies.limits.rules import Outage as Word

FAILURES: Final = 3
PROBE: Final = 0.25
"""Seconds between two questions whether the store is back."""
_START_FOR: Final = 1.0
"""Seconds that the start waits for the store: as long as finding it and logging in may take."""
_RETRY_AFTER: Final = 1.0
_MOST_SHARES: Final = 4096

Event = Literal["store_lost", "store_back", "cache_lost", "cache_back"]
Say = Callable[[Event, Mapping[str, object]], None]


class StoreOutage:
    """State of an outage, and the answers while it lasts."""

    def __init__(
        self, local: WindowedStore, word: Word, meter: StoreMeter, say: Say, clock: Callable[[], float]
    ) -> None:
        """
        local: keeps this process's shares
        word: policy key `store.on_outage`, for the metric
        say: told of every change, once
        clock: monotonic seconds
        """
        self.live = 1
        self.open = False
        self.lost = asyncio.Event()
        self._local = local
        self._word = word
        self._meter = meter
        self._say = say
        self._clock = clock
        self._failures = 0
        self._since = 0.0
        self._shares: dict[int, tuple[LimitRule, int, LimitRule]] = {}
        meter.limit_mode("store")

    def worked(self) -> None:
        """The store has answered."""
        self._failures = 0

    def failed(self, kind: str, reason: str) -> None:
        """The store has not answered, or with an error."""
        self._meter.store_error(kind)
        self._failures += 1
        if self._failures >= FAILURES:
            self.begin(kind, reason)

    def begin(self, kind: str, reason: str) -> None:
        """The store is away from now on."""
        if not self.open:
            self.open = True
            self._since = self._clock()
            self._meter.limit_mode(self._word)
            self._say("store_lost", {"kind": kind, "reason": reason, "limits": self._word, "processes": self.live})
            self.lost.set()

    def end(self) -> None:
        """End the outage: the store is back."""
        self._failures = 0
        if self.open:
            self.open = False
            self.lost.clear()
            self._meter.limit_mode("store")
            self._say("store_back", {"after_s": round(self._clock() - self._since, 3)})

    def answer(self, demands: Sequence[Demand], lease: str) -> Answer:
        """Answer a request by the outage policy of each rule."""
        asked = []
        for demand in demands:
            if demand.rule.on_outage == "closed":
                return LimitRefused(demand.rule, _RETRY_AFTER, (), "closed")
            if demand.rule.on_outage == "local":
                asked.append(demand)
        if not asked:
            return Granted((), "open", lease=lease)
        answer = self._local.take(self._shared(asked), lease)
        assert not isinstance(answer, asyncio.Future), "memory answers at once"
        rules = {demand.rule.name: demand.rule for demand in asked}
        levels = tuple([replace(level, rule=rules[level.rule.name]) for level in answer.levels])
        if isinstance(answer, LimitRefused):
            return LimitRefused(rules[answer.rule.name], answer.retry_after, levels, "local")
        return replace(answer, levels=levels, mode="local")

    def refund(self, granted: Granted, changes: Sequence[Change]) -> None:
        """Give back amounts that `answer` has granted."""
        if granted.mode == "local":
            mine = [change for change in changes if change[0].rule.on_outage == "local"]
            shared = self._shared([demand for demand, _ in mine])
            # What was used, beyond what was taken of the share, which may be less than what was asked for.
            used = [demand.amount + amount for demand, amount in mine]
            self._local.refund(granted, [(one, much - one.amount) for one, much in zip(shared, used, strict=True)])

    async def seen(self, demands: Sequence[Demand]) -> tuple[LimitLevel, ...]:
        """Return the levels of this process's shares; rules with the policy open or closed have none."""
        counted = [demand for demand in demands if demand.rule.on_outage == "local"]
        levels = await self._local.seen(self._shared(counted))
        return tuple([replace(level, rule=demand.rule) for level, demand in zip(levels, counted, strict=True)])

    def _shared(self, demands: Sequence[Demand]) -> list[Demand]:
        """The same, of this process's shares. Who asks for more than the share holds, yet not more than the limit, gets
        all of it."""
        found = []
        for demand in demands:
            share, amount = self._share(demand.rule), demand.amount
            if share.burst < amount <= demand.rule.burst:
                amount = share.burst
            found.append(Demand(share, demand.bucket, amount))
        return found

    def _share(self, rule: LimitRule) -> LimitRule:
        known = self._shares.get(id(rule))
        if known is not None and known[1] == self.live:
            return known[2]
        share = _share_of(rule, self.live)
        self._local.ready([share])
        if len(self._shares) >= _MOST_SHARES:
            self._shares.clear()
        self._shares[id(rule)] = rule, self.live, share
        return share


def _share_of(rule: LimitRule, live: int) -> LimitRule:
    """A rule for one of so many processes."""
    if live <= 1:
        return rule
    burst = max(rule.burst // live, 1) if rule.burst else 0
    if rule.strategy == "token_bucket":
        return replace(rule, seconds=rule.seconds * live, burst=burst)
    return replace(rule, count=burst, burst=burst)


class RemoteStore(Protocol):
    """The store that may be away. It raises StoreLostError; only `take` always answers, if need be by StoreOutage."""

    def take(self, demands: Sequence[Demand], lease: str) -> "asyncio.Future[Answer]": ...
    def refund(self, granted: Granted, changes: Sequence[Change] = ()) -> None: ...
    async def seen(self, demands: Sequence[Demand]) -> tuple[LimitLevel, ...]: ...
    async def beat(self) -> None: ...
    async def connect(self) -> None: ...
    async def probe(self) -> None: ...
    async def stop(self, patience: float) -> None: ...
    def abandon(self, reason: str) -> None: ...


class GuardedStore:
    """A `Store` that is asked as long as it answers."""

    def __init__(self, remote: RemoteStore, outage: StoreOutage, lost: type[Exception], stop_for: float = 1.0) -> None:
        """
        lost: what `remote` raises; has `kind`
        stop_for: seconds that `stop` may take
        """
        self._remote = remote
        self._outage = outage
        self._lost = lost
        self._stop_for = stop_for
        self._task: asyncio.Task[None] | None = None

    def take(self, demands: Sequence[Demand], lease: str) -> "Answer | asyncio.Future[Answer]":
        """Implement `LimitStore.take`."""
        if self._outage.open:
            return self._outage.answer(demands, lease)
        return self._remote.take(demands, lease)

    def refund(self, granted: Granted, changes: Sequence[Change] = ()) -> None:
        """Implement `LimitStore.refund`."""
        if granted.mode == "store":
            self._remote.refund(granted, changes)
        else:
            self._outage.refund(granted, changes)

    async def seen(self, demands: Sequence[Demand]) -> tuple[LimitLevel, ...]:
        """Implement `LimitStore.seen`; during an outage the levels are those of this process's shares."""
        if not self._outage.open:
            try:
                return await self._remote.seen(demands)
            except self._lost as error:
                self._failed(error)
        return await self._outage.seen(demands)

    async def start(self) -> None:
        """Implement `LimitStore.start`: return when the store is there, or is known and logged to be away. No
        request has asked for anything yet, so it may take what connecting takes, and not what a request would wait."""
        try:
            async with asyncio.timeout(_START_FOR):
                await self._connect()
        except TimeoutError:
            self._outage.begin("timeout", f"not there in {_START_FOR:g} s")
        self._task = asyncio.get_running_loop().create_task(self._tend(), name="store")

    async def stop(self) -> None:
        """Implement `LimitStore.stop`."""
        await ended(self._task)
        await self._remote.stop(self._stop_for)

    async def _connect(self) -> None:
        for _ in range(FAILURES):
            try:
                return await self._remote.connect()
            except self._lost as error:
                self._failed(error)
                # A single answer can be late on a machine where everything starts. What else is wrong stays so.
                if _kind(error) != "timeout":
                    self._outage.begin(_kind(error), str(error))
                    return

    async def _tend(self) -> None:
        while True:
            try:
                async with asyncio.timeout(HEARTBEAT):
                    await self._outage.lost.wait()
            except TimeoutError:
                try:
                    await self._remote.beat()
                except self._lost as error:
                    self._failed(error)
                continue
            self._remote.abandon("it does not answer")
            await self._until_back()

    async def _until_back(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            again = loop.time() + PROBE
            try:
                await self._remote.probe()
            except self._lost as error:
                self._outage.failed(_kind(error), str(error))
            else:
                self._outage.end()
                return
            await asyncio.sleep(max(again - loop.time(), 0))

    def _failed(self, error: Exception) -> None:
        self._outage.failed(_kind(error), str(error))


def _kind(error: Exception) -> str:
    kind: str = getattr(error, "kind", "other")
    return kind
