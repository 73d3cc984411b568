"""The pause of an endpoint that answers 429 or 503: it is saturated and not broken (DESIGN rule 7).

A pause is the engine's own Retry-After (RFC 9110, 10.2.3), 30 s at most; without one it is 1 s, doubled every time
up to 30 s, and 1 s again after a success.
"""

from __future__ import annotations

from typing import Final

FIRST: Final = 1.0
LONGEST: Final = 30.0


class SaturationPause:
    """One endpoint's pause. Every `now` is in seconds of one monotonic clock.

    until: when it is over
    told: the engine has said how long it takes, so that asking earlier is of no use to anybody
    """

    __slots__ = ("_next", "told", "until")

    def __init__(self) -> None:
        self.until = 0.0
        self.told = False
        self._next = FIRST

    def saturated(self, retry_after: float | None, now: float) -> float:
        """A 429 or 503; for how many seconds the endpoint is paused from now.

        retry_after: seconds, None where the engine gave none that makes sense. 0 is taken for none, as an engine that
        answers "at once" for ever would draw all traffic.

        An endpoint that is paused already was asked before: such an answer can only lengthen the pause by its
        Retry-After. So a burst of them doubles nothing.
        """
        paused = now < self.until
        if retry_after is not None and retry_after > 0:
            until = now + min(retry_after, LONGEST)
            self.until = max(until, self.until)
            self.told = True
        elif not paused:
            self.until = now + self._next
            self.told = False
            self._next = min(2 * self._next, LONGEST)
        return self.until - now

    def succeeded(self) -> None:
        """A good answer: the next pause is 1 s again. One that runs is not ended, as the answer may be of before."""
        self._next = FIRST
