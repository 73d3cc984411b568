"""Retries: the decision on another attempt and its time (DESIGN rules 3, 4 and 12; policy key `retry`).

`judge` is entered only after an attempt that failed; a request that goes well pays one `RetryBudget.request`.

This is the door to tenacity. `wait_exponential` gives the ceiling of a wait, and the chance that we are given draws
below it: tenacity's own jitter uses the global `random`, which no test can repeat. `stop_after_attempt` is the cap of
attempts, `stop_before_delay` the deadline. They read three attributes of the state of tenacity's own loop, which we do
not run. It is imported at the start and not with the first failure, which would stall every stream beside it: 5 ms and
0.25 MB in a serving process. It also tries to import tornado, which costs more where somebody has installed that.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, cast

from tenacity.stop import stop_after_attempt, stop_before_delay
from tenacity.wait import wait_exponential

from policies.config.settings.routes import RetrySettings
from policies.resilience.outcome import BROKEN_OFF, CLIENT_GONE, Outcome
from policies.resilience.retry_after import retry_after
from policies.resilience.retry_budget import RetryBudget

if TYPE_CHECKING:
    from tenacity import RetryCallState

__all__ = ["LONGEST_RETRY_WAIT", "RetryBudget", "RetryVerdict", "judge", "listed", "retry_after"]

LONGEST_RETRY_WAIT: Final = 30.0
"""Seconds that a client is kept waiting because an upstream asks for it; who asks for more has answered."""

Why = Literal["again", "not_listed", "spent", "budget", "deadline"]


@dataclass(frozen=True, slots=True)
class RetryVerdict:
    """again: whether another attempt is made; if not, what the client gets is settled
    wait: seconds before it
    why: what decided; `deadline` also where a Retry-After is longer than anybody waits
    """

    again: bool
    wait: float
    why: Why


_NOT_LISTED: Final = RetryVerdict(False, 0.0, "not_listed")
_SPENT: Final = RetryVerdict(False, 0.0, "spent")
_BUDGET: Final = RetryVerdict(False, 0.0, "budget")
_DEADLINE: Final = RetryVerdict(False, 0.0, "deadline")


@dataclass(slots=True)
class _RetryState:
    """State for tenacity's strategies: the fields that they read of a `RetryCallState`."""

    attempt_number: int
    upcoming_sleep: float = 0.0
    seconds_since_start: float = 0.0

    @property
    def told(self) -> "RetryCallState":
        return cast("RetryCallState", self)


def judge(
    outcome: Outcome,
    *,
    settings: RetrySettings | None,
    attempts: int,
    fresh: bool,
    retry_after: float | None,
    left: float | None,
    budget: RetryBudget,
    now: float,
    chance: Callable[[], float],
    kept: int = 0,
) -> RetryVerdict:
    """Return the verdict on an attempt that ended in `outcome` before any byte of it went to the client.

    settings: the route's; None is `retry: off`
    attempts: made so far, this one, hedges and those at fallback pools included: they share one cap
    fresh: an endpoint that was not tried yet is a candidate; it is tried at once
    retry_after: seconds, where the answer asks for them; an endpoint is not tried again before
    left: seconds until the request's deadline; None where it has none
    budget: the pool's; a unit is taken only when everything else says yes
    now: monotonic seconds
    chance: from 0 up to, not including, 1; drawn from once at most
    kept: attempts that are kept back for the route's fallback pools
    """
    if settings is None or not listed(outcome, settings):
        return _NOT_LISTED
    state = _RetryState(attempts)
    if stop_after_attempt(settings.retries + 1 - kept)(state.told):
        return _SPENT
    if not fresh:
        state.upcoming_sleep = max(_backoff(settings, state, chance), retry_after or 0.0)
        if retry_after is not None and retry_after > LONGEST_RETRY_WAIT:
            return _DEADLINE
    if left is not None and stop_before_delay(left)(state.told):
        return _DEADLINE
    if not budget.take(now, settings):
        return _BUDGET
    return RetryVerdict(True, state.upcoming_sleep, "again")


def listed(outcome: Outcome, settings: RetrySettings) -> bool:
    """Return whether the route retries such an outcome."""
    # Whatever `when` says: the client already has a part of a broken answer, and nobody waits for a client that left.
    if outcome in (BROKEN_OFF, CLIENT_GONE):
        return False
    return (outcome.word if outcome.status is None else outcome.status) in settings.when


def _backoff(settings: RetrySettings, state: _RetryState, chance: Callable[[], float]) -> float:
    """Seconds; the ceiling is `backoff` after the first attempt and grows by `factor` with each further one."""
    wait = wait_exponential(multiplier=settings.backoff, max=settings.max, exp_base=settings.factor)
    ceiling = wait(state.told)
    return ceiling if settings.jitter == "none" else ceiling * chance()
