"""Sizes of exhaustive tests: `make test` runs a seeded sample in seconds, `make test-long` (`SLUICE_LONG=1`) the full
size.

The seed of a run is `SLUICE_SEED`; `tests/conftest.py` chooses one where it is not set, and pytest prints it.
"""

import os
import random
from collections.abc import Sequence
from typing import Final, TypeVar

T = TypeVar("T")
N = TypeVar("N", int, float)

LONG: Final = os.environ.get("SLUICE_LONG") == "1"
SEED: Final = int(os.environ.setdefault("SLUICE_SEED", str(random.SystemRandom().randrange(10**6))))
"""Seed of this run, the same in every process of it."""


def size(short: N, full: N) -> N:
    """Return `full` in a long run, else `short`."""
    return full if LONG else short


def sample(cases: Sequence[T], count: int) -> list[T]:
    """Return all cases in a long run, else `count` of them, chosen by the run's seed, in their order."""
    if LONG or count >= len(cases):
        return list(cases)
    chosen = set(random.Random(SEED).sample(range(len(cases)), count))
    return [case for number, case in enumerate(cases) if number in chosen]
