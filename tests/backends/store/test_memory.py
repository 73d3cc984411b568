"""What the store in memory forgets, and what a bucket costs."""

from __future__ import annotations

from dataclasses import replace

from backends.store.memory import MemoryStore
from policies.config.settings.auth import LimitSettings
from policies.config.units import RateValue
from policies.limits import Granted, LimitSubject, demands, rules_of
from tests.bench.limits import many_buckets

SUBJECT = LimitSubject(key="k1", tenant="acme", user="u1", ip="192.0.2.1", model="m")
RULES = rules_of(
    "free",
    [
        LimitSettings(requests=RateValue(60, 60)),
        LimitSettings(requests=RateValue(60, 60), strategy="fixed_window"),
        LimitSettings(tokens=RateValue(6000, 60), per="tenant"),
        LimitSettings(concurrency=4, per="user"),
    ],
    "local",
)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def subject(number: int) -> LimitSubject:
    return replace(SUBJECT, key=f"k{number}", tenant=f"t{number}", user=f"u{number}")


def test_what_is_idle_is_forgotten_while_others_come() -> None:
    clock = Clock()
    store = MemoryStore(clock, most=10_000)
    for number in range(1000):
        answer = store.take(demands(RULES, subject(number), tokens=100), f"{number}")
        assert isinstance(answer, Granted)
        store.refund(answer)
    assert len(store) == 3000, "none of them is idle yet"
    clock.now += 61
    for number in range(1000, 2001):
        answer = store.take(demands(RULES, subject(number), tokens=100), f"{number}")
        assert isinstance(answer, Granted)
        store.refund(answer)
    assert len(store) <= 3003 + 3, "those of before are gone, two for each that came"


def test_one_that_asks_again_and_again_makes_the_others_forgotten() -> None:
    clock = Clock()
    store = MemoryStore(clock)
    for number in range(100):
        store.refund(_granted(store, number))
    clock.now += 61
    for _ in range(400):
        store.refund(_granted(store, 7))
    assert len(store) == 3


def _granted(store: MemoryStore, number: int) -> Granted:
    answer = store.take(demands(RULES[:3], subject(number), tokens=1), f"{number}")
    if not isinstance(answer, Granted):
        return Granted(())
    return answer


def test_what_is_not_idle_is_kept_whatever_comes() -> None:
    clock = Clock()
    store = MemoryStore(clock)
    rules = rules_of(
        "p",
        [
            LimitSettings(requests=RateValue(1, 3600)),
            LimitSettings(requests=RateValue(1, 3600), strategy="fixed_window"),
        ],
        "local",
    )
    assert isinstance(store.take(demands(rules, SUBJECT), "l"), Granted)
    for number in range(5000):
        clock.now += 0.1
        store.take(demands(RULES[:2], subject(number)), "l")
    assert not isinstance(store.take(demands(rules[:1], SUBJECT), "l"), Granted)
    assert not isinstance(store.take(demands(rules[1:], SUBJECT), "l"), Granted)


def test_beyond_the_most_the_oldest_is_forgotten() -> None:
    store = MemoryStore(Clock(), most=10)
    rule = rules_of("p", [LimitSettings(requests=RateValue(1, 86400))], "local")
    for number in range(100):
        assert isinstance(store.take(demands(rule, subject(number)), "l"), Granted)
        assert len(store) <= 10
    assert not isinstance(store.take(demands(rule, subject(99)), "l"), Granted)


def test_no_holder_is_kept_of_a_slot_given_back() -> None:
    store = MemoryStore(Clock())
    for number in range(100):
        answer = store.take(demands(RULES[3:], subject(number)), f"{number}")
        assert isinstance(answer, Granted)
        store.refund(answer)
    assert len(store) == 0


def test_a_refused_request_makes_no_bucket() -> None:
    store = MemoryStore(Clock())
    rules = rules_of(
        "p", [LimitSettings(requests=RateValue(5, 60)), LimitSettings(requests=RateValue(0, 60), per="all")], "local"
    )
    for number in range(100):
        assert not isinstance(store.take(demands(rules, subject(number)), "l"), Granted)
    assert len(store) == 0


def test_a_bucket_of_many_is_small_and_found_at_once() -> None:
    """The record of a million is `python -m tests.bench.limits`."""
    found = many_buckets(10_000)
    assert found.bytes_each < 500
    assert found.ask_many < 5 * found.ask_few + 5
