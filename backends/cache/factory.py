"""Makes the cache that a policy file asks for (policy key `store`). Redis is loaded where needed."""

from backends.cache.base import AnswerStore
from backends.cache.memory import MemoryCache
from backends.store.factory import StoreContext
from policies.config.settings.server import StoreSettings


def make_cache(settings: StoreSettings, around: StoreContext) -> AnswerStore:
    """The cache of answers; nothing is connected before its `start`. ValueError where the URL says nothing of use."""
    if settings.url == "memory://":
        return MemoryCache(settings.cache_size, around.clock)
    return open_redis_cache(settings, around)


def open_redis_cache(settings: StoreSettings, around: StoreContext) -> AnswerStore:
    """The cache of all processes that have the same Redis and prefix."""
    from backends.cache.redis import PARTS, CachePart, RedisCache, part_name
    from backends.store.redis_client import RedisClient
    from backends.store.redis_link import Stopwatch
    from policies.config.store_url import read_target

    target = read_target(settings.url)
    password = None if settings.password is None else settings.password.value
    names = [part_name(settings.prefix, number) for number in range(PARTS if target.form == "cluster" else 1)]
    stopwatch = Stopwatch(around.clock, around.meter.store_seconds)
    parts = [
        CachePart(
            RedisClient(target, password, name), name, settings.timeout, stopwatch, around.meter, around.say
        )
        for name in names
    ]  # fmt: skip
    return RedisCache(parts, settings.prefix)
