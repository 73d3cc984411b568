"""What is said again and again is held back, and how often is told."""

from __future__ import annotations

import logging
from typing import Any

from gateway.observe.log import fields
from gateway.observe.log_suppression import RepeatSuppressor


def record(at: float, event: str = "again", **named: object) -> logging.LogRecord:
    made = logging.LogRecord("sluice.x", logging.WARNING, "", 0, event, None, None)
    made.created = at
    made.__dict__.update(fields(**named))
    return made


def said(repeats: RepeatSuppressor, at: float, event: str = "again", **named: object) -> dict[str, Any] | None:
    """The fields of the line, or None if it was held back."""
    one = record(at, event, **named)
    return one.__dict__["sluice_fields"] if repeats.filter(one) else None


def test_a_repeated_event_is_held_back_and_then_counted() -> None:
    repeats = RepeatSuppressor(limit=3, window=10.0)
    assert [said(repeats, second) is not None for second in range(8)] == [True] * 3 + [False] * 5
    assert said(repeats, 20.0) == {"held_back": 5}
    assert said(repeats, 21.0) == {}


def test_one_that_never_comes_again_is_told_when_its_time_is_over() -> None:
    asked: list[float] = []
    repeats = RepeatSuppressor(limit=3, window=10.0, holding=asked.append)
    for second in range(8):
        said(repeats, second, endpoint="a")
    assert asked == [7.0]
    assert repeats.over(9.9) == []
    (line,) = repeats.over(10.0)
    assert (line.name, line.levelno, line.msg) == ("sluice.x", logging.WARNING, "again")
    assert line.__dict__["sluice_fields"] == {"endpoint": "a", "held_back": 5}
    assert repeats.over(10.0) == []
    assert said(repeats, 10.1, endpoint="a") == {"endpoint": "a"}


def test_one_endpoint_leaves_room_for_another_and_all_of_them_are_bounded() -> None:
    repeats = RepeatSuppressor(limit=3, window=10.0, total=10)
    assert sum(said(repeats, 0.0, endpoint="a") is not None for _ in range(100)) == 3
    assert said(repeats, 0.0, endpoint="b") is not None
    assert sum(said(repeats, 0.0, endpoint=f"e{number}") is not None for number in range(100)) == 6
    assert said(repeats, 0.0, "another", endpoint="a") is not None
    assert said(repeats, 0.0, worker="a") is None, "one event, whatever it is about"
    assert sum(line.__dict__["sluice_fields"]["held_back"] for line in repeats.over(10.0)) == 97 + 94 + 1


def test_a_clock_that_was_set_back_silences_nothing() -> None:
    repeats = RepeatSuppressor(limit=1, window=10.0)
    assert said(repeats, 1_000.0) is not None
    assert said(repeats, 1_001.0) is None
    assert said(repeats, 1.0) == {"held_back": 1}
    assert said(repeats, 2.0) is None


def test_memory_is_bounded_and_what_was_held_back_is_forgotten_last() -> None:
    repeats = RepeatSuppressor(limit=1, window=10.0, most=50)
    for _ in range(9):
        said(repeats, 0.0, "storm")
    for number in range(1_000):
        said(repeats, 0.0, f"line {number}")
    assert said(repeats, 0.0, "storm") is None
    (line,) = repeats.over(10.0)
    assert line.__dict__["sluice_fields"] == {"held_back": 9}
