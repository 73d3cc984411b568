"""One of several processes that share buckets: asks for each as often as it is told, and prints how often it got it.

`python -m tests.faults.limit_client URL PREFIX REQUESTS STRATEGY ...`; it waits for a line before each and at the end.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Sequence
from random import SystemRandom

from backends.store.base import LimitStore
from backends.store.factory import StoreContext, make_store
from policies.config.settings.auth import LimitSettings
from policies.config.settings.server import StoreSettings
from policies.config.units import RateValue
from policies.limits import Demand, Granted, LimitSubject, demands, rules_of
from tests.fakes.store import SpyMeter

_MONTH = 30 * 86400
COUNT = 1000
LIMITS = {
    "token_bucket": LimitSettings(requests=RateValue(COUNT, _MONTH)),
    "fixed_window": LimitSettings(requests=RateValue(COUNT, _MONTH), strategy="fixed_window"),
    "concurrency": LimitSettings(concurrency=COUNT),
    "sliding_window": LimitSettings(requests=RateValue(COUNT, _MONTH), strategy="sliding_window"),
    "moving_window": LimitSettings(requests=RateValue(COUNT, _MONTH), strategy="moving_window"),
}
SUBJECT = LimitSubject("k", "t", "u", "192.0.2.1", "m")


async def main(url: str, prefix: str, requests: int, strategies: Sequence[str]) -> None:
    """Count how many of so many requests are admitted, of each strategy; 16 are under way at a time."""
    meter = SpyMeter()
    epoch = time.time() - time.monotonic()  # noqa: TID251  as `gateway.wiring` does
    around = StoreContext(time.monotonic, epoch, SystemRandom(), meter, lambda event, what: None)
    store = make_store(StoreSettings(url=url, prefix=prefix, timeout=20.0, on_outage="closed"), around)
    await store.start()
    for strategy in strategies:
        rules = rules_of(strategy.replace("_", "-"), [LIMITS[strategy]], "closed")
        store.ready(rules)
        # Together with the others, as near as that goes. What was admitted is held until all have counted.
        await _told("ready")
        await _told(str(await _admitted(store, demands(rules, SUBJECT), requests)))
    assert meter.errors == {}
    await store.stop()


async def _admitted(store: LimitStore, asked: Sequence[Demand], requests: int) -> int:
    admitted = 0
    turns = iter(range(requests))

    async def client() -> None:
        nonlocal admitted
        for turn in turns:
            answer = store.take(asked, f"{os.getpid()}-{turn}")
            found = await answer if isinstance(answer, asyncio.Future) else answer
            assert found.mode == "store", found
            admitted += isinstance(found, Granted)

    await asyncio.gather(*(client() for _ in range(16)))
    return admitted


async def _told(word: str) -> None:
    """Say something, and wait for a line."""
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.readline)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4:]))
