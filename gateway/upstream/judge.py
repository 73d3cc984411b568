"""Judgement of an attempt that ended without an answer for the client: whether another attempt follows, and what the
client gets otherwise (DESIGN rules 3, 4, 7, 11 and 12).

`policies.resilience.retry.judge` decides; this module collects what it needs and records the outcome at the endpoint.
"""

import math
import random
from collections.abc import Callable
from typing import Final

from backends.control.events import NoCandidate
from backends.http1.interface import UpstreamError
from backends.pool.endpoint import Endpoint
from backends.pool.pool import Pool
from gateway import errors
from gateway.error_mapping import client_error, timeout_of
from gateway.exchange import Exchange
from gateway.observe.metrics import Metrics
from gateway.relay.relay import Relay
from gateway.upstream.failure import UNREACHABLE, FailedAttempt
from policies.request.routing import RouteMatch
from policies.resilience.fallback import kept_back
from policies.resilience.outcome import Outcome
from policies.resilience.retry import LONGEST_RETRY_WAIT, judge, listed, retry_after

# Two lengths of time, measured one after the other, that count as the same one: seconds.
_ALIKE: Final = 0.05


class AttemptJudge:
    """Chooses endpoints and judges failed attempts, for plain and hedged attempts alike. One object a process."""

    def __init__(
        self, *, metrics: Metrics, clock: Callable[[], float], wall: Callable[[], float], rng: random.Random
    ) -> None:
        """`clock` is monotonic, in seconds; `wall` is seconds since the epoch, for a Retry-After that is a date."""
        self._metrics = metrics
        self._clock = clock
        self._wall = wall
        self._chance = rng.random

    def choose(self, exchange: Exchange, pool: Pool) -> Endpoint:
        """Choose the endpoint of the next attempt and count the attempt. Raises NoEndpoint."""
        attempt = exchange.attempt
        if attempt.count:
            now = self._clock()
            endpoint = pool.choose(now, exchange, attempt.tried, absent=attempt.all_unreachable)
        else:
            now = attempt.ready_at
            endpoint = pool.choose(now, exchange)
        if endpoint is None:
            lacking = pool.why_no_candidate(now, exchange.model)
            raise errors.no_endpoint(pool.name, lacking.reason, max(1, math.ceil(lacking.retry_after)))
        attempt.count += 1
        attempt.began_at = now
        attempt.endpoint = endpoint.name
        attempt.tried = (*attempt.tried, endpoint)
        return endpoint

    def record(self, exchange: Exchange, failed: FailedAttempt, outcome: Outcome, now: float) -> None:
        """Record the outcome of a failed attempt at its endpoint; once."""
        attempt = exchange.attempt
        if attempt.recorded:
            return
        attempt.recorded, attempt.outcome = True, outcome.label
        failed.endpoint.record_outcome(
            outcome, now, model=exchange.model, permit=failed.permit, retry_after=failed.retry_after,
            excused=failed.excused, released=exchange.request.begun,
        )  # fmt: skip

    # -- whether another attempt follows

    def without_answer(
        self, exchange: Exchange, pool: Pool, route: RouteMatch, failed: FailedAttempt, error: UpstreamError
    ) -> float | None:
        """Return the wait before the next attempt after one that brought no answer; raise the client's error where
        there is none."""
        if error.kind == "connect_timeout":
            self._metrics.timed_out("connect")
        attempt = exchange.attempt
        if error.kind in UNREACHABLE:
            attempt.unreachable += 1
            now = self._clock()
            if attempt.all_unreachable and not pool.fresh(now, exchange.model, attempt.tried, absent=True):
                raise errors.NoEndpoint(
                    f"No endpoint of pool {pool.name} accepts connections. Try again shortly.", retry_after=1
                ) from None
        wait = None if failed.excused else self.wait_before_next(exchange, pool, route, failed)
        if wait is None:
            raise client_error(error) from None
        return wait

    def too_slow(
        self,
        exchange: Exchange,
        pool: Pool,
        route: RouteMatch,
        failed: FailedAttempt,
        error: errors.AttemptTimeout | errors.DeadlineExceeded,
    ) -> float | None:
        """Return the wait before the next attempt after one that timed out; raise the client's error where there is
        none."""
        if isinstance(error, errors.DeadlineExceeded):
            raise error
        self._metrics.timed_out(timeout_of(error))
        if exchange.request.begun:
            raise error
        wait = self.wait_before_next(exchange, pool, route, failed)
        if wait is None:
            raise error
        return wait

    def excused(self, exchange: Exchange, endpoint: Endpoint, error: errors.GatewayError) -> bool:
        """Return whether a timed-out attempt is not the endpoint's fault: the endpoint is busy (it yields on other
        streams), or the deadline left the attempt less than the route does."""
        attempt = exchange.attempt
        short = isinstance(error, errors.DeadlineExceeded) and (exchange.client_deadline or attempt.count > 1)
        since, relay = attempt.began_at, attempt.relay
        if isinstance(error, errors.IdleTimeout) and relay is not None:
            # Bytes that this stream itself got before it stood still are no sign of life.
            since = max(since, relay.last_at)
        # Only the later half of the wait counts: a frozen endpoint yielded on its other streams until it froze.
        return short or endpoint.yielded_since((since + self._clock()) / 2)

    def wait_before_next(
        self, exchange: Exchange, pool: Pool, route: RouteMatch, failed: FailedAttempt
    ) -> float | None:
        """Return the seconds to wait before another attempt, or None where there is none."""
        attempt = exchange.attempt
        now, outcome, rule = self._clock(), failed.outcome, route.route.retry
        kept = kept_back(route.route.fallback, attempt.fallback_step) if route.route.fallback else 0
        fresh = pool.fresh(now, exchange.model, attempt.tried, absent=attempt.all_unreachable)
        wanted, lacking = failed.retry_after, None
        if not fresh and rule is not None and attempt.count <= rule.retries - kept and listed(outcome, rule):
            # The outcome of this very attempt may leave no candidate: then its answer is the last one.
            attempt.ended_at = now
            self.record(exchange, failed, outcome, now)
            lacking = pool.lacking(now, exchange.model)
            wanted = _soonest(lacking, wanted)
        verdict = judge(
            outcome, settings=rule, attempts=attempt.count, fresh=fresh, retry_after=wanted,
            left=exchange.time_left(now), budget=pool.budget, now=now, chance=self._chance, kept=kept,
        )  # fmt: skip
        meter = self._metrics.pool(pool.name)
        # No request waits for a breaker: only probes go through, and the answer is at once (DESIGN rule 11).
        if verdict.again and (lacking is None or verdict.wait >= lacking.retry_after):
            meter.retried(outcome.label)
            return verdict.wait
        if verdict.why == "budget":
            meter.budget_exhausted.value += 1
        # DESIGN rule 12; a route that makes one attempt has none to multiply.
        attempt.exhausted = verdict.why == "budget" or (verdict.why == "spent" and attempt.count > 1)
        return None

    def retry_after(self, relay: Relay) -> float | None:
        """Return the Retry-After of a saturated endpoint (429, 503) in seconds; None without one."""
        if relay.status not in (429, 503):
            return None
        return retry_after(dict(relay.headers).get(b"retry-after"), self._wall())


def _soonest(lacking: NoCandidate | None, wanted: float | None) -> float | None:
    """Return the Retry-After to obey where every endpoint is paused: until the first is back. That is the value that
    this endpoint sent itself, where the two differ only because a pause is capped."""
    if lacking is None or lacking.reason != "paused":
        return None
    if wanted is not None and lacking.retry_after > min(wanted, LONGEST_RETRY_WAIT) - _ALIKE:
        return wanted
    return lacking.retry_after
