"""Replay of a shared or kept answer: the same status, headers and bytes in the same chunks, plus the headers of
ours. It has no relay, so this module writes the log record."""

from collections.abc import Callable

from backends.cache.base import CachedAnswer
from gateway.cache.subscriber import AnswerHead, ChunkBuffer, Subscriber
from gateway.errors import GatewayError, StreamBroken, error_event
from gateway.exchange import Exchange, Phase
from gateway.relay.body_sinks import break_off


class Replay:
    """Replays answers for one process. `clock` is monotonic, in seconds; `epoch` makes Unix time of it."""

    def __init__(self, clock: Callable[[], float], epoch: float) -> None:
        self._clock = clock
        self._epoch = epoch

    async def replay_kept(self, exchange: Exchange, kept: CachedAnswer, result: str) -> None:
        """Replay a kept answer; `result` is `hit` or `stale`."""
        exchange.record.cache = result
        chunks = ChunkBuffer()
        for chunk in kept.chunks():
            chunks.add(chunk)
        subscriber = Subscriber(exchange.request, chunks, _nothing)
        subscriber.whole = True
        age = max(0, int(self._clock() + self._epoch - kept.stored_at))
        head = AnswerHead(200, (*kept.headers, (b"age", b"%d" % age)), kept.stream, kept.length_known)
        try:
            await self.replay(exchange, head, subscriber)
        finally:
            subscriber.close()

    async def replay(self, exchange: Exchange, head: AnswerHead, subscriber: Subscriber) -> None:
        """Send the head, and the body as it comes, to its end. Raises ClientGone."""
        now, request, attempt, record = self._clock(), exchange.request, exchange.attempt, exchange.record
        record.status = head.status
        attempt.enter(Phase.STREAM)
        if record.cache != "stale":
            # No pool has worked for it; for a stale answer the pools were tried in vain.
            exchange.pool = None
        attempt.first_content_at = attempt.began_at = now
        label = b"stale" if record.cache == "stale" else b"hit"
        ours = [(b"x-request-id", exchange.request_id.encode()), (b"x-sluice-cache", label), *attempt.reply_headers]
        if attempt.count:
            # The attempts before a stale answer.
            ours.append((b"x-sluice-attempts", b"%d" % attempt.count))
        request.wire.limit(exchange.time_left(now))
        request.start(head.status, [*head.headers, *ours], length_known=head.length_known)
        error: GatewayError = StreamBroken("The engine broke the stream off. What came before is all there is.")
        try:
            subscriber.open()
            await subscriber.done
        except GatewayError as late:
            subscriber.whole, error = False, late
        finally:
            record.size_out = subscriber.size
            record.events = subscriber.at if head.stream else 0
        if subscriber.whole:
            request.finish()
        else:
            # DESIGN rule 5.
            record.error = error.code
            allowed = head.stream and not head.length_known
            event = error_event(error, exchange.kind.family, named=exchange.kind.named_events) if allowed else b""
            break_off(request, event, between_events=subscriber.between_events)
        del error


def _nothing() -> None:
    pass
