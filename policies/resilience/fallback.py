"""Fallback chain of a route: its members in the order of trial (policy key `routes[].fallback`).

Everything here decides and does nothing: `gateway.fallback.chain` acts. A chain is entered for what is ours to
answer for, never for a client's own mistake, a limit of its plan or a deadline that has passed:

    nobody available                    no_endpoint_available
    no place, or not in time            queue_full, queue_timeout
    the last attempt brought nothing    upstream_unreachable, upstream_error, connect_timeout, first_byte_timeout,
                                        attempt_timeout
    the engine's own answer             a status that the route's `retry.when` lists (by default 429, 502, 503, 504)
    too long for the pool               context_length_exceeded, and then only a pool that takes more

All pools of a chain share one cap of attempts with the route's own (`retry.retries` + 1): one is kept back for each of
them, so that a pool with many endpoints does not use up what its fallback was meant for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from policies.config.settings.fallback import FallbackSettings
from policies.config.settings.routes import RetrySettings

Kind = Literal["pool", "cache", "message"]

FALLS: Final = frozenset({
    "no_endpoint_available", "queue_full", "queue_timeout", "upstream_unreachable", "upstream_error",
    "connect_timeout", "first_byte_timeout", "attempt_timeout",
})  # fmt: skip
"""Codes of errors that lead into the chain."""
TOO_LONG: Final = "context_length_exceeded"

# How engines say that a prompt does not fit, in lower case: OpenAI and vLLM, llama.cpp, SGLang, TGI, Anthropic.
_SAYS_TOO_LONG: Final = (
    b"context_length_exceeded", b"maximum context length", b"cannot be greater than max_model_len",
    b"exceed_context_size", b"exceeds the available context size", b"longer than the model's context length",
    b"`inputs` tokens + `max_new_tokens` must be", b"`inputs` must have less than", b"prompt is too long",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class FailureKind:
    """Reason why a pool could not answer.

    why: an error's code, or the status of an engine's answer; for people and the log
    again: whether the request may be sent once more (one that an engine may have acted upon, perhaps not)
    too_long: whether it was longer than the pool takes
    """

    why: str
    again: bool = True
    too_long: bool = False


def kind_of(member: FallbackSettings) -> Kind:
    """Return the kind of a chain member: one of three."""
    return "pool" if member.pool is not None else "cache" if member.cache is not None else "message"


def label_of(member: FallbackSettings) -> str:
    """Return the value of `x-sluice-degraded` for the member's answers."""
    if member.pool is not None:
        return member.label or "simplified"
    return kind_of(member)


def failure_of(
    code: str, outcome: str | None, rule: RetrySettings | None, why: str | None = None
) -> FailureKind | None:
    """Return the meaning of an error for the chain; None if the error does not concern the chain.

    code: the error's
    outcome: the label of the last attempt; None before the first
    rule: the route's `retry`; None is off
    why: an engine's status, where its answer was not passed on
    """
    if code == TOO_LONG and why is not None:
        return FailureKind(why, too_long=True)
    if code not in FALLS:
        return None
    return FailureKind(why or code, outcome is None or outcome == "not_sent" or outcome in _repeated(rule))


def falls(outcome: str, rule: RetrySettings | None) -> bool:
    """Return whether an engine's own answer with this outcome leads into the chain instead of to the client."""
    return outcome in _repeated(rule)


def next_member(
    chain: Sequence[FallbackSettings], at: int, failure: FailureKind, takes: Callable[[FallbackSettings], bool]
) -> int | None:
    """The place of the member that is tried next; None where the chain is at its end.

    at: the place of the one before; -1 is the route's own pool
    takes: whether a member that is a pool can take this request: it is there, has room, and the prompt fits
    """
    for place in range(at + 1, len(chain)):
        member = chain[place]
        if member.pool is None:
            # A text of ours, or somebody's answer to something else, is no answer to what was too long.
            if not failure.too_long:
                return place
        elif failure.again and takes(member):
            return place
    return None


def kept_back(chain: Sequence[FallbackSettings], at: int) -> int:
    """Return the number of attempts that the pool at this place (-1: the route's own) leaves for later pools."""
    return sum(member.pool is not None for member in chain[at + 1 :])


def fits(prompt: int | None, most: int | None) -> bool:
    """Return whether a prompt of this many tokens fits a pool that takes `most`; an unknown value fits."""
    return prompt is None or most is None or prompt <= most


def longer(other: int | None, than: int | None) -> bool:
    """Return whether a pool takes longer prompts than another one; an unknown value counts as longer."""
    return other is None or than is None or other > than


def says_too_long(body: bytes) -> bool:
    """Return whether the body of an engine's 400 reports that the prompt does not fit."""
    said = body.lower()
    return any(words in said for words in _SAYS_TOO_LONG)


def _repeated(rule: RetrySettings | None) -> frozenset[str]:
    # Who switched retries off and names a fallback wants that one to be tried all the same.
    return frozenset(str(one) for one in (rule or _DEFAULT).when)


_DEFAULT: Final = RetrySettings()


@dataclass(slots=True)
class _Incident:
    last: float
    well: bool = False


class Incidents:
    """Open incidents of the routes, so that each is notified once. At most as many as the policy has steps.

    An incident begins with the first degraded answer of a route. It is over when the route's own pool has answered
    again and there was no degraded answer for `quiet` seconds: neither a time without traffic nor a pool that fails
    every other request makes a new one. Times are monotonic seconds.
    """

    def __init__(self, quiet: float = 60.0) -> None:
        self._quiet = quiet
        self._open: dict[tuple[str, int], _Incident] = {}

    def degraded(self, route: str, place: int, now: float) -> bool:
        """A degraded answer by the step at this place of a route's chain; whether it is the first of an incident."""
        found = self._open.get((route, place))
        if found is not None and not (found.well and now - found.last >= self._quiet):
            found.last, found.well = now, False
            return False
        self._open[route, place] = _Incident(now)
        return True

    def well(self, route: str) -> None:
        """The route's own pool has answered."""
        for (name, _), found in self._open.items():
            if name == route:
                found.well = True
