"""What limits cost in memory://, in CPU of this process: `python -m tests.bench.limits [BUCKETS]`."""

from __future__ import annotations

import sys
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass

from backends.store.factory import open_memory
from backends.store.memory import MemoryStore
from policies.config.settings.auth import LimitSettings
from policies.config.units import RateValue
from policies.limits import Demand, Granted, LimitRule, LimitSubject, demands, rules_of

DAY = 86400


def _subject(number: int) -> LimitSubject:
    return LimitSubject(key=f"key_{number:016x}", tenant="acme", user="ann", ip="192.0.2.1", model="qwen2-7b-instruct")


def _each(times: int, work: Callable[[int], object]) -> float:
    """Microseconds of CPU of one call."""
    before = time.process_time()
    for number in range(times):
        work(number)
    return (time.process_time() - before) / times * 1e6


@dataclass(frozen=True, slots=True)
class Buckets:
    """Microseconds of CPU a request of one rule, and bytes a bucket."""

    ask_few: float
    ask_many: float
    bytes_each: float


def many_buckets(count: int) -> Buckets:
    """What `count` buckets take, and what asking one of them does; its time is given, so none of them gets idle."""
    rules = rules_of("free", [LimitSettings(tokens=RateValue(1_000_000, DAY))], "local")
    asked = [demands(rules, _subject(number), tokens=1) for number in range(0, count, max(count // 1000, 1))]

    def asks(store: MemoryStore) -> float:
        return min(_each(len(asked), lambda number: store.take(asked[number], "lease")) for _ in range(5))

    few = asks(MemoryStore(lambda: 1000.0))
    tracemalloc.start()
    store = MemoryStore(lambda: 1000.0)
    for number in range(min(count, 100_000)):
        store.take(demands(rules, _subject(number), tokens=1), "lease")
    each = tracemalloc.get_traced_memory()[0] / len(store)
    tracemalloc.stop()
    for number in range(len(store), count):
        store.take(demands(rules, _subject(number), tokens=1), "lease")
    assert len(store) == count, "none of them is idle"
    return Buckets(few, asks(store), each)


def requests(rules: tuple[LimitRule, ...]) -> tuple[float, float, float]:
    """(demands, take, settle with one correction) of a request under these rules; microseconds of CPU."""
    store = open_memory(time.monotonic, 1_700_000_000.0)
    store.ready(rules)
    subject = _subject(1)
    asked = demands(rules, subject, 500, 100)
    changes: list[tuple[Demand, int]] = [(demand, -5) for demand in asked if demand.rule.kind == "tokens"]
    grants: list[Granted] = []

    def take(number: int) -> None:
        answer = store.take(asked, "lease")
        assert isinstance(answer, Granted)
        grants.append(answer)

    demanding = _each(20_000, lambda number: demands(rules, subject, 500, 100))
    return demanding, _each(20_000, take), _each(20_000, lambda number: store.refund(grants[number], changes))


PLANS = {
    "token_bucket x 2, fixed_window": [
        LimitSettings(requests=RateValue(1_000_000, 60)),
        LimitSettings(tokens=RateValue(1_000_000_000, 60), per="tenant"),
        LimitSettings(tokens=RateValue(1_000_000_000, DAY), per="tenant", strategy="fixed_window"),
    ],
    "token_bucket x 2, concurrency": [
        LimitSettings(requests=RateValue(1_000_000, 60)),
        LimitSettings(tokens=RateValue(1_000_000_000, 60), per="tenant"),
        LimitSettings(concurrency=4),
    ],
    "sliding_window": [LimitSettings(requests=RateValue(1_000_000, 60), strategy="sliding_window")],
    "moving_window": [LimitSettings(requests=RateValue(100_000, 60), strategy="moving_window")],
}


def main(count: int) -> None:
    say = sys.stdout.write
    for name, limits in PLANS.items():
        rules = rules_of("free", limits, "local")
        best = [min(figures) for figures in zip(*(requests(rules) for _ in range(5)), strict=True)]
        say(f"{name}: demands {best[0]:.1f} us, take {best[1]:.1f} us, settle {best[2]:.1f} us\n")
    found = many_buckets(count)
    say(f"{count:,} buckets: {found.bytes_each:.0f} bytes each; asking one takes {found.ask_many:.1f} us, ")
    say(f"and {found.ask_few:.1f} us where there are 1,000\n")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
