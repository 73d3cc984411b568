"""Attempts of one request that run beside each other, until one of them has the first content (policy key `hedge`).

All of it runs in the request's own coroutine: connections that are being made, relays and the timer of the second
attempt set one `Signal`, and the coroutine looks at all of them together. So a client that leaves and a timeout arrive
in one place, and of two answers in one turn of the loop the earlier one wins.

The exchange shows the oldest attempt that is left, whose timeouts expire first.
"""

import asyncio
from collections.abc import Callable

from backends.http1.connection import UpstreamConnection
from backends.http1.interface import UpstreamError
from backends.pool.endpoint import Endpoint
from backends.pool.pool import Pool
from gateway.error_mapping import outcome_of_error
from gateway.exchange import Exchange, Phase, SlotSource
from gateway.http.driver import Signal
from gateway.relay.relay import Relay
from gateway.timeouts import arm
from gateway.upstream.dispatch import Dispatch, give_up
from policies.request.routing import RouteMatch
from policies.resilience import outcome as outcomes
from policies.resilience.breaker import BreakerPermit
from policies.resilience.outcome import Outcome


class RaceLeg:
    """One attempt of a race: it makes a connection, or has sent the request, or has failed with `error`.

    began, dispatched: clock times
    """

    __slots__ = ("began", "connecting", "dispatched", "endpoint", "error", "permit", "relay")

    def __init__(self, endpoint: Endpoint, permit: BreakerPermit | None, began: float) -> None:
        self.endpoint = endpoint
        self.permit = permit
        self.began = began
        self.connecting: asyncio.Task[UpstreamConnection] | None = None
        self.dispatched: float | None = None
        self.relay: Relay | None = None
        self.error: UpstreamError | None = None

    @property
    def answered(self) -> float | None:
        """Clock time at which its answer began; None before."""
        return self.relay.began_at if self.relay is not None else None

    @property
    def outcome(self) -> Outcome | None:
        """Outcome so far; None while there is neither an answer nor a failure."""
        if self.error is not None:
            return outcome_of_error(self.error)
        relay = self.relay
        if relay is None or relay.began_at is None:
            return None
        if relay.error is not None:
            return outcomes.BROKEN_OFF
        return outcomes.of_status(relay.first_event_error or relay.status)


class Race:
    """Legs of one request, the oldest first. `gateway.upstream.hedging` decides about them."""

    def __init__(
        self, exchange: Exchange, pool: Pool, route_match: RouteMatch, *, dispatch: Dispatch, clock: Callable[[], float]
    ) -> None:
        self.exchange = exchange
        self.pool = pool
        self.route_match = route_match
        self.legs: list[RaceLeg] = []
        self.second_slot: SlotSource | None = None
        """Pool that gave the second leg a slot beside the request's own."""
        self.due = False
        """A second attempt is due."""
        self._dispatch = dispatch
        self._clock = clock
        self._signal = Signal()

    def enter(self, endpoint: Endpoint, began: float) -> RaceLeg:
        """Add a leg. Its slot of the endpoint is held until `leave`."""
        leg = RaceLeg(endpoint, endpoint.permit(self.exchange.model, began), began)
        endpoint.slot.__enter__()
        self.legs.append(leg)
        return leg

    def start(self, leg: RaceLeg) -> None:
        """Send the request, or start a connection for it."""
        connection = leg.endpoint.take()
        if connection is None:
            self._connect(leg)
        else:
            self._send(leg, connection)
        self.show_lead()

    def continue_legs(self) -> None:
        """Send on connections that have been made; send once more where a kept connection had died."""
        for leg in self.legs:
            connecting, relay = leg.connecting, leg.relay
            if connecting is not None and connecting.done():
                leg.connecting = None
                error = connecting.exception()
                if error is None:
                    self._send(leg, connecting.result())
                elif isinstance(error, UpstreamError):
                    leg.error = error
                else:
                    raise error
            elif relay is not None and relay.error is not None and relay.began_at is None:
                self._broken(leg, relay, relay.error)

    async def change(self) -> None:
        """Wait until a leg has changed or a second attempt is due."""
        await self._signal
        self._signal = Signal()
        self._watch()

    def second_attempt_due(self) -> None:
        """Note that a second attempt is due."""
        self.due = True
        self._signal.set()

    def show_lead(self) -> None:
        """Show the oldest leg in the exchange, and set the timer to its next timeout."""
        lead, exchange = self.legs[0], self.exchange
        attempt = exchange.attempt
        attempt.endpoint, attempt.began_at = lead.endpoint.name, lead.began
        attempt.relay, attempt.dispatched_at = lead.relay, lead.dispatched
        attempt.enter(Phase.CONNECT if lead.relay is None else Phase.FIRST_BYTE)
        arm(exchange, self._clock())

    def leave(self, leg: RaceLeg) -> float:
        """End a leg and return the time. Its socket is closed at once unless its answer has ended."""
        self.legs.remove(leg)
        if leg.connecting is not None:
            give_up(leg.connecting)
        if leg.relay is not None:
            leg.relay.close()
            if not leg.relay.framed:
                leg.endpoint.meter.unframed.value += 1
        leg.endpoint.slot.__exit__(None, None, None)
        slots, self.second_slot = self.second_slot, None
        if slots is not None:
            # Whichever of two legs ends, the other needs no more than the request's own slot.
            slots.give_back()
        return self._clock()

    # -- one leg

    def _connect(self, leg: RaceLeg) -> None:
        leg.connecting = self._dispatch.connecting(leg.endpoint, self.route_match.route.timeouts.connect)
        leg.connecting.add_done_callback(self._connected)

    def _connected(self, _: asyncio.Task[UpstreamConnection]) -> None:
        self._signal.set()

    def _send(self, leg: RaceLeg, connection: UpstreamConnection) -> None:
        leg.relay = self._dispatch.send_beside(self.exchange, leg.endpoint, self.route_match, connection)
        leg.dispatched = self._clock()
        self._watch()
        self.show_lead()

    def _broken(self, leg: RaceLeg, relay: Relay, error: UpstreamError) -> None:
        """Fail a leg without an answer; a kept connection that had died before a byte of the answer is replaced
        once."""
        if error.kind != "reset_reused":
            leg.error = error
            return
        relay.close()
        leg.relay = leg.dispatched = None
        self._connect(leg)
        self.show_lead()

    def _watch(self) -> None:
        for leg in self.legs:
            if leg.relay is not None:
                leg.relay.report_to(self._signal)
