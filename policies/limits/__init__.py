"""Rate limits of plans (policy key `plans.*.limits`).

`rules_of` builds the rules of a plan, `demands` the demands of one request on them, and a store (`backends/store`)
answers with `Granted` or `LimitRefused`. Every store of the gateway uses the arithmetic of `token_bucket` and
`fixed_window`.

    rules          limits of a plan as rules, with all defaults
    plans          limits of each plan, computed once a table
    demands        demands of one request on the rules
    answers        answers of a store: Granted, LimitRefused
    token_bucket   arithmetic of a token bucket
    fixed_window   arithmetic of a fixed window
    slots          open requests: leases that hold slots
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
