"""Single flight: one answer on its way to all who ask for the same meanwhile (policy key `routes[].cache`).

Who asked first leads: its own attempts bring the answer, and what goes to its client is handed to the others as it
comes, the same bytes in the same chunks. Its client's leaving ends nothing while somebody follows
(`gateway.cache.detached_client` takes the client's place); only once nobody is left is the engine left too. Nobody
waits for the slowest: what a follower has not read yet is held for it; at most `most` bytes once the answer is too
long to be kept, then all wait.
"""

from collections.abc import Callable
from typing import Literal

from gateway.cache.detached_client import DetachedClient
from gateway.cache.subscriber import AnswerHead, ChunkBuffer, Subscriber
from gateway.exchange import Exchange
from gateway.http.driver import RequestDriver
from gateway.http.headers import Headers
from gateway.http.request import ClientGone, ClientRequest
from gateway.relay.relay import Relay
from policies.caching import shareable

State = Literal["waiting", "live", "landed", "failed"]
"""No answer yet; it comes; it has wholly come; there is none, or no more of it."""
Inherit = Callable[[Exchange, RequestDriver], DetachedClient]
"""Takes the client's place."""


class Coalescer:
    """One answer that is asked for. `begin`, `write`, `finish` and `broke` are the relay's word of it."""

    def __init__(
        self, key: bytes, exchange: Exchange, most: int, inherit: Inherit, forget: Callable[["Coalescer"], None]
    ) -> None:
        """
        exchange: who leads
        most: bytes of an answer that is kept
        forget: told when nobody may follow any more: it has become longer than that, or failed
        """
        self.key = key
        self.state: State = "waiting"
        self.head: AnswerHead | None = None
        self.chunks = ChunkBuffer()
        self.sizes: list[int] = []
        self.whole = True
        """Whether all of it is still here."""
        self.relay: Relay | None = None
        self.orphaned: RequestDriver | None = None
        """Who goes on though its client has left."""
        self._exchange = exchange
        self._most = most
        self._inherit = inherit
        self._forget = forget
        self._followers: list[Subscriber] = []
        self._leader_slow = False

    # -- those who follow

    def join(self, cycle: ClientRequest) -> Subscriber:
        """One more. Whoever joins parts again."""
        follower = Subscriber(cycle, self.chunks, self._read_on)
        self._followers.append(follower)
        if self.state == "landed":
            # All of it is here, and its leader's request not over yet.
            follower.whole = True
        if self.state != "waiting":
            follower.begun.set()
            if self._leader_slow:
                self._read_on()
        return follower

    def part(self, follower: Subscriber) -> None:
        """One less."""
        follower.close()
        self._followers.remove(follower)
        if not self._followers and self.orphaned is not None and self.state in ("waiting", "live"):
            self.orphaned.throw(ClientGone())
        else:
            self._read_on()

    def left(self, drive: RequestDriver) -> bool:
        """The leader's client has left. Whether its request goes on for the others."""
        if not self._followers or self.state not in ("waiting", "live"):
            return False
        exchange = self._exchange
        exchange.cycle.heirs = None
        exchange.gone, exchange.gone_in = True, exchange.phase
        self.orphaned, self._leader_slow = drive, False
        exchange.cycle = self._inherit(exchange, drive)
        if self.relay is not None:
            self.relay.turn_to(exchange.cycle)
            self._read_on()
        return True

    def over(self) -> None:
        """The leader's request has ended: what has not landed by now has failed, and nothing holds anybody."""
        if self.state in ("waiting", "live"):
            self._end("failed")
        if self.relay is not None:
            self.relay.copy = None
            self.relay = None
        if self.orphaned is not None:
            self._exchange.cycle.wire.limit(None)
            self.orphaned = None
        self._exchange.flight = self._exchange.cycle.heirs = None

    # -- the relay's side

    def begin(self, relay: Relay, headers: Headers, *, length_known: bool) -> None:
        """An answer goes to the leader's client now. Not every one is for others."""
        relay.turn_to(self._exchange.cycle)
        if self._exchange.place >= 0 or relay.first_event_error or not shareable(relay.status, headers):
            self.fail()
            return
        self.relay, relay.copy = relay, self
        kept = tuple(pair for pair in headers if pair[0] != b"age")
        self.head = AnswerHead(relay.status, kept, relay.stream, length_known)
        self.state = "live"
        for follower in self._followers:
            follower.begun.set()

    def write(self, data: bytes) -> None:
        """Body bytes, as they went to the leader's client."""
        if not data:
            return
        self.chunks.add(data)
        if self.whole:
            self.sizes.append(len(data))
            if self.chunks.size > self._most:
                self.whole = False
                self._forget(self)
        for follower in self._followers:
            follower.push()
        if not self.whole or self._leader_slow:
            self._hold_back()

    def finish(self) -> None:
        """That was all of it."""
        self._end("landed")

    def broke(self) -> None:
        """It has broken off."""
        self._end("failed")

    def fail(self) -> None:
        """There is no answer for others. Nothing once it has ended; who goes on only for others ends too."""
        if self.state in ("waiting", "live"):
            self._end("failed")
            if self.orphaned is not None:
                self.orphaned.throw(ClientGone())

    def _end(self, state: State) -> None:
        self.state = state
        if state == "failed":
            self._forget(self)
        for follower in self._followers:
            follower.whole = state == "landed"
            follower.begun.set()
            follower.push()

    # -- back-pressure (Pump of the leader's reply)

    def pause(self) -> None:
        self._leader_slow = True
        self._hold_back()

    def resume(self) -> None:
        self._leader_slow = False
        self._read_on()

    def _hold_back(self) -> None:
        """Stop the engine where what is held for somebody has become too much."""
        if not self.whole:
            self.chunks.drop(min((one.at for one in self._followers), default=self.chunks.end))
        if self.relay is not None and self._too_much():
            self.relay.pause()

    def _read_on(self) -> None:
        relay = self.relay
        if relay is not None and relay.held_up:
            if not self.whole:
                self.chunks.drop(min((one.at for one in self._followers), default=self.chunks.end))
            if not self._too_much():
                relay.resume()

    def _too_much(self) -> bool:
        if not self.whole and self.chunks.size > self._most:
            return True
        if not self._leader_slow:
            return False
        # While nobody follows, what its client reads is all that counts.
        unsent: int = self._exchange.cycle.wire.transport.get_write_buffer_size()
        return not self._followers or unsent > self._most
