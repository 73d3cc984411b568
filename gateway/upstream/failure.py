"""Failed attempt as data, and the outcome of an attempt that its client left."""

from dataclasses import dataclass
from typing import Final

from backends.pool.endpoint import Endpoint
from gateway.error_mapping import outcome_of
from gateway.http.request import ClientGone
from gateway.relay.relay import Relay
from policies.resilience.breaker import BreakerPermit
from policies.resilience.outcome import Outcome

UNREACHABLE: Final = frozenset({"refused", "dns"})
"""Kinds of UpstreamError in which the engine accepted no connection: where every endpoint of a pool did so, no
backoff is needed."""


@dataclass(frozen=True, slots=True)
class FailedAttempt:
    """Attempt that brought no answer for the client, before any byte of it went out.

    retry_after: Retry-After of the endpoint's answer in seconds
    excused: not the endpoint's fault
    """

    endpoint: Endpoint
    permit: BreakerPermit | None
    outcome: Outcome
    retry_after: float | None = None
    excused: bool = False


def outcome_of_leaving(answer: Relay | None, gone: ClientGone) -> Outcome:
    """Return the outcome of an attempt whose client left after the stream's own end mark: the openai SDK closes its
    socket at `[DONE]`, before HTTP's end. Raises `gone` where the client left before."""
    if answer is not None and answer.end_seen:
        return outcome_of(answer)
    try:
        raise gone
    finally:
        # The traceback holds this frame: a cycle that only the garbage collector would find.
        del gone
