"""What is known of an attempt that failed, and of a client that left one that had not."""

from dataclasses import dataclass
from typing import Final

from backends.pool.endpoint import Endpoint
from gateway.error_mapping import outcome_of
from gateway.http.request import ClientGone
from gateway.relay.relay import Relay
from policies.resilience.breaker import BreakerPermit
from policies.resilience.outcome import Outcome

ABSENT: Final = frozenset({"refused", "dns"})
"""The engine did not let us in at all: whoever was refused so by every endpoint of a pool need not wait for a
backoff."""


@dataclass(frozen=True, slots=True)
class FailedAttempt:
    """An attempt that did not bring what was asked for, before any byte of it went to the client.

    told: the seconds that its answer asks us to wait
    excused: nobody's fault
    """

    endpoint: Endpoint
    permit: BreakerPermit | None
    outcome: Outcome
    told: float | None = None
    excused: bool = False


def had_it_all(answer: Relay | None, gone: ClientGone) -> Outcome:
    """The openai SDK closes its socket at `[DONE]`, before HTTP's own end: that client has all that it asked for. Who
    left before that has `gone`."""
    if answer is not None and answer.said_end:
        return outcome_of(answer)
    try:
        raise gone
    finally:
        # Its traceback holds this frame: a cycle that only the garbage collector would find.
        del gone
