"""Batch of writes of one turn of the event loop, sent together at its end: requests to engines, and complete answers
to clients.

uvloop writes at once, and a write that wakes a sleeping process costs 8 us on a virtual machine: an interrupt to
another core. Writes back to back wake it once; writes 20 us apart, as requests are parsed, wake it each time. What is
alone leaves 3 us later.
"""

import asyncio
import logging

from backends.http1.connection import UpstreamConnection
from backends.http1.interface import Sink, UpstreamError
from gateway.http.request import ClientRequest

log = logging.getLogger("sluice.outbox")


class WriteBatch:
    """Queue of the writes of one turn of one event loop."""

    __slots__ = ("_answers", "_loop", "_requests")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._requests: list[tuple[UpstreamConnection, bytes, bytes, Sink, bool]] = []
        self._answers: list[tuple[ClientRequest, bytes]] = []

    def request(
        self, connection: UpstreamConnection, head: bytes, body: bytes, sink: Sink, *, head_request: bool
    ) -> None:
        """Send a request at the end of this turn, unless the connection was taken from its sink by then."""
        self._schedule()
        connection.reserve(sink)
        self._requests.append((connection, head, body, sink, head_request))

    def answer(self, request: ClientRequest, data: bytes) -> None:
        """End a reply with its last bytes at the end of this turn, unless its client has left by then."""
        self._schedule()
        self._answers.append((request, data))

    def _schedule(self) -> None:
        if not self._requests and not self._answers:
            self._loop.call_soon(self._empty)

    def _empty(self) -> None:
        requests, self._requests = self._requests, []
        answers, self._answers = self._answers, []
        for connection, head, body, sink, head_request in requests:
            if connection.reserved_by(sink):
                try:
                    connection.send(head, body, sink, head_request=head_request)
                except Exception as error:
                    # The others of this turn must leave all the same. Their own client hears of it as of any break.
                    log.exception("a request could not be written")
                    connection.abort()
                    sink.on_error(UpstreamError("no_answer", str(error)))
        for request, data in answers:
            if not (request.disconnected or request.complete):
                try:
                    request.finish(data)
                except Exception:
                    log.exception("an answer could not be written")
                    request.wire.transport.abort()
