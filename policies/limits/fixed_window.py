"""The arithmetic of a fixed window, in integers; the same in Python and in Lua.

Windows are aligned to the epoch: one of an hour begins with the hour, one of a day at midnight UTC, one of a month (30
days: policies/config/units.py) every 30 days since 1970-01-01. A window's state is `(number, used)`, used in
micro-units; another number means that nothing was used.

A clock that goes back over the border of two windows stays in the later one, so that nobody is given a window twice.
One that goes back further begins anew, or a limit a minute would refuse for an hour.
"""

from typing import Final

from policies.limits.answers import LimitLevel
from policies.limits.rules import LimitRule
from policies.limits.token_bucket import MICRO, State

_SECOND: Final = 1_000_000


def number_of(rule: LimitRule, now: int) -> int:
    """The number of the window in which `now` is, in microseconds since the epoch."""
    return now // (rule.seconds * _SECOND)


def current(rule: LimitRule, state: State | None, now: int) -> State:
    """The window in force at `now`."""
    number = number_of(rule, now)
    return state if state is not None and number <= state[0] <= number + 1 else (number, 0)


def wait(rule: LimitRule, state: State, amount: int, now: int) -> int | None:
    """Microseconds until `amount` units can be used; 0 now, None never. `state` is current."""
    if state[1] + amount * MICRO <= rule.count * MICRO:
        return 0
    return _ends_in(rule, state, now) if amount <= rule.count else None


def changed(rule: LimitRule, state: State, amount: int) -> State:
    """With `amount` units used, or given back where it is negative: from 0 to twice the count."""
    return state[0], min(max(state[1] + amount * MICRO, 0), 2 * rule.count * MICRO)


def refunded(rule: LimitRule, state: State, amount: int, taken: int, now: int) -> State:
    """`changed`, where something was taken at `taken`: nothing is given back once its window has ended."""
    if amount < 0 and number_of(rule, taken) != state[0]:
        return state
    return changed(rule, state, amount)


def level(rule: LimitRule, state: State, now: int) -> LimitLevel:
    left = rule.count * MICRO - state[1]
    return LimitLevel(rule, rule.count, max(left, 0) // MICRO, _ends_in(rule, state, now) / _SECOND)


def idle(rule: LimitRule, state: State, now: int) -> bool:
    """Return whether the bucket may be forgotten: no use in the current window."""
    return current(rule, state, now)[1] == 0


def _ends_in(rule: LimitRule, state: State, now: int) -> int:
    return (state[0] + 1) * rule.seconds * _SECOND - now
