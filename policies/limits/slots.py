"""Open requests: how many leases hold a slot of a bucket. The state is `(held, mine)`, mine 1 where the asking lease is
among them; the store knows who holds, and until when."""

from typing import Final

from policies.limits.answers import SLOT_WAIT, LimitLevel
from policies.limits.rules import LimitRule
from policies.limits.token_bucket import State

_WAIT: Final = round(SLOT_WAIT * 1_000_000)


def wait(rule: LimitRule, state: State, amount: int, now: int) -> int | None:
    """0 where a slot is free or held already; else microseconds to wait, a guess; None where there are no slots."""
    if state[1] or state[0] < rule.count:
        return 0
    return _WAIT if rule.count else None


def changed(rule: LimitRule, state: State, amount: int) -> State:
    """With a slot taken, if it was not held already."""
    held, mine = state
    return held + 1 - mine, 1


def level(rule: LimitRule, state: State, now: int) -> LimitLevel:
    return LimitLevel(rule, rule.count, max(rule.count - state[0], 0), 0.0)
