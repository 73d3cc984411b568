"""Request coalescing: one answer under way goes to every client with an equal request meanwhile (policy key
`routes[].cache`).

The first request leads: its attempts bring the answer, and subscribers get the bytes that go to its client, as they
come, in the same chunks. When its client leaves while there are subscribers, a detached client takes its place
(`gateway.cache.detached_client`); when no subscriber is left either, the engine is left. The slowest subscriber delays
no other: unread bytes are held for it, at most `most` bytes once the answer is too long to be kept; then all wait.
"""

from collections.abc import Callable
from typing import Literal

from gateway.cache.detached_client import DetachedClient
from gateway.cache.subscriber import AnswerHead, ChunkBuffer, Subscriber
from gateway.exchange import NO_FALLBACK_STEP, Exchange
from gateway.http.driver import RequestDriver
from gateway.http.headers import Headers
from gateway.http.request import ClientGone, ClientRequest
from gateway.relay.relay import Relay
from policies.caching import shareable

State = Literal["waiting", "live", "complete", "failed"]
"""waiting: no answer yet; live: it comes; complete: all of it has come; failed: no answer, or no more of it."""
Detach = Callable[[Exchange, RequestDriver], DetachedClient]
"""Makes the detached client of a leader whose client has left."""


class Coalescer:
    """One answer under way and its subscribers. The relay reports through `begin`, `write`, `finish` and `broke`."""

    def __init__(
        self, key: bytes, exchange: Exchange, most: int, detach: Detach, forget: Callable[["Coalescer"], None]
    ) -> None:
        """
        exchange: the leader
        most: longest answer that is kept; bytes
        forget: called when no one may subscribe any more: the answer is longer than `most`, or has failed
        """
        self.key = key
        self.state: State = "waiting"
        self.head: AnswerHead | None = None
        self.chunks = ChunkBuffer()
        self.sizes: list[int] = []
        self.whole = True
        """True while every chunk of the answer is still held."""
        self.relay: Relay | None = None
        self.orphaned: RequestDriver | None = None
        """Driver of a leader that continues although its client has left."""
        self._exchange = exchange
        self._most = most
        self._detach = detach
        self._forget = forget
        self._subscribers: list[Subscriber] = []
        self._leader_slow = False

    # -- subscribers

    def subscribe(self, request: ClientRequest) -> Subscriber:
        """Add a subscriber; the caller calls `unsubscribe` with it at the end."""
        subscriber = Subscriber(request, self.chunks, self._read_on)
        self._subscribers.append(subscriber)
        if self.state == "complete":
            # All of the answer is here, and the leader's request is not over yet.
            subscriber.whole = True
        if self.state != "waiting":
            subscriber.begun.set()
            if self._leader_slow:
                self._read_on()
        return subscriber

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """Remove a subscriber. The last one of a leader without a client ends the leader too."""
        subscriber.close()
        self._subscribers.remove(subscriber)
        if not self._subscribers and self.orphaned is not None and self.state in ("waiting", "live"):
            self.orphaned.throw(ClientGone())
        else:
            self._read_on()

    def client_left(self, drive: RequestDriver) -> bool:
        """Report that the leader's client has left; return whether the request continues for subscribers."""
        if not self._subscribers or self.state not in ("waiting", "live"):
            return False
        exchange = self._exchange
        exchange.request.successors = None
        exchange.record.client_gone, exchange.record.gone_phase = True, exchange.attempt.phase
        self.orphaned, self._leader_slow = drive, False
        exchange.request = self._detach(exchange, drive)
        if self.relay is not None:
            self.relay.replace_client(exchange.request)
            self._read_on()
        return True

    def over(self) -> None:
        """End the leader's request: an answer that is not complete by now has failed."""
        if self.state in ("waiting", "live"):
            self._end("failed")
        if self.relay is not None:
            self.relay.copy = None
            self.relay = None
        if self.orphaned is not None:
            self._exchange.request.wire.limit(None)
            self.orphaned = None
        self._exchange.attempt.subscribers = self._exchange.request.successors = None

    # -- the relay's side

    def begin(self, relay: Relay, headers: Headers, *, length_known: bool) -> None:
        """Start the answer for the subscribers, if it may be shared; fail otherwise."""
        relay.replace_client(self._exchange.request)
        own_pool = self._exchange.attempt.fallback_step == NO_FALLBACK_STEP
        if not own_pool or relay.first_event_error or not shareable(relay.status, headers):
            self.fail()
            return
        self.relay, relay.copy = relay, self
        kept = tuple(pair for pair in headers if pair[0] != b"age")
        self.head = AnswerHead(relay.status, kept, relay.stream, length_known)
        self.state = "live"
        for subscriber in self._subscribers:
            subscriber.begun.set()

    def write(self, data: bytes) -> None:
        """Take body bytes, as they went to the leader's client."""
        if not data:
            return
        self.chunks.add(data)
        if self.whole:
            self.sizes.append(len(data))
            if self.chunks.size > self._most:
                self.whole = False
                self._forget(self)
        for subscriber in self._subscribers:
            subscriber.push()
        if not self.whole or self._leader_slow:
            self._hold_back()

    def finish(self) -> None:
        """Mark the answer complete."""
        self._end("complete")

    def broke(self) -> None:
        """Mark the answer broken off."""
        self._end("failed")

    def fail(self) -> None:
        """Mark the answer as failed for the subscribers, unless it has ended; a leader without a client ends too."""
        if self.state in ("waiting", "live"):
            self._end("failed")
            if self.orphaned is not None:
                self.orphaned.throw(ClientGone())

    def _end(self, state: State) -> None:
        self.state = state
        if state == "failed":
            self._forget(self)
        for subscriber in self._subscribers:
            subscriber.whole = state == "complete"
            subscriber.begun.set()
            subscriber.push()

    # -- back-pressure (ReadControl of the leader's reply)

    def pause(self) -> None:
        self._leader_slow = True
        self._hold_back()

    def resume(self) -> None:
        self._leader_slow = False
        self._read_on()

    def _hold_back(self) -> None:
        """Pause reading from the engine where too many bytes are held."""
        if not self.whole:
            self.chunks.drop(min((one.at for one in self._subscribers), default=self.chunks.end))
        if self.relay is not None and self._too_much():
            self.relay.pause()

    def _read_on(self) -> None:
        relay = self.relay
        if relay is not None and relay.reading_paused:
            if not self.whole:
                self.chunks.drop(min((one.at for one in self._subscribers), default=self.chunks.end))
            if not self._too_much():
                relay.resume()

    def _too_much(self) -> bool:
        if not self.whole and self.chunks.size > self._most:
            return True
        if not self._leader_slow:
            return False
        # Without subscribers only the leader's own client counts.
        unsent: int = self._exchange.request.wire.transport.get_write_buffer_size()
        return not self._subscribers or unsent > self._most
