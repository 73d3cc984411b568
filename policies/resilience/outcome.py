"""Outcome of an attempt, as data: retry, breaker, ejection, canary and metrics all read the same value."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Outcome:
    """One word, and the HTTP status where the word is `status`."""

    word: str
    status: int | None = None

    @property
    def label(self) -> str:
        """The word for metrics, logs and `when` lists: a status is its number."""
        return self.word if self.status is None else str(self.status)


OK: Final = Outcome("ok")
NOT_SENT: Final = Outcome("not_sent")
"""No connection, or nothing of the request left."""
NO_ANSWER: Final = Outcome("no_answer")
"""Sent, then reset, closed or answered with something that is not HTTP before any byte went to the client."""
TOO_SLOW: Final = Outcome("too_slow")
BROKEN_OFF: Final = Outcome("broken_off")
"""Ended before its end, after the first byte."""
CLIENT_GONE: Final = Outcome("client_gone")
HEDGE_LOST: Final = Outcome("hedge_lost")
"""Given up unfinished, because another attempt of the same request was first (policy key `hedge`). Nobody's fault,
and a reason to look after an endpoint that has not yielded to anybody meanwhile."""

_STATUSES: Final = {code: Outcome("status", code) for code in range(100, 600)}


def of_status(status: int) -> Outcome:
    """The outcome of an answer that the engine gave in well-formed HTTP and to its end."""
    return OK if 200 <= status < 400 else _STATUSES[status]
