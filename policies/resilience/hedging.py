"""Hedging: the decision to start a second attempt beside a slow one, and which of the two wins (policy key `hedge`).

After Dean and Barroso, "The Tail at Scale" (CACM 56(2), 2013): a second copy is sent once the first has been silent for
longer than nearly all are, the first answer is taken, the other copy is cancelled, and the copies have a bound. The
bound is what keeps it from doing harm: a pool that is slow because it is full would get twice the work.
"""

from typing import Final, Literal

from policies.config.settings.routes import HedgeSettings, RetrySettings
from policies.resilience.outcome import Outcome
from policies.resilience.retry import listed
from policies.resilience.retry_budget import RetryBudget

Why = Literal["hedge", "spent", "nobody", "budget"]

GENERATIVE: Final = frozenset({"chat", "completions"})
"""Scopes whose plain answers are whole generations."""

# 20 requests at 0.05 are one hedge, whatever floats make of it.
_ROUNDING: Final = 1e-9


class HedgeBudget:
    """Budget of the hedges of one pool in this process; kept across tables.

    A hedge costs 1 / `hedge.budget` requests and each request pays once, so that the hedges are never more than that
    share of them. What was not spent is kept for 10 s, or until it is enough for one: a pool with a request a second
    has its hedges too, and one that was well for an hour can't double its work afterwards.
    """

    __slots__ = ("_requests", "_seen", "_unspent")

    def __init__(self, requests: RetryBudget) -> None:
        """`requests` counts the pool's: nothing is counted twice, and a request pays nothing for this."""
        self._requests = requests
        self._seen = requests.requests
        self._unspent = 0.0

    def take(self, now: float, settings: HedgeSettings) -> bool:
        """Pay for one hedge, and True, if there is enough; else False, and nothing is paid.

        now: monotonic seconds, the clock of the pool's requests
        settings: of the request's route; routes of one pool share what was paid, and differ in their prices
        """
        if not settings.budget:
            return False
        price = 1 / settings.budget
        came, self._seen = self._requests.requests - self._seen, self._requests.requests
        self._unspent = min(self._unspent + came, max(price, self._requests.recent(now)))
        if self._unspent < price - _ROUNDING:
            return False
        self._unspent = max(0.0, self._unspent - price)
        return True


def applies(scope: str, *, stream: bool, first_byte_plain: float | None) -> bool:
    """Return whether such an answer is hedged. A plain generation's first byte is its end, and one that takes long is
    not slow: it is left alone, unless the route says how long it may take (as its timeouts do)."""
    return stream or first_byte_plain is not None or scope not in GENERATIVE


def judge(
    settings: HedgeSettings,
    retry: RetrySettings | None,
    *,
    attempts: int,
    kept: int = 0,
    fresh: bool,
    budget: HedgeBudget,
    now: float,
) -> Why:
    """Decide on a second attempt, once the first has been silent for `settings.after`.

    retry: the route's; its `retries` are the attempts after the first, hedges among them
    attempts: made so far
    kept: of the route's, those that are kept back for its fallback pools
    fresh: a candidate is there that was not tried yet and has room, and so has the pool: a hedge never goes to one that
        was, and waits for nobody
    budget: the pool's; it pays only when everything else says yes
    now: monotonic seconds
    """
    if retry is None or attempts > retry.retries - kept:
        return "spent"
    if not fresh:
        return "nobody"
    return "hedge" if budget.take(now, settings) else "budget"


def wins(outcome: Outcome, retry: RetrySettings | None) -> bool:
    """Return whether the answer of one of two attempts wins while the other is still in flight: one that is good,
    or that the other could only repeat (a 4xx that is the request's own fault). A failure leaves the word to the
    other."""
    if outcome.word == "ok":
        return True
    if outcome.status is None or outcome.status >= 500 or outcome.status in (408, 429):
        return False
    return retry is None or not listed(outcome, retry)
