"""The arithmetic of a token bucket: exact, in integers; the same in Python and in Lua.

A bucket's state is its `level` (micro-units: 1 request is 1,000,000), `rest` (what of the next micro-unit has come in,
in parts of `rule.seconds`) and `at` (microseconds of the store's clock at which both were so). `count` units in
`seconds` seconds are `count / seconds` micro-units a microsecond, so nothing is ever rounded away:

    gained, rest = divmod((now - at) * count + rest, seconds)
    level = min(level + gained, burst); at the burst rest is 0

Where a product could exceed a double's 2**53, Lua splits the elapsed time into whole `seconds` and the rest of it. A
clock that goes back gains nothing, and `at` stays where it was.
"""

from dataclasses import dataclass
from typing import Final

from policies.limits.rules import Rule

MICRO: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Bucket:
    """The state of one bucket; see the module."""

    level: int
    rest: int
    at: int


def full(rule: Rule, now: int) -> Bucket:
    return Bucket(rule.burst * MICRO, 0, now)


def refilled(rule: Rule, bucket: Bucket, now: int) -> Bucket:
    """The bucket as it is at `now`; nothing has come in where the clock went back."""
    if now <= bucket.at:
        return bucket
    gained, rest = divmod((now - bucket.at) * rule.count + bucket.rest, rule.seconds)
    level, most = bucket.level + gained, rule.burst * MICRO
    return Bucket(level, rest, now) if level < most else Bucket(most, 0, now)


def changed(rule: Rule, bucket: Bucket, amount: int) -> Bucket:
    """With `amount` units taken out, or put in where it is negative: from -burst to burst."""
    most = rule.burst * MICRO
    level = bucket.level - amount * MICRO
    return Bucket(most, 0, bucket.at) if level >= most else Bucket(max(level, -most), bucket.rest, bucket.at)


def wait(rule: Rule, bucket: Bucket, amount: int) -> int | None:
    """Microseconds until `amount` units are there; 0 now, None never."""
    missing = amount * MICRO - bucket.level
    if missing <= 0:
        return 0
    if amount > rule.burst or rule.count == 0:
        return None
    return -((bucket.rest - missing * rule.seconds) // rule.count)
