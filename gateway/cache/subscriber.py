"""Subscriber: one client that receives a body which another request brought: an answer under way
(`gateway.cache.coalescing`), or a kept one (`gateway.cache.replay`)."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from gateway.http.driver import Signal
from gateway.http.request import ClientRequest

log = logging.getLogger("sluice.cache")

_BATCH: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class AnswerHead:
    """Head of a shared answer, without the headers that the gateway adds for each client."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    stream: bool
    length_known: bool


class ChunkBuffer:
    """Chunks of a body, as far as it has come. `begin` is the number of the first chunk held, `end` that of the
    next."""

    __slots__ = ("begin", "parts", "size")

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.begin = 0
        self.size = 0

    @property
    def end(self) -> int:
        return self.begin + len(self.parts)

    def add(self, data: bytes) -> None:
        self.parts.append(data)
        self.size += len(data)

    def batch(self, at: int) -> list[bytes]:
        """Return the chunks from number `at` on, as many as one write should carry."""
        found, size = list[bytes](), 0
        for number in range(at - self.begin, len(self.parts)):
            found.append(self.parts[number])
            size += len(self.parts[number])
            if size >= _BATCH:
                break
        return found

    def drop(self, before: int) -> None:
        """Forget the chunks before number `before`."""
        gone = before - self.begin
        if gone > 0:
            self.size -= sum(map(len, self.parts[:gone]))
            del self.parts[:gone]
            self.begin = before


class Subscriber:
    """One client that receives a body as it comes, no faster than it reads: `ReadControl` of its reply."""

    def __init__(self, request: ClientRequest, chunks: ChunkBuffer, taken: Callable[[], None]) -> None:
        """`taken` is called when this subscriber has read on, so that the engine may be read on too."""
        self.begun = Signal()
        """Set when the answer has a head, or has failed without one."""
        self.done = Signal()
        """Set when the subscriber has everything that will come."""
        self.at = chunks.begin
        self.size = 0
        self.whole: bool | None = None
        """True when the whole body has come, False when it broke off; None before its end."""
        self._cycle = request
        self._chunks = chunks
        self._taken = taken
        self._paused = False
        self._open = False

    def open(self) -> None:
        """Start writing: the head has gone out."""
        self._open = True
        self._cycle.attach_source(self)
        self.push()
        self._taken()

    def push(self) -> None:
        """Write the chunks that are here. Never raises: an error of this client must not end the others' answer."""
        if not self._open:
            return
        try:
            while not self._paused and self.at < self._chunks.end:
                batch = self._chunks.batch(self.at)
                self.at += len(batch)
                self.size += sum(map(len, batch))
                self._cycle.write_all(batch)
        except Exception:
            log.exception("an answer could not be written")
            self._open = False
            self._cycle.wire.transport.abort()
        if self.whole is not None and self.at >= self._chunks.end:
            self.done.set()

    @property
    def between_events(self) -> bool:
        """Return whether the last bytes of the stream ended an event."""
        parts = self._chunks.parts
        return not parts or parts[-1].endswith((b"\n\n", b"\r\n\r\n"))

    def close(self) -> None:
        """Stop writing: the client has left, or has everything."""
        self._open = False
        self._cycle.pump = None

    # -- ReadControl

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        self.push()
        self._taken()
