"""Sliding and moving windows of requests: the one door to the `limits` library, loaded only where a rule needs it.

sliding_window: two counters, of this window and of the one before, weighted by how much of it is still looked back on.
    An estimate: never more than the limit by its reckoning, and at worst twice the limit in one length of the window,
    where everything came at the end of one window and all that was free again at the end of the next.
moving_window: an entry a request, exact in every stretch of time; so it holds as many entries as its limit.

What the library keeps in memory by itself goes by the wall clock, and looks through all of its keys in tasks and
threads with every hit; `WindowMemory` is a storage of ours for its strategies instead.
On Redis it would write the times of the gateways' wall clocks; `redis_storage` gives it the server's.
Where that clock goes back, a moving window that is full stays so for as much longer.
"""

from collections import deque
from collections.abc import Callable
from math import floor, inf
from typing import Any, Final

from limits import RateLimitItemPerSecond
from limits.aio.storage import MovingWindowSupport, RedisStorage, SlidingWindowCounterSupport
from limits.aio.storage.base import Storage
from limits.aio.storage.redis.redispy import RedispyBridge
from limits.aio.strategies import MovingWindowRateLimiter, RateLimiter, SlidingWindowCounterRateLimiter
from limits.errors import StorageError

from backends.store.memory import MOST_BUCKETS
from backends.store.windowed_store import WindowReading, WindowsLostError
from policies.limits import Demand, LimitLevel, LimitRule

# What stands between "gone" and "still there" is in the window: a moment later it has left.
_MOMENT: Final = 0.001


class LibraryWindows:
    """The `Windows` of a `WindowedStore`."""

    def __init__(self, storage: Storage, clock: Callable[[], float]) -> None:
        """
        storage: with sliding and moving windows, such as WindowMemory or a RedisStorage with wrap_exceptions
        clock: what the storage goes by for moving windows, in seconds
        """
        assert isinstance(storage, MovingWindowSupport) and isinstance(storage, SlidingWindowCounterSupport)
        self.at_once = isinstance(storage, WindowMemory)
        self._storage: MovingWindowSupport | SlidingWindowCounterSupport = storage
        self._moving: MovingWindowSupport = storage
        self._sliding: SlidingWindowCounterSupport = storage
        self._clock = clock
        self._limiters: dict[str, RateLimiter] = {
            "moving_window": MovingWindowRateLimiter(storage),
            "sliding_window": SlidingWindowCounterRateLimiter(storage),
        }

    async def read(self, demand: Demand) -> WindowReading:
        """Implement `WindowCounter.read`."""
        rule = demand.rule
        key = _item(rule).key_for(demand.bucket)
        try:
            if rule.strategy == "moving_window":
                since, used = await self._moving.get_moving_window(key, rule.count, rule.seconds)
                return _moving(rule, since - self._clock(), used)
            return _sliding(rule, *await self._sliding.get_sliding_window(key, rule.seconds))
        except StorageError as error:
            raise WindowsLostError(str(error)) from error

    async def hit(self, demand: Demand) -> bool:
        """Implement `WindowCounter.hit`."""
        try:
            return await self._limiters[demand.rule.strategy].hit(_item(demand.rule), demand.bucket)
        except StorageError as error:
            raise WindowsLostError(str(error)) from error


def _item(rule: LimitRule) -> RateLimitItemPerSecond:
    return RateLimitItemPerSecond(rule.count, rule.seconds, namespace="w")


def _moving(rule: LimitRule, oldest: float, used: int) -> WindowReading:
    """oldest: when the oldest request in the window came, in seconds from now."""
    if used < rule.count:
        return _reading(rule, 0.0, used, rule.seconds if used else 0.0, rule.seconds)
    wait = max(oldest + rule.seconds, 0.0) + _MOMENT if rule.count else inf
    return _reading(rule, wait, used, rule.seconds if used else 0.0, rule.seconds)


def _sliding(rule: LimitRule, previous: int, previous_for: float, current: int, current_for: float) -> WindowReading:
    """The counters, and for how many seconds each will be known; that of now is for a window's length after its end."""
    length, count = float(rule.seconds), rule.count
    used = floor(previous * previous_for / length) + current
    ends = max(current_for - length, 0.0) if current_for else length
    reset = ends + length if current else previous_for if previous else 0.0
    if used < count:
        wait = 0.0
    elif count == 0:
        wait = inf
    elif current < count:
        # What is left of the window before must weigh less than what is free of this one.
        wait = max(previous_for - (count - current) * length / previous, 0.0) + _MOMENT
    else:
        # Nothing is free before this window has ended and weighs less than the limit.
        wait = ends + max(length * (1 - count / current), 0.0) + _MOMENT
    return _reading(rule, wait, used, reset, ends + length)


def _reading(rule: LimitRule, wait: float, used: int, reset: float, reset_after: float) -> WindowReading:
    count = rule.count
    level = LimitLevel(rule, count, max(count - used, 0), reset)
    return WindowReading(wait, level, LimitLevel(rule, count, max(count - used - 1, 0), reset_after))


