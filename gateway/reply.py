"""Replies that the gateway writes itself: errors, canned answers, and the error event of a broken stream."""

from typing import Protocol

from gateway.errors import GatewayError, StreamBroken, error_body, error_event
from gateway.exchange import Exchange
from gateway.relay.relay import Relay


class WholeAnswer(Protocol):
    """Answer with a status and a whole body; `events` is the number of its events, 0 for a plain body."""

    @property
    def status(self) -> int: ...
    @property
    def content_type(self) -> bytes: ...
    @property
    def body(self) -> bytes: ...
    @property
    def events(self) -> int: ...


def send_error(exchange: Exchange, error: GatewayError) -> None:
    """Answer with an error of ours, in the shape of the path's family."""
    attempt, record = exchange.attempt, exchange.record
    body = error_body(error, exchange.kind.family)
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"x-request-id", exchange.request_id.encode()),
    ]
    if error.retry_after is not None:
        headers.append((b"retry-after", b"%d" % error.retry_after))
    if error.allow is not None:
        headers.append((b"allow", error.allow.encode()))
    if attempt.count:
        headers.append((b"x-sluice-attempts", b"%d" % attempt.count))
    headers += attempt.reply_headers
    if attempt.exhausted:
        headers.append((b"x-should-retry", b"false"))
    headers += error.headers
    record.status, record.error, record.size_out = error.status, error.code, len(body)
    exchange.request.start(error.status, headers, length_known=True)
    exchange.request.finish(body)


def send_answer(exchange: Exchange, answer: WholeAnswer) -> None:
    """Answer with a whole body that the gateway made: the message of a fallback."""
    attempt, record = exchange.attempt, exchange.record
    headers = [(b"content-type", answer.content_type), (b"x-request-id", exchange.request_id.encode())]
    if answer.events:
        headers += [(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]
    else:
        headers.append((b"content-length", b"%d" % len(answer.body)))
    if attempt.count:
        headers.append((b"x-sluice-attempts", b"%d" % attempt.count))
    headers += attempt.reply_headers
    record.status, record.size_out, record.events = answer.status, len(answer.body), answer.events
    exchange.request.start(answer.status, headers, length_known=not answer.events)
    exchange.request.finish(answer.body)


def broken_stream_event(exchange: Exchange, relay: Relay) -> bytes:
    """Return the event that reports a broken stream (DESIGN rule 5); empty where the body has no room for one."""
    exchange.record.error = StreamBroken.code
    if not relay.allows_error_event:
        return b""
    error = StreamBroken("The engine broke the stream off. What came before is all there is.")
    return error_event(error, exchange.kind.family, named=exchange.kind.named_events)
