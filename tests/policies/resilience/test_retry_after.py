"""`Retry-After` in every form that RFC 9110 has, and in those that it has not."""

import time
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.resilience.retry import retry_after

# RFC 9110's own example: Sun, 06 Nov 1994 08:49:37 GMT.
EXAMPLE = 784111777.0
FIFTY_YEARS = datetime(2044, 11, 6, 8, 49, 37, tzinfo=UTC).timestamp() - EXAMPLE


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"0", 0.0),
        (b"1", 1.0),
        (b"120", 120.0),
        (b"007", 7.0),
        (b" 5\t", 5.0),
        (b"1000000000", 1e9),
        (b"9" * 15, 999_999_999_999_999.0),
    ],
)
def test_seconds(value: bytes, seconds: float) -> None:
    assert retry_after(value, EXAMPLE) == seconds


@pytest.mark.parametrize(
    "value",
    [
        b"Sun, 06 Nov 1994 08:49:37 GMT",
        b"Sunday, 06-Nov-94 08:49:37 GMT",
        b"Sun Nov  6 08:49:37 1994",
        b" Sun, 06 Nov 1994 08:49:37 GMT ",
        # The name of the day is not compared.
        b"Mon, 06 Nov 1994 08:49:37 GMT",
    ],
)
def test_a_date_in_all_three_forms(value: bytes) -> None:
    assert retry_after(value, EXAMPLE - 12.5) == 12.5
    assert retry_after(value, EXAMPLE) == 0.0
    assert retry_after(value, EXAMPLE + 3600) == 0.0


@pytest.mark.parametrize(
    ("value", "now", "seconds"),
    [
        # Two digits: what looks more than 50 years ahead has passed.
        (b"Friday, 06-Nov-44 08:49:37 GMT", datetime(2044, 11, 6, 8, 49, 27, tzinfo=UTC).timestamp(), 10.0),
        (b"Friday, 06-Nov-44 08:49:37 GMT", EXAMPLE, FIFTY_YEARS),
        (b"Friday, 06-Nov-44 08:49:38 GMT", EXAMPLE, 0.0),
        (b"Saturday, 01-Jan-00 00:00:10 GMT", datetime(1999, 12, 31, 23, 59, 50, tzinfo=UTC).timestamp(), 20.0),
        (b"Friday, 31-Dec-99 23:59:50 GMT", datetime(2000, 1, 1, tzinfo=UTC).timestamp(), 0.0),
        (b"Sat, 31 Dec 2016 23:59:60 GMT", datetime(2016, 12, 31, 23, 59, 50, tzinfo=UTC).timestamp(), 9.0),
        (b"Thu, 29 Feb 2024 00:00:00 GMT", datetime(2024, 2, 28, 23, 59, 0, tzinfo=UTC).timestamp(), 60.0),
    ],
)  # fmt: skip
def test_the_edges_of_a_calendar(value: bytes, now: float, seconds: float) -> None:
    assert retry_after(value, now) == seconds


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b" ",
        b"-1",
        b"+1",
        b"1.5",
        b"1e3",
        b"1s",
        b"1_000",
        b"0x10",
        b"5, 10",
        b"soon",
        b"nan",
        b"inf",
        b"9" * 16,
        b"9" * 100_000,
        "٣".encode(),
        b"5\n",
        b"5\x00",
        b"Sun, 06 Nov 1994 08:49:37",
        b"Sun, 06 Nov 1994 08:49:37 PST",
        b"Sun, 6 Nov 1994 08:49:37 GMT",
        b"Sun, 31 Nov 1994 08:49:37 GMT",
        b"Wed, 29 Feb 2023 08:49:37 GMT",
        b"Sun, 00 Nov 1994 08:49:37 GMT",
        b"Sun, 06 Nov 0000 08:49:37 GMT",
        b"Sun, 06 Now 1994 08:49:37 GMT",
        b"Sun, 06 Nov 1994 24:00:00 GMT",
        b"Sun, 06 Nov 1994 08:60:37 GMT",
        b"Sunday, 06-Nov-1994 08:49:37 GMT",
        b"Sun Nov 06 08:49:37 94",
        b"1994-11-06T08:49:37Z",
    ],
    ids=lambda value: repr(value[:40]),
)
def test_nonsense_says_nothing(value: bytes) -> None:
    assert retry_after(value, EXAMPLE) is None


def test_a_header_that_is_not_there_says_nothing() -> None:
    assert retry_after(None, EXAMPLE) is None


@given(st.binary(max_size=64) | st.text("0123456789 :,-+GMTSunNov").map(str.encode), st.floats(0, 4e9))
def test_no_value_is_a_crash_or_a_negative_wait(value: bytes, now: float) -> None:
    seconds = retry_after(value, now)
    assert seconds is None or seconds >= 0.0


@given(st.integers(0, 4_000_000_000), st.integers(-100_000, 100_000))
def test_every_date_is_read_back(moment: int, ahead: int) -> None:
    now = float(moment - ahead)
    for form in ("%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y"):
        value = time.strftime(form, time.gmtime(moment)).encode()
        assert retry_after(value, now) == max(0.0, float(ahead)), value
