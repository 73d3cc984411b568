"""Attempts of a request, one after another, until an answer is the client's (DESIGN rules 1, 3 and 4).

`Attempts.make` is one attempt: choose an endpoint, take its slot and its breaker's permit, send, wait for
the first content, relay, record the outcome. `gateway.upstream.judge` decides whether another attempt follows. Once a
byte may have gone to the client there is none. A route with hedges makes each attempt in `gateway.upstream.hedging`.
"""

import random
from collections.abc import Callable

from backends.http1.interface import UpstreamError
from backends.http1.timer_wheel import TimerWheel
from backends.pool.endpoint import Endpoint
from backends.pool.pool import Pool
from gateway import errors
from gateway.error_mapping import outcome_of, outcome_of_error
from gateway.exchange import Exchange, Phase
from gateway.http.driver import Signal
from gateway.http.request import ClientGone
from gateway.observe.metrics import Metrics
from gateway.relay.relay import Relay
from gateway.upstream.dispatch import Dispatch
from gateway.upstream.divert import divert_to_fallback_if_needed
from gateway.upstream.failure import FailedAttempt, outcome_of_leaving
from gateway.upstream.hedging import HedgedAttempts
from gateway.upstream.judge import AttemptJudge
from policies.request.routing import RouteMatch
from policies.resilience import outcome as outcomes
from policies.resilience.breaker import BreakerPermit


class Attempts:
    """Makes the attempts of every request of one process; the state of one request is in its Exchange."""

    def __init__(
        self, *, dispatch: Dispatch, metrics: Metrics, wheel: TimerWheel, clock: Callable[[], float],
        wall: Callable[[], float], rng: random.Random,
    ) -> None:  # fmt: skip
        """`clock` is monotonic, in seconds, and finer than the loop's, which uvloop rounds to milliseconds; `wall` is
        seconds since the epoch, for a Retry-After that is a date."""
        self._dispatch = dispatch
        self._wheel = wheel
        self._clock = clock
        self._judge = AttemptJudge(metrics=metrics, clock=clock, wall=wall, rng=rng)
        self._hedged = HedgedAttempts(self._judge, dispatch=dispatch, metrics=metrics, clock=clock)

    async def make(self, exchange: Exchange, pool: Pool, route: RouteMatch) -> float | None:
        """Make one attempt and record its outcome once, at its end. Return None where the request is answered, else the
        seconds to `rest` before the next attempt. Raises GatewayError where no engine's answer can be passed on,
        ClientGone."""
        if route.route.hedge is not None:
            return await self._hedged.make(exchange, pool, route)
        judge, dispatch, attempt = self._judge, self._dispatch, exchange.attempt
        endpoint = judge.choose(exchange, pool)
        permit = endpoint.permit(exchange.model, attempt.began_at)
        # The outcome also of an attempt that a shutdown ends: not the endpoint's fault either.
        outcome, failed = outcomes.CLIENT_GONE, None
        try:
            with endpoint.slot:
                connection = endpoint.take() or await dispatch.connect(exchange, endpoint, route.route.timeouts.connect)
                relay = dispatch.send(exchange, endpoint, route, connection)
                # The request leaves at the end of this turn: nothing of the answer can be here yet.
                await relay.change()
                if relay.began_at is None:
                    relay = await self._repeat(exchange, endpoint, route, relay)
                if relay.status >= 400 or relay.first_event_error is not None:
                    outcome = outcomes.of_status(relay.first_event_error or relay.status)
                    failed = FailedAttempt(endpoint, permit, outcome, judge.retry_after(relay))
                    wait = judge.wait_before_next(exchange, pool, route, failed)
                    if wait is not None:
                        return wait
                    await divert_to_fallback_if_needed(exchange, route, failed.outcome, relay)
                dispatch.release(exchange, endpoint, relay)
                if not relay.over:
                    await self._rest_of(relay, exchange, endpoint, permit if failed is None else None)
                outcome = outcome_of(relay)
        except ClientGone as gone:
            outcome = outcome_of_leaving(attempt.relay, gone)
        except UpstreamError as error:
            outcome = outcome_of_error(error)
            failed = FailedAttempt(endpoint, permit, outcome, excused=error.kind == "no_descriptor")
            return judge.without_answer(exchange, pool, route, failed, error)
        except (errors.AttemptTimeout, errors.DeadlineExceeded) as error:
            outcome = outcomes.TOO_SLOW
            failed = FailedAttempt(endpoint, permit, outcome, excused=judge.excused(exchange, endpoint, error))
            return judge.too_slow(exchange, pool, route, failed, error)
        finally:
            dispatch.give_back(exchange, endpoint)
            now = attempt.ended_at = self._clock()
            if failed is None:
                attempt.outcome = outcome.label
                endpoint.record_outcome(
                    outcome, now, model=exchange.model, permit=permit, released=exchange.request.begun
                )  # fmt: skip
            else:
                judge.record(exchange, failed, outcome, now)
        return None

    def _rest_of(self, relay: Relay, exchange: Exchange, endpoint: Endpoint, permit: BreakerPermit | None) -> Signal:
        """Return the signal of the answer's end; the first content is proof enough for a half-open breaker."""
        if permit is not None:
            endpoint.began(exchange.model, permit, relay.last_at)
        return relay.change()

    async def _repeat(self, exchange: Exchange, endpoint: Endpoint, route: RouteMatch, relay: Relay) -> Relay:
        """Send once more where a kept connection had died before a byte of the answer. Raises UpstreamError where there
        is no answer."""
        assert relay.error is not None, "neither begun nor broken"
        if relay.error.kind != "reset_reused":
            raise relay.error
        connection = await self._dispatch.connect(exchange, endpoint, route.route.timeouts.connect)
        relay = self._dispatch.send(exchange, endpoint, route, connection)
        await relay.change()
        if relay.error is not None and relay.began_at is None:
            raise relay.error
        return relay

    async def rest(self, exchange: Exchange, seconds: float) -> None:
        """Wait between two attempts; a client that leaves and the deadline end the wait."""
        exchange.attempt.next_attempt(Phase.RETRY)
        if seconds:
            exchange.request.wire.limit(exchange.time_left(self._clock()))
            waited = Signal()
            timer = self._wheel.arm(seconds, waited.set)
            try:
                await waited
            finally:
                self._wheel.cancel(timer)
        exchange.limit_first_check(self._clock())
