"""The one list of balancing strategies (policy key `pools.*.balance`).

The allowed values of the setting, the available values in `policies/config/available.py`, the JSON schema, the
generated table of settings and `tests/contracts/test_strategies.py` are derived from this list.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Final, Protocol

from policies.balancing.interface import BalancingStrategy, Promise
from policies.balancing.least_requests import LeastRequests
from policies.balancing.round_robin import RoundRobin


class StrategyClass(Protocol):
    """Class of a strategy: what it promises, and its constructor."""

    @property
    def promises(self) -> frozenset[Promise]: ...

    def __call__(self, rng: random.Random) -> BalancingStrategy: ...


# A strategy is registered by its line here. None: a name of the policy reference that this version does not build.
_REGISTERED: Final[Mapping[str, StrategyClass | None]] = {
    "round_robin": RoundRobin,
    "weighted_round_robin": None,
    "least_requests": LeastRequests,
    "power_of_two": None,
    "fastest": None,
    "consistent_hash": None,
    "prefix_affinity": None,
}

STRATEGY_NAMES: Final = tuple(_REGISTERED)
"""Names that the policy file may use, in the order in which messages and the schema list them."""

STRATEGIES: Final[Mapping[str, StrategyClass]] = {
    name: built for name, built in sorted(_REGISTERED.items()) if built is not None
}
"""Strategies that this version has, by name in alphabetical order."""


def strategy(name: str, rng: random.Random) -> BalancingStrategy:
    """Return a new strategy with its own memory, by its name in the policy; one for each pool.

    The loader refuses names that this version does not have; here such a name raises KeyError.
    """
    return STRATEGIES[name](rng)
