"""Guessing is slow, nobody is locked out, and memory is bounded."""

from __future__ import annotations

import tracemalloc

from policies.identity.guessing import GuessingLimiter


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_twenty_failures_are_within_the_limit_and_the_next_is_not() -> None:
    guessing = GuessingLimiter(Clock())
    assert [guessing.failed("10.0.0.1") for _ in range(20)] == [None] * 20
    assert guessing.failed("10.0.0.1") == 3.0
    assert guessing.failed("10.0.0.2") is None


def test_one_more_every_three_seconds() -> None:
    clock = Clock()
    guessing = GuessingLimiter(clock)
    within = 0
    for _ in range(6000):
        within += guessing.failed("a") is None
        clock.now += 0.01
    assert within == 20 + 19


def test_whoever_goes_on_waits_no_longer_for_it() -> None:
    clock = Clock()
    guessing = GuessingLimiter(clock)
    for _ in range(1000):
        guessing.failed("a")
    wait = guessing.failed("a")
    assert wait is not None and wait <= 3.0
    clock.now += wait
    assert guessing.failed("a") is None


def test_a_minute_later_nothing_is_left_of_it() -> None:
    clock = Clock()
    guessing = GuessingLimiter(clock)
    for _ in range(30):
        guessing.failed("a")
    clock.now += 60
    assert [guessing.failed("a") for _ in range(20)] == [None] * 20


def test_who_has_a_network_of_ipv6_has_one_address() -> None:
    guessing = GuessingLimiter(Clock())
    assert [guessing.failed(f"2001:db8::{n}") for n in range(20)] == [None] * 20
    assert guessing.failed("2001:db8::99") is not None
    assert guessing.failed("2001:db8:0:1::1") is None


def test_memory_is_bounded_and_who_fails_now_is_not_forgotten() -> None:
    guessing = GuessingLimiter(Clock(), most=100)
    for _ in range(20):
        guessing.failed("busy")
    for number in range(10_000):
        guessing.failed(f"10.0.{number >> 8}.{number & 255}")
        assert guessing.failed("busy") is not None
    assert len(guessing) == 100


def test_ten_thousand_addresses_take_two_megabytes_at_most() -> None:
    tracemalloc.start()
    guessing = GuessingLimiter(Clock())
    for number in range(20_000):
        guessing.failed(f"2001:db8:{number:x}::1")
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(guessing) == 10_000 and size < 2_000_000
