"""The arithmetic of a token bucket: exact, in integers; the same in Python and in Lua.

A bucket's state is `(level, rest, at)`: micro-units (1 request is 1,000,000), what of the next micro-unit has come in
in parts of `rule.seconds`, and the microseconds of the store's clock at which both were so. `count` units in `seconds`
seconds are `count / seconds` micro-units a microsecond, so nothing is ever rounded away:

    gained, rest = divmod((now - at) * count + rest, seconds)
    level = min(level + gained, burst); at the burst rest is 0

Where a product could exceed a double's 2**53, Lua splits the elapsed time into whole `seconds` and the rest of it.
Nothing comes in where a clock went back, and time counts from the new `now`: a store writes that also when it refuses,
or the bucket would stand still until the clock has caught up.
"""

from typing import Final

from policies.limits.answers import LimitLevel
from policies.limits.rules import LimitRule

MICRO: Final = 1_000_000

State = tuple[int, ...]


def current(rule: LimitRule, state: State | None, now: int) -> State:
    """The bucket as it is at `now`; None is a full one."""
    most = rule.burst * MICRO
    if state is None:
        return most, 0, now
    level, rest, at = state
    if now <= at:
        return min(level, most), rest, now
    gained, rest = divmod((now - at) * rule.count + rest, rule.seconds)
    level += gained
    return (level, rest, now) if level < most else (most, 0, now)


def wait(rule: LimitRule, state: State, amount: int, now: int) -> int | None:
    """Microseconds until `amount` units are there; 0 now, None never. `state` is current."""
    missing = amount * MICRO - state[0]
    if missing <= 0:
        return 0
    if amount > rule.burst or rule.count == 0:
        return None
    return -((state[1] - missing * rule.seconds) // rule.count)


def changed(rule: LimitRule, state: State, amount: int) -> State:
    """With `amount` units taken out, or put in where it is negative: from -burst to burst, and there rest is 0."""
    level, rest, at = state
    level -= amount * MICRO
    most = rule.burst * MICRO
    if -most <= level < most:
        return level, rest, at
    return (most if level > 0 else -most), 0, at


def refunded(rule: LimitRule, state: State, amount: int, taken: int, now: int) -> State:
    """`changed`, for a bucket of which was taken at `taken`: when does not matter."""
    return changed(rule, state, amount)


def level(rule: LimitRule, state: State, now: int) -> LimitLevel:
    held, burst = state[0], rule.burst
    missing = burst * MICRO - held
    reset = (missing * rule.seconds - state[1]) / (rule.count * MICRO) if missing and rule.count else 0.0
    return LimitLevel(rule, burst, held // MICRO if held > 0 else 0, reset)


def idle(rule: LimitRule, state: State, now: int) -> bool:
    """Return whether the bucket may be forgotten: it is full again."""
    return current(rule, state, now)[0] >= rule.burst * MICRO
