"""Limit of failed authentications per address, which slows guessing without cost for other clients.

An address may fail 20 times at once and once every 3 s from then on (20 a minute). What fails beyond that is held for a
second and then told 429 instead of 401. A good credential is never counted, held or refused: behind one address there
may be a whole company (NAT), and one broken program in it must not lock the others out. So a guesser who is right is
let in; what stands against that is the 196 bits of a key and the signature of a token, and that each wrong guess costs
a second, or a connection of its own for who does not wait for the answer.

Refusing everything of an address unchecked would slow guesses more, and would let anybody lock out everybody behind the
same address. A missing credential is no guess and is not counted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from policies.identity.origin import origin

HOLD: Final = 1.0
"""Seconds after which a failure beyond the limit is answered."""
_BURST: Final = 20
_EVERY: Final = 3.0
_MOST: Final = 10_000


class GuessingLimiter:
    """The failures of every address, of one process. `clock` is monotonic, in seconds.

    At most `most` addresses are known, about 1.5 MB; beyond it the one whose last failure is longest ago is forgotten.
    """

    __slots__ = ("_clock", "_most", "_until")

    def __init__(self, clock: Callable[[], float], most: int = _MOST) -> None:
        self._clock = clock
        self._most = most
        # When each address will have no failure to its name any more: each one adds _EVERY. In the order of the last
        # failure. (The generic cell rate algorithm: one number an address, and nothing that ticks.)
        self._until: dict[str, float] = {}

    def __len__(self) -> int:
        """Return the number of remembered addresses."""
        return len(self._until)

    def failed(self, address: str) -> float | None:
        """A credential from this address was no good: None within the limit, else the seconds until one more is within
        it. Beyond the limit nothing is added, so whoever goes on does not make it worse. 2 us."""
        now = self._clock()
        place = origin(address)
        until = max(self._until.pop(place, now), now)
        over = until - now - (_BURST - 1) * _EVERY
        # Kept at the end, also where it is over: who fails most is not forgotten first.
        self._until[place] = until + _EVERY if over <= 0 else until
        if len(self._until) > self._most:
            del self._until[next(iter(self._until))]
        return over if over > 0 else None
