"""Units as an operator writes them, and nothing that only looks like them."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.config import units
from policies.config.units import RateValue


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("250ms", 0.25),
        ("2s", 2.0),
        ("10m", 600.0),
        ("1h", 3600.0),
        ("1d", 86400.0),
        ("1.5s", 1.5),
        ("0", 0.0),
        ("0ms", 0.0),
    ],
)
def test_duration(text: str, seconds: float) -> None:
    assert units.read_seconds(text) == seconds


@pytest.mark.parametrize(
    ("text", "size"), [("512B", 512), ("64KiB", 65536), ("16MiB", 16 << 20), ("1GiB", 1 << 30), ("0", 0)]
)
def test_size(text: str, size: int) -> None:
    assert units.read_size(text) == size


@pytest.mark.parametrize(("text", "count"), [("0", 0), ("20", 20), ("100k", 100_000), ("5M", 5_000_000)])
def test_count(text: str, count: int) -> None:
    assert units.read_count(text) == count


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("60/second", RateValue(60, 1)),
        ("60/minute", RateValue(60, 60)),
        ("1000/hour", RateValue(1000, 3600)),
        ("5M/day", RateValue(5_000_000, 86400)),
        ("100M/month", RateValue(100_000_000, 2_592_000)),
        ("0/day", RateValue(0, 86400)),
    ],
)
def test_rate(text: str, rate: RateValue) -> None:
    assert units.read_rate(text) == rate


NOT_NUMBERS = [
    "",
    "012",
    "1_000",
    "1e3",
    "0x10",
    "+1",
    "-1",
    "1.",
    ".5",
    "inf",
    "nan",
    " 1",
    "1 ",
    "no",
    "٣",
    "²",
    "9" * 30,
]


@pytest.mark.parametrize(
    ("read", "message", "texts"),
    [
        (
            units.read_seconds,
            "a duration such as 250ms, 2s, 10m or 1d",
            ["5", "1h30m", "5 s", "5S", "5us", "1w", "-2s", "1e3s"],
        ),
        (units.read_size, "a size such as 512B, 64KiB or 16MiB", ["5", "64KB", "64kib", "64K", "1.5MiB", "-1B"]),
        (units.read_count, "a whole number such as 20, 100k or 5M", ["1.5", "1K", "1m", "2kk"]),
        (
            units.read_rate,
            "a rate, so many a second, minute, hour, day or month, such as 60/minute or 5M/day",
            ["60", "60/s", "60/minutes", "60 /minute", "1.5/day"],
        ),
        (units.read_number, "a number such as 3 or 0.5", ["1,5", "1/2", "50%"]),
    ],
)
def test_what_only_looks_like_it_is_refused(read: Callable[[str], Any], message: str, texts: list[str]) -> None:
    for text in texts + NOT_NUMBERS:
        with pytest.raises(ValueError) as caught:
            read(text)
        assert str(caught.value).startswith(f"expected {message}, found "), text


def test_duration_beyond_reason_is_refused() -> None:
    with pytest.raises(ValueError, match="999999999d is longer than ten years"):
        units.read_seconds("999999999d")


def test_ranges_are_said() -> None:
    with pytest.raises(ValueError, match='must be from 1 to 65535, found "65536"'):
        units.PORT.read("65536")
    with pytest.raises(ValueError, match='must be at least 1, found "0"'):
        units.COUNT_ABOVE_0.read("0")
    with pytest.raises(ValueError, match='must be more than 0, found "0"'):
        units.WEIGHT.read("0")
    with pytest.raises(ValueError, match='must be more than 0 and at most 100, found "101"'):
        units.PERCENT_ABOVE_0.read("101")
    with pytest.raises(ValueError, match=r'must be from 0 to 1, found "1\.5"'):
        units.SHARE.read("1.5")
    with pytest.raises(ValueError, match="must be longer than 0"):
        units.SECONDS_ABOVE_0.read("0s")
    assert units.PRIORITY.read("-5") == -5


@given(st.integers(0, 10**9))
def test_what_is_written_reads_the_same(milliseconds: int) -> None:
    assert units.read_seconds(units.write_seconds(milliseconds / 1000)) == milliseconds / 1000
    assert units.read_size(units.write_size(milliseconds)) == milliseconds
    assert units.read_rate(units.write_rate(RateValue(milliseconds, 60))) == RateValue(milliseconds, 60)


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    for kind in (units.SECONDS, units.SIZE, units.RATE, units.COUNT, units.NUMBER, units.PRIORITY):
        try:
            kind.read(text)
        except ValueError as error:
            assert str(error).isprintable()
