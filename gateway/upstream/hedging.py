"""Hedged attempts: a second attempt beside a slow first one (policy key `hedge`), for routes that have it.

The loop stands beside `Attempts.make` and follows it step by step. A shared loop would run every plain attempt through
a `Race`: 18.7 us of processor time in place of 4.3 us, of the 55 us of a plain request (a race, its leg, their signals,
two checks of the timeouts and the extra coroutines; best of 31 interleaved runs of 2,000 attempts, both loops over an
endpoint that answers at once, Python 3.11). So a route without hedges keeps a loop of its own.
`policies.resilience.hedging` decides; `gateway.upstream.race` runs the attempts beside each other.
"""

import asyncio
from collections.abc import Callable

from backends.http1.interface import UpstreamError
from backends.pool.endpoint import Endpoint
from backends.pool.pool import Pool
from gateway import errors
from gateway.error_mapping import outcome_of, outcome_of_error, timeout_of
from gateway.exchange import Exchange
from gateway.http.request import ClientGone
from gateway.observe.metrics import Metrics
from gateway.relay.relay import Relay
from gateway.upstream.dispatch import Dispatch
from gateway.upstream.divert import divert_to_fallback_if_needed
from gateway.upstream.failure import UNREACHABLE, FailedAttempt, outcome_of_leaving
from gateway.upstream.judge import AttemptJudge
from gateway.upstream.race import Race, RaceLeg
from policies.request.routing import RouteMatch
from policies.resilience import hedging
from policies.resilience import outcome as outcomes
from policies.resilience.fallback import kept_back
from policies.resilience.outcome import Outcome


