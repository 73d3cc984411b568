"""The pause (DESIGN rule 7): the engine's Retry-After, at most 30 s; without one 1 s, doubled up to 30, 1 s after a
success."""

import math

import pytest

from policies.resilience.pause import SaturationPause


def pauses(pause: SaturationPause, count: int) -> list[float]:
    """Pauses one after the other, without a success between."""
    found = []
    for _ in range(count):
        found.append(pause.saturated(None, pause.until))
    return found


@pytest.mark.parametrize(
    ("told", "seconds"), [(1.0, 1.0), (29.5, 29.5), (30.0, 30.0), (31.0, 30.0), (1e9, 30.0), (math.inf, 30.0)]
)
def test_it_takes_as_long_as_the_engine_says_at_most_30_s(told: float, seconds: float) -> None:
    pause = SaturationPause()
    assert pause.saturated(told, 100.0) == seconds
    assert pause.until == 100.0 + seconds
    assert pause.told


def test_without_a_word_of_the_engine_it_doubles_from_1_to_30_s() -> None:
    pause = SaturationPause()
    assert pauses(pause, 7) == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    assert not pause.told


def test_after_a_success_it_is_1_s_again() -> None:
    pause = SaturationPause()
    pauses(pause, 5)
    pause.succeeded()
    assert pauses(pause, 2) == [1.0, 2.0]


def test_a_success_does_not_end_it() -> None:
    pause = SaturationPause()
    pause.saturated(None, 100.0)
    pause.succeeded()
    assert pause.until == 101.0


@pytest.mark.parametrize("nonsense", [0.0, -1.0, math.nan, None])
def test_retry_at_once_or_nonsense_is_no_word_of_the_engine(nonsense: float | None) -> None:
    pause = SaturationPause()
    assert pause.saturated(nonsense, 100.0) == 1.0
    assert not pause.told


def test_a_burst_of_answers_doubles_it_once() -> None:
    pause = SaturationPause()
    assert [pause.saturated(None, 100.0) for _ in range(50)] == [1.0] * 50
    assert pause.saturated(None, 100.75) == 0.25
    assert pause.saturated(None, 101.0) == 2.0


def test_in_a_burst_the_longest_word_of_the_engine_counts() -> None:
    pause = SaturationPause()
    pause.saturated(None, 100.0)
    assert pause.saturated(5.0, 100.5) == 5.0
    assert pause.told
    assert pause.saturated(2.0, 101.0) == 4.5
    assert pause.saturated(None, 101.0) == 4.5
    assert pause.until == 105.5
    assert pause.told


def test_what_the_engine_said_is_of_that_pause_alone() -> None:
    pause = SaturationPause()
    pause.saturated(5.0, 100.0)
    assert pause.saturated(None, 105.0) == 1.0
    assert not pause.told
