"""`x-sluice-deadline`: how much time the client has left."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.resilience.deadline import DeadlineError, time_left


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"250ms", 0.25),
        (b"2s", 2.0),
        (b"1.5s", 1.5),
        (b"1m", 60.0),
        (b"2h", 7200.0),
        (b" 2s\t", 2.0),
        (b"0s", 0.0),
        (b"0ms", 0.0),
        (b"1ms", 0.001),
    ],
)
def test_a_duration_is_seconds(value: bytes, seconds: float) -> None:
    assert time_left(value) == seconds


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"0",
        b"5",
        b"1.5",
        b"5 s",
        b"-1s",
        b"+1s",
        b"1S",
        b"1e3s",
        b"infs",
        b"nan",
        b"01s",
        b"1s, 2s",
        b"1700000000",
        b"Sun, 06 Nov 1994 08:49:37 GMT",
        "\uff12s".encode(),
        b"\xff\x00",
    ],
)
def test_every_other_text_is_refused_in_words_for_the_client(value: bytes) -> None:
    with pytest.raises(DeadlineError) as caught:
        time_left(value)
    assert str(caught.value).startswith("x-sluice-deadline: expected a duration such as 250ms, 2s, 10m or 1d, found ")
    assert str(caught.value).isprintable()


def test_a_long_value_is_not_told_back_in_full() -> None:
    with pytest.raises(DeadlineError) as caught:
        time_left(b"x" * 60_000)
    assert len(str(caught.value)) < 300


def test_a_deadline_in_ten_years_is_a_mistake() -> None:
    with pytest.raises(DeadlineError, match="longer than ten years"):
        time_left(b"4000d")


@given(st.binary(max_size=40))
def test_no_value_is_anything_but_a_length_or_a_deadline_error(value: bytes) -> None:
    try:
        assert time_left(value) >= 0.0
    except DeadlineError:
        pass


@given(st.integers(0, 10**6))
def test_milliseconds_are_exact(milliseconds: int) -> None:
    assert time_left(b"%dms" % milliseconds) == milliseconds / 1000
