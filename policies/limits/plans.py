"""Limits of each plan, computed once a table, so that a request without limits has no cost."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from policies.config.settings.auth import PlanSettings
from policies.limits.demands import DemandBuilder
from policies.limits.rules import LimitRule, Outage, rules_of

_TOKENS: Final = frozenset({"tokens", "output_tokens"})


@dataclass(frozen=True, slots=True)
class PlanLimits:
    """One plan that bounds something.

    counts: whether its requests are read for how many tokens they may take
    charges: whether a rule counts tokens, so that the engine's own count is wanted
    room: the least burst of its token rules; None without one
    asking: says what a request asks of the rules
    """

    plan: PlanSettings
    rules: tuple[LimitRule, ...]
    counts: bool
    charges: bool
    room: int | None
    asking: DemandBuilder = field(compare=False, repr=False)


def plan_limits(plans: Mapping[str, PlanSettings], on_outage: Outage) -> Mapping[str, PlanLimits]:
    """By name, the plans that bound something. on_outage: the store's own, for limits that say nothing."""
    found = {}
    for name, plan in plans.items():
        rules = rules_of(name, plan.limits, on_outage)
        capped = plan.max_input_tokens is not None or plan.max_output_tokens is not None
        if rules or capped:
            bursts = [rule.burst for rule in rules if rule.kind in _TOKENS]
            charges = bool(bursts)
            found[name] = PlanLimits(
                plan, rules, charges or capped, charges, min(bursts, default=None), DemandBuilder(rules)
            )
    return found
