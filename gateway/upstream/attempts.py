"""attempt*: one attempt after another until an answer is the client's (DESIGN rules 1, 3, 4, 7, 11 and 12).

The only loop of a request. Each attempt takes a slot of an endpoint, sends, and waits for the first content; what came
of it is an `Outcome`, and `policies.resilience.retry.judge` alone says whether there is another. Once a byte may
have gone to the client there is none.
"""

import math
import random
from collections.abc import Callable
from typing import Final

from backends.control.events import NoCandidate
from backends.http1.interface import UpstreamError
from backends.http1.timer_wheel import TimerWheel
from backends.pool.endpoint import Endpoint
from backends.pool.pool import Pool
from gateway import errors
from gateway.error_mapping import client_error, outcome_of, outcome_of_error, timeout_of
from gateway.exchange import Exchange
from gateway.http.driver import Signal
from gateway.http.request import ClientGone
from gateway.observe.metrics import Metrics
from gateway.relay.relay import Relay
from gateway.upstream.dispatch import Dispatch
from gateway.upstream.divert import hand_on
from gateway.upstream.failure import ABSENT, FailedAttempt, had_it_all
from gateway.upstream.hedging import HedgedAttempts
from policies.request.routing import RouteMatch
from policies.resilience import outcome as outcomes
from policies.resilience.breaker import BreakerPermit
from policies.resilience.fallback import kept_back
from policies.resilience.outcome import Outcome
from policies.resilience.retry import LONGEST_RETRY_AFTER, judge, listed, retry_after

# Two lengths of time, measured one after the other, that are the same one: seconds.
_ALIKE: Final = 0.05