def redis_storage(client: Any, prefix: str, clock: Callable[[], float]) -> Storage:
    """The library's storage in Redis, over a connection of ours.

    client: registers and runs scripts as a client of redis-py does
    prefix: begins the name of every key
    clock: Unix seconds that all gateways agree on
    """

    class OverOurs(RedisStorage):
        # Not one of the library's own: nobody finds it by a URL.
        STORAGE_SCHEME = None  # type: ignore[assignment]

        def configure_bridge(self) -> None:
            bridge = self.bridge
            assert isinstance(bridge, RedispyBridge)
            bridge.storage = client
            bridge.connection_getter = lambda readonly: client

        async def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
            """Do as the library does, with `clock()` in place of time.time()."""
            scripts = self._scripts()
            values = [clock(), limit, expiry, amount]
            return bool(await scripts.lua_acquire_moving_window([scripts.prefixed_key(key)], values))

        async def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
            """Do as the library does, with `clock()` in place of time.time()."""
            scripts, now = self._scripts(), clock()
            found = await scripts.lua_moving_window([scripts.prefixed_key(key)], [now - expiry, limit])
            return (float(found[0]), found[1]) if found else (now, 0)

        def _scripts(self) -> RedispyBridge:
            assert isinstance(self.bridge, RedispyBridge)
            return self.bridge

    return OverOurs("redis://", wrap_exceptions=True, implementation="redispy", key_prefix=prefix)


class WindowMemory(Storage, MovingWindowSupport, SlidingWindowCounterSupport):
    """A storage of the library in this process: our clock, nothing in the background, idle windows forgotten."""

    STORAGE_SCHEME = None

    def __init__(self, clock: Callable[[], float], most: int = MOST_BUCKETS) -> None:
        """
        clock: seconds; monotonic
        most: windows that are kept; beyond it the oldest is forgotten for every new one
        """
        super().__init__()
        self._clock = clock
        self._most = most
        # When each request came, and for how long it counts; and (number of the window, count before it, count in it).
        self._entries: dict[str, tuple[deque[float], int]] = {}
        self._counters: dict[str, tuple[int, int, int, int]] = {}
        self._order: deque[str] = deque()

    def __len__(self) -> int:
        return len(self._entries) + len(self._counters)

    async def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Take `amount` places in a moving window, if there are so many."""
        now = self._clock()
        entries = self._left(key, now, expiry)
        if len(entries) + amount > limit:
            return False
        entries.extend([now] * amount)
        if key not in self._entries:
            self._came(key)
            self._entries[key] = entries, expiry
        return True

    async def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        """Return the time of the oldest entry in the window, and the number of entries."""
        now = self._clock()
        entries = self._left(key, now, expiry)
        return (entries[0], len(entries)) if entries else (now, 0)

    async def acquire_sliding_window_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Take `amount` places in a sliding window, if there are so many."""
        now = self._clock()
        number, before, within = self._counted(key, now, expiry)
        if floor(before * (1 - now / expiry % 1)) + within + amount > limit:
            return False
        if key not in self._counters:
            self._came(key)
        self._counters[key] = number, before, within + amount, expiry
        return True

    async def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        """(count of the window before, for how long it is known, count of this one, for how long it is known)"""
        now = self._clock()
        _, before, within = self._counted(key, now, expiry)
        left = (1 - now / expiry % 1) * expiry
        return before, left, within, left + expiry

    async def clear_sliding_window(self, key: str, expiry: int) -> None:
        self._counters.pop(key, None)

    async def clear(self, key: str) -> None:
        self._entries.pop(key, None)

    async def reset(self) -> int | None:
        return None

    async def check(self) -> bool:
        return True

    async def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        raise NotImplementedError("fixed windows are ours")

    async def get(self, key: str) -> int:
        raise NotImplementedError("fixed windows are ours")

    async def get_expiry(self, key: str) -> float:
        raise NotImplementedError("fixed windows are ours")

    @property
    def base_exceptions(self) -> type[Exception]:
        """Return an exception type that nothing raises: no error here is expected."""
        return StorageError

    def _left(self, key: str, now: float, expiry: int) -> deque[float]:
        """The entries that are still in the window."""
        known = self._entries.get(key)
        if known is None:
            return deque()
        entries = known[0]
        while entries and entries[0] < now - expiry:
            entries.popleft()
        return entries

    def _counted(self, key: str, now: float, expiry: int) -> tuple[int, int, int]:
        """(number of the window, count of the one before, count of this one)"""
        number = floor(now / expiry)
        then, before, within, _ = self._counters.get(key, (number, 0, 0, expiry))
        if then == number:
            return number, before, within
        return number, within if then == number - 1 else 0, 0

    def _came(self, key: str) -> None:
        """Look at two for one that comes: however fast new ones come, the idle ones go faster."""
        self._order.append(key)
        for _ in range(2):
            seen = self._order.popleft()
            if seen == key or not self._idle(seen):
                self._order.append(seen)
            else:
                self._drop(seen)
        if len(self._order) > self._most:
            self._drop(self._order.popleft())

    def _idle(self, key: str) -> bool:
        now = self._clock()
        if key in self._entries:
            return not self._left(key, now, self._entries[key][1])
        number, _, _, expiry = self._counters.get(key, (0, 0, 0, 1))
        return floor(now / expiry) > number + 1

    def _drop(self, key: str) -> None:
        self._entries.pop(key, None)
        self._counters.pop(key, None)
