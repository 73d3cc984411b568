"""The arithmetic of a fixed window, in integers; the same in Python and in Lua.

Windows are aligned to the epoch: one of an hour begins with the hour, one of a day at midnight UTC, one of a month (30
days: policies/units.py) every 30 days since 1970-01-01. A window's state is its `number` and what was `used` in it, in
micro-units; another number means that nothing was used. A store's clock that goes back into an earlier window stays in
the later one, so that nobody is given a window twice.
"""

from dataclasses import dataclass
from typing import Final

from policies.limits.rules import Rule
from policies.limits.token_bucket import MICRO

_SECOND: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Window:
    number: int
    used: int


def number_of(rule: Rule, now: int) -> int:
    """The number of the window in which `now` is, in microseconds since the epoch."""
    return now // (rule.seconds * _SECOND)


def current(rule: Rule, window: Window | None, now: int) -> Window:
    """The window in force at `now`."""
    number = number_of(rule, now)
    return window if window is not None and window.number >= number else Window(number, 0)


def changed(rule: Rule, window: Window, amount: int) -> Window:
    """With `amount` units used, or given back where it is negative: from 0 to twice the count."""
    return Window(window.number, min(max(window.used + amount * MICRO, 0), 2 * rule.count * MICRO))


def ends_in(rule: Rule, window: Window, now: int) -> int:
    """Microseconds until the window ends."""
    return (window.number + 1) * rule.seconds * _SECOND - now


def wait(rule: Rule, window: Window, amount: int, now: int) -> int | None:
    """Microseconds until `amount` units can be used; 0 now, None never."""
    if window.used + amount * MICRO <= rule.count * MICRO:
        return 0
    return ends_in(rule, window, now) if amount <= rule.count else None
