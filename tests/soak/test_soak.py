"""Point 2 of issue 2, a minute of it; `make soak` is the long one."""

from __future__ import annotations

import random
import sys

import pytest

from tests.soak.judge import slope
from tests.soak.run import soak_in_a_folder


@pytest.mark.timeout(150)
def test_a_minute_of_random_faults_leaves_no_error_without_excuse_and_nothing_held() -> None:
    seed = random.SystemRandom().randrange(1 << 31)
    verdict = soak_in_a_folder(60.0, seed, 24, lambda text: sys.stderr.write(text + "\n"))
    assert not verdict.wrong, f"make soak SECONDS=60 SEED={seed}\n{verdict}"
    assert verdict.asked > 1_000, verdict
    assert verdict.left.total() > 0.4 * verdict.asked, verdict


def test_the_slope_of_memory_is_that_of_the_samples() -> None:
    rise, doubt = slope([(requests, 50 + requests / 50_000) for requests in range(0, 100_000, 1_000)])
    assert rise == pytest.approx(2.0)
    assert doubt == pytest.approx(0.0, abs=1e-6)
    assert abs(slope([(number * 1_000, 50 + (number % 2) * 0.5) for number in range(100)])[0]) < 0.1
