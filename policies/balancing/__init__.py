"""Balancing strategies: how a pool chooses among its available endpoints (policy key `pools.*.balance`).

    interface        Candidate, RequestView, BalancingStrategy, and the promises that a strategy can make
    registry         the one list of strategies, and the function that builds one by name
    least_requests   the endpoint with the fewest attempts in flight for its weight
    round_robin      each endpoint in turn

A new strategy is one file here and one line in `registry`. The class states its promises; the contract tests
(`tests/contracts/test_strategies.py`) check each promise of each registered strategy.
"""

from policies.balancing.interface import BalancingStrategy, Candidate, Promise, RequestPrincipal, RequestView
from policies.balancing.registry import STRATEGIES, STRATEGY_NAMES, strategy

__all__ = [
    "STRATEGIES",
    "STRATEGY_NAMES",
    "BalancingStrategy",
    "Candidate",
    "Promise",
    "RequestPrincipal",
    "RequestView",
    "strategy",
]