class HedgedAttempts:
    """Makes the attempts of hedged requests of one process."""

    def __init__(
        self, judge: AttemptJudge, *, dispatch: Dispatch, metrics: Metrics, clock: Callable[[], float]
    ) -> None:
        """`clock` is monotonic, in seconds."""
        self._judge = judge
        self._dispatch = dispatch
        self._metrics = metrics
        self._clock = clock

    async def make(self, exchange: Exchange, pool: Pool, route_match: RouteMatch) -> float | None:
        """Make one attempt, or two beside each other; the outcome of each is recorded once, at its end. Return as
        `Attempts.make`."""
        judge = self._judge
        endpoint = judge.choose(exchange, pool)
        race = Race(exchange, pool, route_match, dispatch=self._dispatch, clock=self._clock)
        leg = race.enter(endpoint, exchange.attempt.began_at)
        outcome, failed = outcomes.CLIENT_GONE, None
        try:
            race.start(leg)
            relay = await self._first(race)
            if relay.status >= 400 or relay.first_event_error is not None:
                outcome = outcomes.of_status(relay.first_event_error or relay.status)
                failed = _failed(race.legs[0], outcome, retry_after=judge.retry_after(relay))
                wait = judge.wait_before_next(exchange, pool, route_match, failed)
                if wait is not None:
                    return wait
                await divert_to_fallback_if_needed(exchange, route_match, outcome, relay)
            self._dispatch.release(exchange, race.legs[0].endpoint, relay)
            if not relay.over:
                lead = race.legs[0]
                if lead.permit is not None and failed is None:
                    lead.endpoint.began(exchange.model, lead.permit, relay.last_at)
                await relay.change()
            outcome = outcome_of(relay)
        except ClientGone as gone:
            outcome = outcome_of_leaving(exchange.attempt.relay, gone)
        except UpstreamError as error:
            outcome = outcome_of_error(error)
            failed = _failed(race.legs[0], outcome, excused=error.kind == "no_descriptor")
            return judge.without_answer(exchange, pool, route_match, failed, error)
        except (errors.AttemptTimeout, errors.DeadlineExceeded) as error:
            outcome = outcomes.TOO_SLOW
            failed = _failed(race.legs[0], outcome, excused=judge.excused(exchange, race.legs[0].endpoint, error))
            return judge.too_slow(exchange, pool, route_match, failed, error)
        finally:
            self._end(race, outcome, failed)
        return None

    def _end(self, race: Race, outcome: Outcome, failed: FailedAttempt | None) -> None:
        """Leave every leg and record its outcome at its endpoint, whatever has happened."""
        exchange = race.exchange
        while len(race.legs) > 1:
            self._drop(race, race.legs[-1], _failed(race.legs[-1], outcome, excused=True))
        lead = race.legs[0]
        if lead.relay is not None and lead.relay.stream and lead.relay.released:
            self._metrics.open_streams.value -= 1
        now = exchange.attempt.ended_at = race.leave(lead)
        self._judge.record(exchange, failed or _failed(lead, outcome), outcome, now)

    # -- to the first content

    async def _first(self, race: Race) -> Relay:
        """Return the answer that goes to the client, or the last that failed; every other leg has been left. Raises
        UpstreamError where there is no answer."""
        timer = _second_attempt_timer(race)
        try:
            while (leg := self._look(race)) is None:
                await self._change(race)
        finally:
            if timer is not None:
                timer.cancel()
        self._win(race, leg)
        if leg.error is not None:
            raise leg.error
        assert leg.relay is not None, "neither begun nor broken"
        return leg.relay

    def _look(self, race: Race) -> RaceLeg | None:
        """Continue every leg as far as it has come. Return the leg that wins, or the failed one that is the last; None
        to wait on."""
        race.continue_legs()
        rule = race.route_match.route.retry
        answered = [leg for leg in race.legs if leg.answered is not None]
        for leg in sorted(answered, key=lambda leg: leg.answered or 0.0):
            if leg.outcome is not None and hedging.wins(leg.outcome, rule):
                return leg
        for leg in tuple(race.legs):
            if leg.outcome is not None:
                if len(race.legs) == 1:
                    return leg
                self._fail(race, leg, leg.outcome)
        if race.due:
            race.due = False
            self._hedge(race)
        return None

    async def _change(self, race: Race) -> None:
        """Wait for the next change. Of two legs the older one times out first, and the other continues."""
        try:
            await race.change()
        except errors.AttemptTimeout as error:
            if len(race.legs) == 1:
                raise
            lead = race.legs[0]
            excused = self._judge.excused(race.exchange, lead.endpoint, error)
            self._metrics.timed_out(timeout_of(error))
            self._drop(race, lead, _failed(lead, outcomes.TOO_SLOW, excused=excused))
            race.show_lead()

    def _hedge(self, race: Race) -> None:
        """Start a second attempt, if the policy allows it and an endpoint has room."""
        exchange, pool, route = race.exchange, race.pool, race.route_match.route
        now, settings, slots = self._clock(), route.hedge, exchange.attempt.slot
        assert settings is not None, "only a hedged route comes here"
        endpoint = _other(exchange, pool, now)
        room = endpoint is not None and (slots is None or slots.enter())
        why = hedging.judge(
            settings, route.retry, attempts=exchange.attempt.count, kept=kept_back(route.fallback,
            exchange.attempt.fallback_step), fresh=room, budget=pool.hedges, now=now,
        )  # fmt: skip
        if endpoint is None or why != "hedge":
            if room and slots is not None:
                slots.give_back()
            return
        race.second_slot = slots
        exchange.attempt.count += 1
        exchange.attempt.tried = (*exchange.attempt.tried, endpoint)
        self._metrics.pool(pool.name).hedges.value += 1
        race.start(race.enter(endpoint, now))

    # -- how legs end

    def _win(self, race: Race, winner: RaceLeg) -> None:
        """Leave every leg but the winner, at once."""
        settings, now = race.route_match.route.hedge, self._clock()
        assert settings is not None, "only a hedged route comes here"
        others = [leg for leg in race.legs if leg is not winner]
        for leg in others:
            if leg.outcome is None:
                busy = now - leg.began < settings.after or leg.endpoint.yielded_since(leg.began)
                self._drop(race, leg, _failed(leg, outcomes.HEDGE_LOST, excused=busy))
            elif leg.outcome is outcomes.OK and leg.relay is not None and not leg.relay.over:
                self._drop(race, leg, _failed(leg, outcomes.HEDGE_LOST, excused=True))
            else:
                self._fail(race, leg, leg.outcome)
        if others:
            race.show_lead()

    def _fail(self, race: Race, leg: RaceLeg, outcome: Outcome) -> None:
        """Drop a leg that failed while another one continues."""
        retry_after = self._judge.retry_after(leg.relay) if leg.relay is not None else None
        if leg.error is not None:
            if leg.error.kind == "connect_timeout":
                self._metrics.timed_out("connect")
            race.exchange.attempt.unreachable += leg.error.kind in UNREACHABLE
        excused = leg.error is not None and leg.error.kind == "no_descriptor"
        self._drop(race, leg, _failed(leg, outcome, retry_after=retry_after, excused=excused))
        race.show_lead()

    def _drop(self, race: Race, leg: RaceLeg, failed: FailedAttempt) -> None:
        """Leave one of several legs and record its outcome at its endpoint."""
        exchange, outcome = race.exchange, failed.outcome
        now = race.leave(leg)
        exchange.attempt.trail = (
            *exchange.attempt.trail,
            (leg.endpoint.name, outcome.label, int((now - leg.began) * 1e6) / 1000),
        )
        leg.endpoint.record_outcome(
            outcome,
            now,
            model=exchange.model,
            permit=leg.permit,
            retry_after=failed.retry_after,
            excused=failed.excused,
        )


def _other(exchange: Exchange, pool: Pool, now: float) -> Endpoint | None:
    """Return a candidate for the second attempt: not tried yet, and with room."""
    if not pool.fresh(now, exchange.model, exchange.attempt.tried):
        return None
    endpoint = pool.choose(now, exchange, exchange.attempt.tried)
    if endpoint is None or endpoint in exchange.attempt.tried or endpoint.in_flight >= endpoint.most:
        return None
    return endpoint


def _second_attempt_timer(race: Race) -> asyncio.TimerHandle | None:
    """Start the timer after which a second attempt is due; None for an answer that is not hedged."""
    exchange, route = race.exchange, race.route_match.route
    assert route.hedge is not None, "only a hedged route comes here"
    plain = route.timeouts.first_byte_plain
    if not hedging.applies(exchange.kind.scope, stream=exchange.stream, first_byte_plain=plain):
        return None
    # Not the timer wheel, whose tick may be longer than all of `after`.
    return asyncio.get_running_loop().call_later(route.hedge.after, race.second_attempt_due)


def _failed(
    leg: RaceLeg, outcome: Outcome, *, retry_after: float | None = None, excused: bool = False
) -> FailedAttempt:
    return FailedAttempt(leg.endpoint, leg.permit, outcome, retry_after, excused)
