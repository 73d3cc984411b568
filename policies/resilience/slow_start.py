"""Slow start: an endpoint that came back gets its share bit by bit, for its caches are cold and nobody has tried it yet
(policy key `slow_start`)."""

from __future__ import annotations

from typing import Final

LEAST: Final = 0.1
"""Enough that an endpoint is seen to work, and little enough that it is not flooded."""


def factor(since_return: float, length: float) -> float:
    """The part of its share, from 0.1 at its return to 1 after `length`, in a straight line. Both are in seconds."""
    if since_return >= length:
        return 1.0
    if since_return <= 0:
        return LEAST
    return LEAST + (1.0 - LEAST) * since_return / length
