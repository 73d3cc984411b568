"""The way to the store: one connection, made when it is needed, on which all of a tick's calls go out together."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, Protocol

from backends.store.redis_client import OpenedConnection
from backends.store.redis_errors import Kind, StoreLostError
from backends.store.redis_link import PendingCall, RedisLink, Stopwatch

_DELAY: Final = 0.002
"""Seconds that may pass before what nobody waits for goes out."""
_LINGER: Final = 30.0
"""Seconds in which a server that stood still may yet say what it has done; after that its slots have ended as well."""


class ChannelConnector(Protocol):
    """Makes connections. `open` raises StoreLostError."""

    async def open(self) -> OpenedConnection: ...


class RedisChannel:
    """Sends calls. A call waits for a connection for as long as it would wait for an answer."""

    def __init__(
        self,
        opens: ChannelConnector,
        timeout: float,
        greet: Callable[[RedisLink], Awaitable[None]],
        first: Callable[[], Iterable[PendingCall]],
        stopwatch: Stopwatch,
    ) -> None:
        """
        timeout: seconds that a call may take
        greet: makes sure that a new connection works, before any call; raises StoreLostError
        first: what waits to be carried out and goes before the calls of a tick
        """
        self._opens = opens
        self._timeout = timeout
        self._greet = greet
        self._first = first
        self._stopwatch = stopwatch
        self._link: RedisLink | None = None
        self._links: set[RedisLink] = set()
        self._making: asyncio.Task[None] | None = None
        self._flushing: asyncio.Handle | None = None
        # Runs on when calls have taken along what it was set for: one timer in 2 ms is less than one a tick.
        self._delayed: asyncio.TimerHandle | None = None
        self._calls: list[PendingCall] = []
        self._closed = False

    @property
    def up(self) -> bool:
        return self._link is not None

    def send(self, call: PendingCall) -> None:
        """Send it with all others of this tick."""
        self._calls.append(call)
        if self._flushing is None:
            self._flushing = asyncio.get_running_loop().call_soon(self._flush)

    def again(self, call: PendingCall, data: bytes) -> None:
        """Send a call that was replied to once more."""
        if self._link is not None:
            self._link.send(data, [call])
        else:
            call.lost("connection", "the connection is gone")

    def soon(self) -> None:
        """There is something for `first`, if there is a connection; else it waits until there is one."""
        if self._delayed is None and self._link is not None:
            self._delayed = self._link.later(_DELAY, self._late)

    def retire(self, kind: Kind, reason: str) -> None:
        """Use the connection no more; every call that waits is lost. A server that is only frozen carries out what lies
        in its socket when it goes on, and its replies are how the calls learn of it."""
        link, self._link = self._link, None
        if link is not None:
            ending = link.later(_LINGER, lambda: link.drop(kind, reason))
            link.ended.add_done_callback(lambda _: ending.cancel())
            link.retire(kind, reason)
        self._lose(kind, reason)

    def drop(self, kind: Kind, reason: str) -> None:
        """Give up the connection; every call that waits is lost."""
        if self._link is not None:
            self._link.drop(kind, reason)
        self._lose(kind, reason)

    async def connected(self) -> None:
        """Return when there is a connection. Raises StoreLostError."""
        if self._link is None:
            await asyncio.shield(self._make())

    async def close(self) -> None:
        """End, whatever is under way."""
        self._closed = True
        if self._making is not None:
            self._making.cancel()
            await asyncio.gather(self._making, return_exceptions=True)
        for handle in (self._flushing, self._delayed):
            if handle is not None:
                handle.cancel()
        self.drop("connection", "the gateway ends")
        links = list(self._links)
        for link in links:
            link.drop("connection", "the gateway ends")
        if links:
            await asyncio.wait([link.ended for link in links], timeout=1.0)

    def _late(self) -> None:
        self._delayed = None
        if self._flushing is None and self._link is not None:
            self._flush()

    def _flush(self) -> None:
        self._flushing = None
        link = self._link
        if link is None:
            if self._calls:
                self._wait()
            return
        calls, self._calls = [*self._first(), *self._calls], []
        data, sent = [], []
        for call in calls:
            packed = call.pack()
            if packed is not None:
                data.append(packed)
                sent.append(call)
        if sent:
            link.send(b"".join(data), sent)

    def _wait(self) -> None:
        """There is no connection yet."""
        if self._closed:
            self._lose("connection", "the gateway ends")
            return
        self._make()
        loop = asyncio.get_running_loop()
        loop.call_later(self._timeout, self._unsent, list(self._calls), loop.time() + self._timeout)

    def _unsent(self, calls: list[PendingCall], due: float) -> None:
        if self._link is not None or not self._calls:
            return
        loop = asyncio.get_running_loop()
        if loop.time() > due + self._timeout:
            # The loop stood still, and perhaps the connection is there.
            loop.call_later(self._timeout / 10, self._unsent, calls, loop.time())
            return
        late = [call for call in self._calls if call in calls]
        self._calls = [call for call in self._calls if call not in calls]
        for call in late:
            call.lost("timeout", f"no connection in {self._timeout * 1000:g} ms")

    def _make(self) -> "asyncio.Task[None]":
        if self._making is None:
            self._making = asyncio.get_running_loop().create_task(self._open(), name="store connection")
            self._making.add_done_callback(self._made)
        return self._making

    async def _open(self) -> None:
        link = RedisLink(await self._opens.open(), self._timeout, self._gone, self._stopwatch)
        self._links.add(link)
        link.ended.add_done_callback(lambda _: self._links.discard(link))
        try:
            await self._greet(link)
        except BaseException:
            link.drop("connection", "not used")
            raise
        if link.closed is not None:
            raise link.closed
        self._link = link

    def _made(self, task: "asyncio.Task[Any]") -> None:
        self._making = None
        error = None if task.cancelled() else task.exception()
        if error is None:
            self._flush()
        elif isinstance(error, StoreLostError):
            self._lose(error.kind, str(error))
        else:
            self._lose("other", repr(error))

    def _lose(self, kind: Kind, reason: str) -> None:
        calls, self._calls = self._calls, []
        for call in calls:
            call.lost(kind, reason)

    def _gone(self, link: RedisLink) -> None:
        if self._link is link:
            self._link = None
