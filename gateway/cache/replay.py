"""Somebody else's answer for a client: the same status, headers and bytes in the same chunks, with the headers that are
ours. It has no relay, so what is told of it is told here."""

from collections.abc import Callable

from backends.cache.base import CachedAnswer
from gateway.cache.subscriber import AnswerHead, ChunkBuffer, Subscriber
from gateway.errors import GatewayError, StreamBroken, error_event
from gateway.exchange import Exchange
from gateway.relay.body_sinks import break_off


class Replay:
    """Gives them. `clock` is monotonic, in seconds; `epoch` makes Unix time of it."""

    def __init__(self, clock: Callable[[], float], epoch: float) -> None:
        self._clock = clock
        self._epoch = epoch

    async def kept(self, exchange: Exchange, kept: CachedAnswer, word: str) -> None:
        """Give one that was kept; `word` says which: hit or stale."""
        exchange.cache = word
        chunks = ChunkBuffer()
        for chunk in kept.chunks():
            chunks.add(chunk)
        follower = Subscriber(exchange.cycle, chunks, _nothing)
        follower.whole = True
        age = max(0, int(self._clock() + self._epoch - kept.stored_at))
        head = AnswerHead(200, (*kept.headers, (b"age", b"%d" % age)), kept.stream, kept.length_known)
        try:
            await self.give(exchange, head, follower)
        finally:
            follower.close()

    async def give(self, exchange: Exchange, head: AnswerHead, follower: Subscriber) -> None:
        """The head, and all that comes, to its end."""
        now, cycle = self._clock(), exchange.cycle
        exchange.status, exchange.phase = head.status, "stream"
        if exchange.cache != "stale":
            # No pool has been asked; for a stale one they have been, in vain.
            exchange.pool = None
        exchange.first_content = exchange.attempt_began = now
        word = b"stale" if exchange.cache == "stale" else b"hit"
        ours = [(b"x-request-id", exchange.request_id.encode()), (b"x-sluice-cache", word), *exchange.extra_headers]
        if exchange.attempts:
            # Of a stale one: what was tried before it.
            ours.append((b"x-sluice-attempts", b"%d" % exchange.attempts))
        cycle.wire.limit(exchange.left(now))
        cycle.start(head.status, [*head.headers, *ours], length_known=head.length_known)
        error: GatewayError = StreamBroken("The engine broke the stream off. What came before is all there is.")
        try:
            follower.open()
            await follower.done
        except GatewayError as late:
            follower.whole, error = False, late
        finally:
            exchange.size_out = follower.size
            exchange.events = follower.at if head.stream else 0
        if follower.whole:
            cycle.finish()
        else:
            # Rule 5.
            exchange.error = error.code
            told = head.stream and not head.length_known
            event = error_event(error, exchange.kind.family, named=exchange.kind.named_events) if told else b""
            break_off(cycle, event, between_events=follower.between_events)
        del error


def _nothing() -> None:
    pass
