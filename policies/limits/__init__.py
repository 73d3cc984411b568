"""How much a plan may use, and in what time (POLICY: `plans.*.limits`).

`rules_of` makes a plan's rules, `demands` says what one request asks of them, and a store (`backends/store`) answers
with `Granted` or `Refused`. The arithmetic that every store of ours follows is in `token_bucket` and `fixed_window`.
"""

from policies.limits.answers import Answer, Change, Granted, Level, Mode, Refused
from policies.limits.demands import Asking, Demand, Subject, demands
from policies.limits.rules import WINDOWS, Kind, Outage, Rule, Strategy, rules_of

__all__ = [
    "WINDOWS",
    "Answer",
    "Asking",
    "Change",
    "Demand",
    "Granted",
    "Kind",
    "Level",
    "Mode",
    "Outage",
    "Refused",
    "Rule",
    "Strategy",
    "Subject",
    "demands",
    "rules_of",
]
