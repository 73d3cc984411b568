"""A second attempt beside a slow first one (policy key `hedge`): the way of a request on a route that has it.

It stands beside `Attempts.make`, which it follows step by step, so that a route without hedges pays nothing for them.
What is decided is decided in `policies.resilience.hedging`; what runs beside each other runs in
`gateway.upstream.race`.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

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
from gateway.upstream.divert import hand_on
from gateway.upstream.failure import ABSENT, FailedAttempt, had_it_all
from gateway.upstream.race import Race, RaceLeg
from policies.request.routing import RouteMatch
from policies.resilience import hedging
from policies.resilience import outcome as outcomes
from policies.resilience.fallback import kept_back
from policies.resilience.outcome import Outcome

if TYPE_CHECKING:
    from gateway.upstream.attempts import Attempts


class HedgedAttempts:
    """Makes the attempts of hedged requests of one process."""

    def __init__(
        self, attempts: "Attempts", *, dispatch: Dispatch, metrics: Metrics, clock: Callable[[], float]
    ) -> None:
        """`attempts` judges what has failed; `clock` is monotonic, in seconds."""
        self._attempts = attempts
        self._dispatch = dispatch
        self._metrics = metrics
        self._clock = clock

    async def make(self, exchange: Exchange, pool: Pool, routed: RouteMatch) -> float | None:
        """One attempt, or two beside each other, each settled once, at its end; the rest as in `Attempts.make`."""
        attempts = self._attempts
        endpoint = attempts.choose(exchange, pool)
        race = Race(exchange, pool, routed, dispatch=self._dispatch, clock=self._clock)
        leg = race.enter(endpoint, exchange.attempt_began)
        outcome, failed = outcomes.CLIENT_GONE, None
        try:
            race.start(leg)
            relay = await self._first(race)
            if relay.status >= 400 or relay.first_event_error is not None:
                outcome = outcomes.of_status(relay.first_event_error or relay.status)
                failed = _failed(race.legs[0], outcome, told=attempts.told(relay))
                wait = attempts.again(exchange, pool, routed, failed)
                if wait is not None:
                    return wait
                await hand_on(exchange, routed, outcome, relay)
            self._dispatch.release(exchange, race.legs[0].endpoint, relay)
            if not relay.over:
                lead = race.legs[0]
                await attempts.passes(exchange, lead.endpoint, lead.permit if failed is None else None, relay)
            outcome = outcome_of(relay)
        except ClientGone as gone:
            outcome = had_it_all(exchange.relay, gone)
        except UpstreamError as error:
            outcome = outcome_of_error(error)
            failed = _failed(race.legs[0], outcome, excused=error.kind == "no_descriptor")
            return attempts.unanswered(exchange, pool, routed, failed, error)
        except (errors.AttemptTimeout, errors.DeadlineExceeded) as error:
            outcome = outcomes.TOO_SLOW
            failed = _failed(race.legs[0], outcome, excused=attempts.excused(exchange, race.legs[0].endpoint, error))
            return attempts.too_slow(exchange, pool, routed, failed, error)
        finally:
            self._end(race, outcome, failed)
        return None

    def _end(self, race: Race, outcome: Outcome, failed: FailedAttempt | None) -> None:
        """Whatever has happened: every leg is left, and its endpoint told."""
        exchange = race.exchange
        while len(race.legs) > 1:
            self._drop(race, race.legs[-1], _failed(race.legs[-1], outcome, excused=True))
        lead = race.legs[0]
        if lead.relay is not None and lead.relay.stream and lead.relay.released:
            self._metrics.open_streams.value -= 1
        now = exchange.attempt_ended = race.leave(lead)
        self._attempts.tell(exchange, failed or _failed(lead, outcome), outcome, now)

    # -- to the first content

    async def _first(self, race: Race) -> Relay:
        """The answer that is the client's, or the last that failed; every other leg has been left. Raises UpstreamError
        where there is none."""
        timer = _alarm(race)
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
        """Go on with every leg as far as it has come. The one that wins, or failed and is the last."""
        race.go_on()
        rule = race.routed.route.retry
        answered = [leg for leg in race.legs if leg.answered is not None]
        for leg in sorted(answered, key=lambda leg: leg.answered or 0.0):
            if leg.outcome is not None and hedging.wins(leg.outcome, rule):
                return leg
        for leg in tuple(race.legs):
            if leg.outcome is not None:
                if len(race.legs) == 1:
                    return leg
                self._fail(race, leg, leg.outcome)
        if race.late:
            race.late = False
            self._hedge(race)
        return None

    async def _change(self, race: Race) -> None:
        """Wait for more. Of two legs the older one's time is up first, and the other goes on."""
        try:
            await race.change()
        except errors.AttemptTimeout as error:
            if len(race.legs) == 1:
                raise
            lead = race.legs[0]
            excused = self._attempts.excused(race.exchange, lead.endpoint, error)
            self._metrics.timed_out(timeout_of(error))
            self._drop(race, lead, _failed(lead, outcomes.TOO_SLOW, excused=excused))
            race.tell()

    def _hedge(self, race: Race) -> None:
        """A second attempt, if there may be one and somebody is there for it."""
        exchange, pool, route = race.exchange, race.pool, race.routed.route
        now, settings, door = self._clock(), route.hedge, exchange.door
        assert settings is not None, "or nobody would be here"
        endpoint = _other(exchange, pool, now)
        room = endpoint is not None and (door is None or door.enter())
        why = hedging.judge(
            settings, route.retry, attempts=exchange.attempts, kept=kept_back(route.fallback, exchange.place),
            fresh=room, budget=pool.hedges, now=now,
        )  # fmt: skip
        if endpoint is None or why != "hedge":
            if room and door is not None:
                door.give_back()
            return
        race.door = door
        exchange.attempts += 1
        exchange.tried = (*exchange.tried, endpoint)
        self._metrics.pool(pool.name).hedges.value += 1
        race.start(race.enter(endpoint, now))

    # -- how legs end

    def _win(self, race: Race, winner: RaceLeg) -> None:
        """Leave the others, at once."""
        settings, now = race.routed.route.hedge, self._clock()
        assert settings is not None, "or nobody would be here"
        others = [leg for leg in race.legs if leg is not winner]
        for leg in others:
            if leg.outcome is None:
                busy = now - leg.began < settings.after or leg.endpoint.yielded_since(leg.began)
                self._drop(race, leg, _failed(leg, outcomes.OUTRUN, excused=busy))
            elif leg.outcome is outcomes.OK and leg.relay is not None and not leg.relay.over:
                self._drop(race, leg, _failed(leg, outcomes.OUTRUN, excused=True))
            else:
                self._fail(race, leg, leg.outcome)
        if others:
            race.tell()

    def _fail(self, race: Race, leg: RaceLeg, outcome: Outcome) -> None:
        """It came to its own end, and another leg has the word."""
        told = self._attempts.told(leg.relay) if leg.relay is not None else None
        if leg.error is not None:
            if leg.error.kind == "connect_timeout":
                self._metrics.timed_out("connect")
            race.exchange.unmet += leg.error.kind in ABSENT
        excused = leg.error is not None and leg.error.kind == "no_descriptor"
        self._drop(race, leg, _failed(leg, outcome, told=told, excused=excused))
        race.tell()

    def _drop(self, race: Race, leg: RaceLeg, failed: FailedAttempt) -> None:
        """Leave one of several legs, and tell its endpoint."""
        exchange, outcome = race.exchange, failed.outcome
        now = race.leave(leg)
        exchange.trail = (*exchange.trail, (leg.endpoint.name, outcome.label, int((now - leg.began) * 1e6) / 1000))
        leg.endpoint.settle(
            outcome, now, model=exchange.model, permit=leg.permit, retry_after=failed.told, excused=failed.excused
        )


def _other(exchange: Exchange, pool: Pool, now: float) -> Endpoint | None:
    """Who could be asked beside the first one: a candidate that was not tried yet and has room."""
    if not pool.fresh(now, exchange.model, exchange.tried):
        return None
    endpoint = pool.choose(now, exchange.model, exchange.tried)
    if endpoint is None or endpoint in exchange.tried or endpoint.in_flight >= endpoint.most:
        return None
    return endpoint


def _alarm(race: Race) -> asyncio.TimerHandle | None:
    """What tells that the first attempt has been silent for too long; None for an answer that is not hedged."""
    exchange, route = race.exchange, race.routed.route
    assert route.hedge is not None, "or nobody would be here"
    plain = route.timeouts.first_byte_plain
    if not hedging.applies(exchange.kind.scope, stream=exchange.stream, first_byte_plain=plain):
        return None
    # Not the timer wheel, whose tick may be longer than all of `after`.
    return asyncio.get_running_loop().call_later(route.hedge.after, race.late_now)


def _failed(leg: RaceLeg, outcome: Outcome, *, told: float | None = None, excused: bool = False) -> FailedAttempt:
    return FailedAttempt(leg.endpoint, leg.permit, outcome, told, excused)
