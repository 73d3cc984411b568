"""What slots are held for, and how fast those that wait go on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.capacity.pace import QueuePace, SlotTimes


def test_nobody_knows_before_the_first() -> None:
    held = SlotTimes()
    assert (held.mean, held.least) == (None, 0.0)


def test_alike_ones_need_what_they_need_and_mixed_ones_nothing_for_sure() -> None:
    alike, mixed = SlotTimes(), SlotTimes()
    for number in range(500):
        alike.learn(2.0)
        mixed.learn(60.0 if number % 10 == 0 else 0.1)
    assert alike.mean == pytest.approx(2.0) and alike.least == pytest.approx(2.0, abs=0.01)
    assert mixed.mean is not None and 2 < mixed.mean < 12 and mixed.least == 0.0


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=100))
def test_the_least_is_never_over_the_mean_nor_the_mean_over_the_most(seconds: list[float]) -> None:
    held = SlotTimes()
    for one in seconds:
        held.learn(one)
        assert held.mean is not None and 0 <= held.least <= held.mean
    assert held.mean is not None and min(seconds) - 1e-6 <= held.mean <= max(seconds) + 1e-6


def test_a_pace_is_that_of_the_last_turns() -> None:
    pace = QueuePace(0.0)
    assert pace.wait(10, 3.0) == 3.0
    for number in range(100):
        pace.moved(float(number))
    for number in range(100):
        pace.moved(100 + number / 10)
    assert pace.wait(10, 110.0) == pytest.approx(1.1, abs=0.01)
    # It stands still.
    assert pace.wait(10, 150.0) == pytest.approx(41.1, abs=0.01)
