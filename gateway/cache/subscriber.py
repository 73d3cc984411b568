"""Who is given a body that somebody else asked for, as far as it is here: that of an answer on its way
(`gateway.cache.coalescing`), or of one that was kept (`gateway.cache.replay`)."""

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
    """How a reply begins, without the headers that are ours."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    stream: bool
    length_known: bool


class ChunkBuffer:
    """A body as far as it is here. `begin` is the number of the first chunk that still is, `end` that of the next."""

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
        """Chunks from one on, as many as one write should have."""
        found, size = list[bytes](), 0
        for number in range(at - self.begin, len(self.parts)):
            found.append(self.parts[number])
            size += len(self.parts[number])
            if size >= _BATCH:
                break
        return found

    def drop(self, before: int) -> None:
        """Forget those before one."""
        gone = before - self.begin
        if gone > 0:
            self.size -= sum(map(len, self.parts[:gone]))
            del self.parts[:gone]
            self.begin = before


class Subscriber:
    """One client that is given a body as it comes, no faster than it reads: the pump of its reply."""

    def __init__(self, cycle: ClientRequest, chunks: ChunkBuffer, taken: Callable[[], None]) -> None:
        """`taken` is called when what others may have been held back for has been given."""
        self.begun = Signal()
        """Set when there is a head, or will be none."""
        self.done = Signal()
        """Set when it has all that there will be."""
        self.at = chunks.begin
        self.size = 0
        self.whole: bool | None = None
        """Once no more will come: whether that was all of it."""
        self._cycle = cycle
        self._chunks = chunks
        self._taken = taken
        self._paused = False
        self._open = False

    def open(self) -> None:
        """The head has gone."""
        self._open = True
        self._cycle.fed_by(self)
        self.push()
        self._taken()

    def push(self) -> None:
        """Give what is here. Never raises: somebody else's answer must not end with this one."""
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
        """Whether the last bytes of a stream ended an event."""
        parts = self._chunks.parts
        return not parts or parts[-1].endswith((b"\n\n", b"\r\n\r\n"))

    def close(self) -> None:
        """Its client has left, or has all."""
        self._open = False
        self._cycle.pump = None

    # -- Pump

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        self.push()
        self._taken()
