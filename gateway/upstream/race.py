"""Attempts of one request that run beside each other, until one of them has the first content (policy key `hedge`).

All of it is the request's own coroutine: connections that are being made, relays and the moment at which the second
attempt is due set one `Signal`, and whatever of it has happened is looked at together. So the client's leaving and a
timeout come to one place, and two answers of one turn of the loop are no race at all: the earlier one is taken.

The exchange tells of the oldest attempt that is left, whose times run out first.
"""

import asyncio
from collections.abc import Callable

from backends.http1.connection import UpstreamConnection
from backends.http1.interface import UpstreamError
from backends.pool.endpoint import Endpoint
from backends.pool.pool import Pool
from gateway.admission.pool_queue import PoolQueue
from gateway.error_mapping import outcome_of_error
from gateway.errors import GatewayError
from gateway.exchange import Exchange
from gateway.http.driver import Signal
from gateway.relay.relay import Relay
from gateway.upstream.dispatch import Dispatch, give_up
from policies.request.routing import RouteMatch
from policies.resilience import outcome as outcomes
from policies.resilience.breaker import BreakerPermit
from policies.resilience.outcome import Outcome


class RaceLeg:
    """One of the attempts. It is making a connection, or has sent the request, or `error` says why there is no answer.

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
        """When its answer began."""
        return self.relay.began_at if self.relay is not None else None

    @property
    def outcome(self) -> Outcome | None:
        """How it stands: None while there is neither an answer nor a failure."""
        if self.error is not None:
            return outcome_of_error(self.error)
        relay = self.relay
        if relay is None or relay.began_at is None:
            return None
        if relay.error is not None:
            return outcomes.BROKEN_OFF
        return outcomes.of_status(relay.first_event_error or relay.status)


class Race:
    """The legs of one request, the oldest first. Decides nothing: `gateway.upstream.hedging` does."""

    def __init__(
        self, exchange: Exchange, pool: Pool, routed: RouteMatch, *, dispatch: Dispatch, clock: Callable[[], float]
    ) -> None:
        self.exchange = exchange
        self.pool = pool
        self.routed = routed
        self.legs: list[RaceLeg] = []
        self.door: PoolQueue | None = None
        """Who gave the second leg a slot of the pool beside the request's own."""
        self.late = False
        """Whether a second attempt is due."""
        self._dispatch = dispatch
        self._clock = clock
        self._signal = Signal()

    def enter(self, endpoint: Endpoint, began: float) -> RaceLeg:
        """One attempt more. Its slot is taken until it is left."""
        leg = RaceLeg(endpoint, endpoint.permit(self.exchange.model, began), began)
        endpoint.slot.__enter__()
        self.legs.append(leg)
        return leg

    def start(self, leg: RaceLeg) -> None:
        """Send it off, or have a connection made for it."""
        connection = leg.endpoint.take()
        if connection is None:
            self._connect(leg)
        else:
            self._send(leg, connection)
        self.tell()

    def go_on(self) -> None:
        """Send on the connections that have been made, once more where a kept one had died."""
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
        """Wait until something has happened to one of them, or a second attempt is due."""
        await self._signal
        self._signal = Signal()
        self._watch()

    def late_now(self) -> None:
        """The time for a second attempt has come."""
        self.late = True
        self._signal.set()

    def tell(self) -> None:
        """Let the exchange tell of the oldest leg, and its times be looked after."""
        lead, exchange = self.legs[0], self.exchange
        exchange.endpoint, exchange.attempt_began = lead.endpoint.name, lead.began
        exchange.relay, exchange.dispatched = lead.relay, lead.dispatched
        exchange.phase = "connect" if lead.relay is None else "first_byte"
        next_look = exchange.overdue(self._clock())
        exchange.cycle.wire.limit(0.0 if isinstance(next_look, GatewayError) else next_look)

    def leave(self, leg: RaceLeg) -> float:
        """Its socket is closed at once unless its answer has ended. The time of its end."""
        self.legs.remove(leg)
        if leg.connecting is not None:
            give_up(leg.connecting)
        if leg.relay is not None:
            leg.relay.close()
            if not leg.relay.framed:
                leg.endpoint.meter.unframed.value += 1
        leg.endpoint.slot.__exit__(None, None, None)
        door, self.door = self.door, None
        if door is not None:
            # Whichever of two it is, the other needs no more than the request's own.
            door.give_back()
        return self._clock()

    # -- a leg's way

    def _connect(self, leg: RaceLeg) -> None:
        leg.connecting = self._dispatch.connecting(leg.endpoint, self.routed.route.timeouts.connect)
        leg.connecting.add_done_callback(self._made)

    def _made(self, _: asyncio.Task[UpstreamConnection]) -> None:
        self._signal.set()

    def _send(self, leg: RaceLeg, connection: UpstreamConnection) -> None:
        leg.relay = self._dispatch.send_beside(self.exchange, leg.endpoint, self.routed, connection)
        leg.dispatched = self._clock()
        self._watch()
        self.tell()

    def _broken(self, leg: RaceLeg, relay: Relay, error: UpstreamError) -> None:
        """There will be no answer; a kept connection that had died before a byte of it is replaced once."""
        if error.kind != "reset_reused":
            leg.error = error
            return
        relay.close()
        leg.relay = leg.dispatched = None
        self._connect(leg)
        self.tell()

    def _watch(self) -> None:
        for leg in self.legs:
            if leg.relay is not None:
                leg.relay.tells(self._signal)