class Attempts:
    """Makes the attempts of every request of one process; what belongs to one request is in its Exchange."""

    def __init__(
        self, *, dispatch: Dispatch, metrics: Metrics, wheel: TimerWheel, clock: Callable[[], float],
        wall: Callable[[], float], rng: random.Random,
    ) -> None:  # fmt: skip
        """`clock` is monotonic, in seconds, and finer than the loop's, which uvloop rounds to milliseconds; `wall` is
        seconds since the epoch, for a Retry-After that is a date."""
        self._dispatch = dispatch
        self._metrics = metrics
        self._wheel = wheel
        self._clock = clock
        self._wall = wall
        self._chance = rng.random
        self._hedging = HedgedAttempts(self, dispatch=dispatch, metrics=metrics, clock=clock)

    async def make(self, exchange: Exchange, pool: Pool, routed: RouteMatch) -> float | None:
        """One attempt, settled once with its outcome, at its end. None: the request is answered; else the seconds to
        rest before the next one. Raises GatewayError where no engine's answer can be passed on, ClientGone."""
        if routed.route.hedge is not None:
            return await self._hedging.make(exchange, pool, routed)
        endpoint = self.choose(exchange, pool)
        permit = endpoint.permit(exchange.model, exchange.attempt_began)
        # Also of an attempt that a shutdown ends: nobody's fault either.
        outcome, failed = outcomes.CLIENT_GONE, None
        try:
            with endpoint.slot:
                timeout, dispatch = routed.route.timeouts.connect, self._dispatch
                connection = endpoint.take() or await dispatch.connect(exchange, endpoint, timeout)
                relay = dispatch.send(exchange, endpoint, routed, connection)
                # It leaves at the end of this turn: nothing of the answer can be here yet.
                await relay.change()
                if relay.began_at is None:
                    relay = await self._repeated(exchange, endpoint, routed, relay)
                if relay.status >= 400 or relay.first_event_error is not None:
                    outcome = outcomes.of_status(relay.first_event_error or relay.status)
                    failed = FailedAttempt(endpoint, permit, outcome, self.told(relay))
                    wait = self.again(exchange, pool, routed, failed)
                    if wait is not None:
                        return wait
                    await hand_on(exchange, routed, failed.outcome, relay)
                dispatch.release(exchange, endpoint, relay)
                if not relay.over:
                    await self.passes(exchange, endpoint, permit if failed is None else None, relay)
                outcome = outcome_of(relay)
        except ClientGone as gone:
            outcome = had_it_all(exchange.relay, gone)
        except UpstreamError as error:
            outcome = outcome_of_error(error)
            failed = FailedAttempt(endpoint, permit, outcome, excused=error.kind == "no_descriptor")
            return self.unanswered(exchange, pool, routed, failed, error)
        except (errors.AttemptTimeout, errors.DeadlineExceeded) as error:
            outcome = outcomes.TOO_SLOW
            failed = FailedAttempt(endpoint, permit, outcome, excused=self.excused(exchange, endpoint, error))
            return self.too_slow(exchange, pool, routed, failed, error)
        finally:
            self._dispatch.give_back(exchange, endpoint)
            now = exchange.attempt_ended = self._clock()
            if failed is None:
                exchange.outcome = outcome.label
                endpoint.settle(
                    outcome, now, model=exchange.model, permit=permit, released=exchange.cycle.begun
                )  # fmt: skip
            else:
                self.tell(exchange, failed, outcome, now)
        return None

    async def passes(self, exchange: Exchange, endpoint: Endpoint, permit: BreakerPermit | None, relay: Relay) -> None:
        """The rest of an answer, as it comes."""
        if permit is not None:
            endpoint.began(exchange.model, permit, relay.last_at)
        await relay.change()

    def tell(self, exchange: Exchange, failed: FailedAttempt, outcome: Outcome, now: float) -> None:
        """Tell the endpoint of an attempt that failed; once."""
        if exchange.settled:
            return
        exchange.settled, exchange.outcome = True, outcome.label
        failed.endpoint.settle(
            outcome, now, model=exchange.model, permit=failed.permit, retry_after=failed.told,
            excused=failed.excused, released=exchange.cycle.begun,
        )  # fmt: skip

    async def rest(self, exchange: Exchange, seconds: float) -> None:
        """Between two attempts; the client's leaving and the deadline end it."""
        exchange.trail = (*exchange.trail, exchange.step())
        exchange.relay, exchange.settled = None, False
        exchange.phase = "retry"
        if not seconds:
            exchange.hasten(self._clock())
            return
        exchange.cycle.wire.limit(exchange.left(self._clock()))
        waited = Signal()
        timer = self._wheel.arm(seconds, waited.set)
        try:
            await waited
        finally:
            self._wheel.cancel(timer)
        exchange.hasten(self._clock())

    def choose(self, exchange: Exchange, pool: Pool) -> Endpoint:
        if exchange.attempts:
            now = self._clock()
            endpoint = pool.choose(now, exchange.model, exchange.tried, absent=exchange.absent)
        else:
            now = exchange.received
            endpoint = pool.choose(now, exchange.model)
        if endpoint is None:
            raise self._nobody(exchange, pool, now)
        exchange.attempts += 1
        exchange.attempt_began = now
        exchange.endpoint = endpoint.name
        exchange.tried = (*exchange.tried, endpoint)
        return endpoint

    def _nobody(self, exchange: Exchange, pool: Pool, now: float) -> errors.NoEndpoint:
        why = pool.nobody(now, exchange.model)
        seconds = max(1, math.ceil(why.retry_after))
        return errors.NoEndpoint(
            f"No endpoint of pool {pool.name} is available now ({why.reason}). Try again in {seconds} s.",
            retry_after=seconds,
        )

    async def _repeated(self, exchange: Exchange, endpoint: Endpoint, routed: RouteMatch, relay: Relay) -> Relay:
        """The one free repeat, where a kept connection had died before a byte of the answer. Raises UpstreamError where
        there is no answer."""
        assert relay.error is not None, "neither begun nor broken"
        if relay.error.kind != "reset_reused":
            raise relay.error
        connection = await self._dispatch.connect(exchange, endpoint, routed.route.timeouts.connect)
        relay = self._dispatch.send(exchange, endpoint, routed, connection)
        await relay.change()
        if relay.error is not None and relay.began_at is None:
            raise relay.error
        return relay

    # -- another attempt?

    def unanswered(
        self, exchange: Exchange, pool: Pool, routed: RouteMatch, failed: FailedAttempt, error: UpstreamError
    ) -> float | None:
        """After an attempt that brought no answer: the wait before the next one; raises what the client is told."""
        if error.kind == "connect_timeout":
            self._metrics.timed_out("connect")
        if error.kind in ABSENT:
            exchange.unmet += 1
            now = self._clock()
            if exchange.absent and not pool.fresh(now, exchange.model, exchange.tried, absent=True):
                raise errors.NoEndpoint(
                    f"No endpoint of pool {pool.name} accepts connections. Try again shortly.", retry_after=1
                ) from None
        wait = None if failed.excused else self.again(exchange, pool, routed, failed)
        if wait is None:
            raise client_error(error) from None
        return wait

    def excused(self, exchange: Exchange, endpoint: Endpoint, error: errors.GatewayError) -> bool:
        """Whether an attempt that was too slow is nobody's fault: the endpoint is busy, for it yields to others; or
        the deadline left it less than the route does."""
        short = isinstance(error, errors.DeadlineExceeded) and (exchange.hurried or exchange.attempts > 1)
        since, relay = exchange.attempt_began, exchange.relay
        if isinstance(error, errors.IdleTimeout) and relay is not None:
            # What this stream itself got before it stood still is no sign of life.
            since = max(since, relay.last_at)
        # In the later half of the wait: one that froze has yielded to all the others until the moment it did.
        return short or endpoint.yielded_since((since + self._clock()) / 2)

    def too_slow(
        self,
        exchange: Exchange,
        pool: Pool,
        routed: RouteMatch,
        failed: FailedAttempt,
        error: errors.AttemptTimeout | errors.DeadlineExceeded,
    ) -> float | None:
        """After an attempt whose time was up: the wait before the next one; raises what the client is told."""
        if isinstance(error, errors.DeadlineExceeded):
            raise error
        self._metrics.timed_out(timeout_of(error))
        if exchange.cycle.begun:
            raise error
        wait = self.again(exchange, pool, routed, failed)
        if wait is None:
            raise error
        return wait

    def again(self, exchange: Exchange, pool: Pool, routed: RouteMatch, failed: FailedAttempt) -> float | None:
        """The seconds to wait before another attempt, or None when there is none."""
        now, outcome, rule = self._clock(), failed.outcome, routed.route.retry
        kept = kept_back(routed.route.fallback, exchange.place) if routed.route.fallback else 0
        fresh, told = pool.fresh(now, exchange.model, exchange.tried, absent=exchange.absent), failed.told
        lacking = None
        if not fresh and rule is not None and exchange.attempts <= rule.retries - kept and listed(outcome, rule):
            # What this very attempt does to its endpoint may leave nobody: then its answer is the last one.
            exchange.attempt_ended = now
            self.tell(exchange, failed, outcome, now)
            lacking = pool.lacking(now, exchange.model)
            told = _soonest(lacking, told)
        verdict = judge(
            outcome, settings=rule, attempts=exchange.attempts, fresh=fresh, retry_after=told,
            left=exchange.left(now), budget=pool.budget, now=now, chance=self._chance, kept=kept,
        )  # fmt: skip
        meter = self._metrics.pool(pool.name)
        # A breaker is not waited for: only probes go through, and the answer is at once (DESIGN rule 11).
        if verdict.again and (lacking is None or verdict.wait >= lacking.retry_after):
            meter.retried(outcome.label)
            return verdict.wait
        if verdict.why == "budget":
            meter.budget_exhausted.value += 1
        # Rule 12; a route that makes one attempt has none to multiply.
        exchange.spent = verdict.why == "budget" or (verdict.why == "spent" and exchange.attempts > 1)
        return None

    def told(self, relay: Relay) -> float | None:
        if relay.status not in (429, 503):
            return None
        return retry_after(dict(relay.headers).get(b"retry-after"), self._wall())


def _soonest(lacking: NoCandidate | None, told: float | None) -> float | None:
    """How long engines ask to be left alone, where all do: until somebody is back, which is for this one what it asked
    for, though its pause is shorter than an answer may ask."""
    if lacking is None or lacking.reason != "paused":
        return None
    if told is not None and lacking.retry_after > min(told, LONGEST_RETRY_AFTER) - _ALIKE:
        return told
    return lacking.retry_after
