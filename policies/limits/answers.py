"""Answers of a limit store to the demands of one request.

Nobody changes any of these. They are not frozen since several are made a request, and each would take three times as
long.
"""

from dataclasses import dataclass
from typing import Final, Literal

from policies.limits.demands import Demand
from policies.limits.rules import LimitRule

Mode = Literal["store", "local", "open", "closed"]
"""By whom it was decided: the store, or while it is away this process's share, nobody (open), or the answer is no
(closed)."""


@dataclass(slots=True)
class LimitLevel:
    """Level of a rule's bucket, after the request if the request was granted.

    limit: the most that there can be; whole units
    remaining: what is left, never negative; whole units, rounded down
    reset: seconds until the bucket is full again or its window ends, at the latest; 0 for concurrency, which hangs on
        others
    """

    rule: LimitRule
    limit: int
    remaining: int
    reset: float


@dataclass(slots=True)
class Granted:
    """Every rule was kept, and every demand was taken. It is settled once, whatever becomes of the request.

    levels: one a demand, in their order; a rule that nobody asked (open) has none
    at: when it was taken; microseconds since the epoch by the store's clock
    lease: what was given to `take`
    slots: the buckets in which the lease holds a slot
    """

    levels: tuple[LimitLevel, ...]
    mode: Mode = "store"
    at: int = 0
    lease: str = ""
    slots: tuple[str, ...] = ()


@dataclass(slots=True)
class LimitRefused:
    """Refusal by at least one rule; no amount was taken of any rule.

    rule: the one that has to be waited for longest, the first of those
    retry_after: seconds until all rules could be kept if nobody else asked; for concurrency a guess (`SLOT_WAIT`);
        inf where waiting never helps, since the demand is over the rule's whole burst
    levels: of the demands, in their order; only those of windows where one of them refuses
    mode: closed where the store is away and the rule wants it: the answer is 503, not 429
    """

    rule: LimitRule
    retry_after: float
    levels: tuple[LimitLevel, ...] = ()
    mode: Mode = "store"


Answer = Granted | LimitRefused
Change = tuple[Demand, int]
"""A demand that was granted, and what was used beyond its amount; negative is given back. Whole units."""

SLOT_WAIT: Final = 1.0
"""Seconds that a client is told to wait for a slot: when one will be free nobody knows."""
