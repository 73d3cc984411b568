"""One connection to the store: commands go out in one write a tick, replies come back in their order.

Whether a call is late is judged only after what lies in the socket was read: an event loop that stood still has missed
the answer, not the store.
"""

import asyncio
import select
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from backends.store.redis_client import OpenedConnection
from backends.store.redis_errors import UNFINISHED, GarbageError, Kind, StoreLostError

# Calls without a reply; more means that nobody reads there.
_MOST_CALLS: Final = 100_000


class DesyncError(Exception):
    """A reply that answers something else."""


class PendingCall(Protocol):
    """A command."""

    def pack(self) -> bytes | None:
        """Return the bytes of the call, made when they are sent; None where no caller waits any more."""

    def replied(self, reply: Any) -> None:
        """The reply, a ReplyError among them; raises DesyncError where it is not that of this call. It may come after
        `lost`."""

    def lost(self, kind: Kind, reason: str) -> None:
        """There is no reply: it comes too late, or the connection is gone. May come after `replied`, and twice."""


@dataclass(frozen=True, slots=True)
class Stopwatch:
    """clock: monotonic seconds, finer than the loop's, which on uvloop are whole milliseconds
    observe: told how long each call took, in seconds"""

    clock: Callable[[], float]
    observe: Callable[[float], None]


class RedisLink(asyncio.Protocol):
    """A connection, until it is `closed`."""

    def __init__(
        self, opened: OpenedConnection, timeout: float, gone: Callable[["RedisLink"], None], stopwatch: "Stopwatch"
    ) -> None:
        """
        timeout: seconds that a call may take
        gone: called once, when it is closed
        """
        self.closed: StoreLostError | None = None
        self.ended = asyncio.get_running_loop().create_future()
        """Done when nothing is left of it, a moment after `closed`."""
        self._loop = asyncio.get_running_loop()
        self._transport = opened.transport
        self._reader = opened.reader
        self._keeper = opened.keeper
        self._timeout = timeout
        self._gone = gone
        self._stopwatch = stopwatch
        self._calls: deque[tuple[PendingCall, float]] = deque()
        # When what was sent at once is late, the number of its last call, its calls. Gone when all are answered.
        self._due: deque[tuple[float, int, Sequence[PendingCall]]] = deque()
        self._sent = 0
        self._timer: asyncio.Handle | None = None
        self._retired = False
        self._socket = opened.transport.get_extra_info("socket")
        opened.transport.set_protocol(self)

    def send(self, data: bytes, calls: Sequence[PendingCall]) -> None:
        """Send commands, one a call."""
        if self.closed is not None:
            for call in calls:
                call.lost(self.closed.kind, str(self.closed))
            return
        began = self._stopwatch.clock()
        self._transport.write(data)
        self._calls.extend([(call, began) for call in calls])
        self._sent += len(calls)
        now = self._loop.time()
        self._due.append((now + self._timeout, self._sent, calls))
        if self._timer is None:
            self._timer = self._loop.call_at(now + self._timeout, self._judge)
        if len(self._calls) > _MOST_CALLS:
            self.drop("timeout", "no replies")

    def later(self, seconds: float, work: Callable[[], None]) -> asyncio.TimerHandle:
        """Do something in a while; in the connection's loop, wherever it is called."""
        return self._loop.call_later(seconds, work)

    def retire(self, kind: Kind, reason: str) -> None:
        """Every call that waits is lost; whatever replies still come are handed to them, and then it is closed."""
        self._retired = True
        self._due.clear()
        for call, _ in list(self._calls):
            call.lost(kind, reason)
        if not self._calls:
            self.drop(kind, reason)

    def drop(self, kind: Kind, reason: str) -> None:
        """Close it at once; every call that waits is lost."""
        if self.closed is None:
            self._transport.abort()
            self._end(StoreLostError(kind, reason))

    def data_received(self, data: bytes) -> None:
        if self.closed is not None:
            return
        reader, calls, observe = self._reader, self._calls, self._stopwatch.observe
        now = self._stopwatch.clock()
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not UNFINISHED:
                if not calls:
                    raise DesyncError("nobody asked for it")
                call, since = calls.popleft()
                observe(now - since)
                try:
                    call.replied(reply)
                except DesyncError as error:
                    call.lost("other", str(error))
                    raise
        except (DesyncError, GarbageError) as error:
            # Nobody knows any more which reply is whose.
            self.drop("other", f"replies out of step: {error}")
        answered, due = self._sent - len(calls), self._due
        while due and due[0][1] <= answered:
            due.popleft()
        if self._retired and not calls:
            self.drop("connection", "nobody waits here any more")

    def connection_lost(self, exc: Exception | None) -> None:
        self._keeper = None
        if not self.ended.done():
            self.ended.set_result(None)
        if self.closed is None:
            self._end(StoreLostError("connection", str(exc) if exc else "the server closed the connection"))

    def _end(self, why: StoreLostError) -> None:
        self.closed = why
        if self._timer is not None:
            self._timer.cancel()
        calls, self._calls = self._calls, deque()
        self._due.clear()
        self._gone(self)
        for call, _ in calls:
            call.lost(why.kind, str(why))

    def _judge(self) -> None:
        """Tell those that are late, unless there are replies that were not read yet."""
        self._timer = None
        now = self._loop.time()
        if self._due and self._due[0][0] <= now and self._unread():
            self._timer = self._loop.call_soon(self._judge)
            return
        while self._due and self._due[0][0] <= now:
            for call in self._due.popleft()[2]:
                call.lost("timeout", f"no reply in {self._timeout * 1000:g} ms")
                if self.closed is not None:
                    return
        if self._due:
            self._timer = self._loop.call_at(self._due[0][0], self._judge)

    def _unread(self) -> bool:
        if self._socket is None or self._socket.fileno() < 0:
            return False
        poll = select.poll()
        poll.register(self._socket.fileno(), select.POLLIN)
        return bool(poll.poll(0))
