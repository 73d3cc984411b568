"""Slow start: from a tenth of its share to all of it, in a straight line."""

import pytest

from policies.resilience.slow_start import factor


@pytest.mark.parametrize(
    ("since", "length", "part"),
    [(0.0, 30.0, 0.1), (15.0, 30.0, 0.55), (30.0, 30.0, 1.0), (1e9, 30.0, 1.0), (-5.0, 30.0, 0.1), (0.0, 0.0, 1.0)],
)
def test_the_part_of_its_share(since: float, length: float, part: float) -> None:
    assert factor(since, length) == pytest.approx(part)


def test_it_only_grows_and_never_leaves_its_bounds() -> None:
    parts = [factor(tenth / 10, 30.0) for tenth in range(-10, 400)]
    assert parts == sorted(parts)
    assert (parts[0], parts[-1]) == (0.1, 1.0)
