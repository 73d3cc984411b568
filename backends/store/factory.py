"""Makes the store that a policy file asks for (policy key `store`). Redis and `limits` are loaded where needed."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

from backends.control.meters import StoreMeter
from backends.store.memory import MemoryStore
from backends.store.outage import GuardedStore, Say, StoreOutage
from backends.store.windowed_store import WindowCounter, WindowedStore
from policies.config.settings.server import StoreSettings

if TYPE_CHECKING:
    from backends.store.redis_wire import Scripts


@dataclass(frozen=True, slots=True)
class StoreContext:
    """Dependencies of a store.

    clock: monotonic seconds, such as time.monotonic
    epoch: what makes Unix time of them, read once
    rng: names the process
    meter, say: told what happens
    """

    clock: Callable[[], float]
    epoch: float
    rng: Random
    meter: StoreMeter
    say: Say


def make_store(settings: StoreSettings, around: StoreContext) -> WindowedStore:
    """The store of limits; nothing is connected before its `start`. ValueError where the URL says nothing of use."""
    if settings.url == "memory://":
        # Never away, so this is said once.
        around.meter.limit_mode("store")
        return open_memory(around.clock, around.epoch)
    from backends.store.redis_wire import Scripts

    return open_redis(settings, around, Scripts.shipped())


def open_memory(clock: Callable[[], float], epoch: float) -> WindowedStore:
    """The store of one process.

    clock: monotonic seconds
    epoch: what makes Unix time of them
    """

    def now() -> float:
        return clock() + epoch

    def open_windows() -> WindowCounter:
        from backends.store.library_windows import LibraryWindows, WindowMemory

        return LibraryWindows(WindowMemory(now), now)

    return WindowedStore(MemoryStore(clock, epoch), open_windows)


def open_redis(settings: StoreSettings, around: StoreContext, scripts: "Scripts") -> WindowedStore:
    """The store of all processes that have the same Redis and prefix."""
    from backends.store.redis_client import RedisClient
    from backends.store.redis_errors import StoreLostError
    from backends.store.redis_link import Stopwatch
    from backends.store.redis_store import RedisStore, StoreIdentity
    from policies.config.store_url import read_target

    sharing = StoreIdentity(settings.prefix, settings.timeout, f"{around.rng.getrandbits(64):016x}")
    password = None if settings.password is None else settings.password.value
    client = RedisClient(read_target(settings.url), password, sharing.keys)
    local = open_memory(around.clock, around.epoch)
    outage = StoreOutage(local, settings.on_outage, around.meter, around.say, around.clock)
    redis = RedisStore(
        client, scripts, sharing, outage, around.rng, Stopwatch(around.clock, around.meter.store_seconds)
    )

    def open_windows() -> WindowCounter:
        from backends.store.redis_windows import open_redis_windows

        return open_redis_windows(redis, sharing.keys)

    return WindowedStore(GuardedStore(redis, outage, StoreLostError), open_windows, outage.answer)
