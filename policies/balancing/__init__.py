"""How a pool chooses an endpoint: one strategy a file, one method, over candidates that are available.

A new strategy is a file, a line in `STRATEGIES` and nothing else: `tests/contracts/test_strategies.py` runs over the
table.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

from policies.balancing.candidate import BalancingStrategy, Candidate
from policies.balancing.least_requests import LeastRequests
from policies.balancing.round_robin import RoundRobin

__all__ = ["STRATEGIES", "BalancingStrategy", "Candidate", "strategy"]

STRATEGIES: Mapping[str, Callable[[random.Random], BalancingStrategy]] = {
    "least_requests": LeastRequests,
    "round_robin": RoundRobin,
}


def strategy(name: str, rng: random.Random) -> BalancingStrategy:
    """A strategy by the name that the policy gives it (`pools.balance`), with its own memory; one for each pool.

    The loader has refused the names that this version does not have; here they are a `KeyError`.
    """
    return STRATEGIES[name](rng)
