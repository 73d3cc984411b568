"""A plan's limits, finished: every default filled in, every rule with a name."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from policies.config.settings.auth import LimitSettings, Per

Kind = Literal["requests", "tokens", "output_tokens", "concurrency"]
Strategy = Literal["token_bucket", "fixed_window", "sliding_window", "moving_window", "slots"]
Outage = Literal["local", "open", "closed"]

WINDOWS: Final = frozenset({"sliding_window", "moving_window"})
"""Strategies that the `limits` library counts; all others are ours."""

DAY: Final = 86400


@dataclass(frozen=True, slots=True)
class LimitRule:
    """One limit of a plan.

    name: `<plan>.<n>`, n from 0: what a 429 names, and the label of its metric
    strategy: `slots` for concurrency, which knows no time
    count, seconds: so many in so many seconds; a month is 30 days (policies/config/units.py). 0 seconds for
    concurrency. burst: the most at once: a bucket's size, and the count of everything else
    quota: a fixed window of a day or longer: its 429 says insufficient_quota
    stem: begins the name of its buckets. It holds what makes two states comparable (kind, strategy, seconds) and not
        the count: a changed count keeps what was used, a changed kind begins anew.
    """

    name: str
    kind: Kind
    strategy: Strategy
    count: int
    seconds: int
    burst: int
    per: Per
    on_outage: Outage
    quota: bool
    stem: str


def rules_of(plan: str, limits: Sequence[LimitSettings], on_outage: Outage) -> tuple[LimitRule, ...]:
    """The rules of plan `plan`, in the order of the file.

    on_outage: the store's own, for limits that say nothing
    """
    return tuple(_rule(f"{plan}.{index}", limit, on_outage) for index, limit in enumerate(limits))


def _rule(name: str, limit: LimitSettings, on_outage: Outage) -> LimitRule:
    outage = on_outage if limit.on_outage is None else limit.on_outage
    if limit.concurrency is not None:
        slots = limit.concurrency
        return LimitRule(name, "concurrency", "slots", slots, 0, slots, limit.per, outage, False, f"{name}:cs")
    kind, rate = limit.rated()
    seconds, strategy = rate.per_seconds, limit.strategy
    burst = rate.count if limit.burst is None else limit.burst
    quota = strategy == "fixed_window" and seconds >= DAY
    stem = f"{name}:{kind[0]}{strategy[0]}{seconds}"
    return LimitRule(name, kind, strategy, rate.count, seconds, burst, limit.per, outage, quota, stem)
