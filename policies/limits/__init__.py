"""Rate limits of plans (policy key `plans.*.limits`).

`rules_of` makes a plan's rules, `demands` says what one request asks of them, and a store (`backends/store`) answers
with `Granted` or `LimitRefused`. The arithmetic that every store of ours follows is in `token_bucket` and
`fixed_window`.
"""

from policies.limits.answers import Answer, Change, Granted, LimitLevel, LimitRefused, Mode
from policies.limits.demands import Demand, DemandBuilder, LimitSubject, demands
from policies.limits.rules import WINDOWS, Kind, LimitRule, Outage, Strategy, rules_of

__all__ = [
    "WINDOWS",
    "Answer",
    "Change",
    "Demand",
    "DemandBuilder",
    "Granted",
    "Kind",
    "LimitLevel",
    "LimitRefused",
    "LimitRule",
    "LimitSubject",
    "Mode",
    "Outage",
    "Strategy",
    "demands",
    "rules_of",
]
