"""Random faults for a while: a minute in a long run; `make soak` goes on for as long as it is told."""

from __future__ import annotations

import sys

import pytest

from tests.sizes import SEED, size
from tests.soak.judge import slope
from tests.soak.run import soak_in_a_folder


@pytest.mark.timeout(150)
def test_random_faults_leaves_no_error_without_excuse_and_nothing_held() -> None:
    seconds, seed = size(12.0, 60.0), SEED
    verdict = soak_in_a_folder(seconds, seed, 24, lambda text: sys.stderr.write(text + "\n"))
    assert not verdict.wrong, f"make soak SECONDS={seconds:g} SEED={seed}\n{verdict}"
    assert verdict.asked > 15 * seconds, verdict
    assert verdict.left.total() > 0.4 * verdict.asked, verdict


def test_the_slope_of_memory_is_that_of_the_samples() -> None:
    rise, doubt = slope([(requests, 50 + requests / 50_000) for requests in range(0, 100_000, 1_000)])
    assert rise == pytest.approx(2.0)
    assert doubt == pytest.approx(0.0, abs=1e-6)
    assert abs(slope([(number * 1_000, 50 + (number % 2) * 0.5) for number in range(100)])[0]) < 0.1
