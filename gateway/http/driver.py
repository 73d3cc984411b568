"""Runs one request's coroutine without an asyncio.Task.

A task costs 6 us of a request's 50: it is registered, scheduled, given a context, woken through futures and handles.
A `RequestDriver` steps the coroutine by
hand: it starts at once, inside the socket's callback, and goes on when the `Signal` that it waits for is set. It may
await asyncio's futures and tasks too
(a connection being made, a body being read), but nothing that asks for the current task, such as `asyncio.timeout`.
"""

import asyncio
from collections.abc import Callable, Coroutine, Generator
from typing import Any


class Signal:
    """Set once; one driven coroutine may await it."""

    __slots__ = ("drive", "is_set")

    def __init__(self) -> None:
        self.is_set = False
        self.drive: RequestDriver | None = None

    def set(self) -> None:
        """Let the waiter go on, in the loop's next turn: whoever sets a signal is never run into."""
        if not self.is_set:
            self.is_set = True
            if self.drive is not None:
                self.drive.wake(self)

    def __await__(self) -> Generator["Signal", None, None]:
        if not self.is_set:
            yield self


class RequestDriver:
    """One coroutine on its way. `ended` is called once, when it has returned."""

    __slots__ = ("_coroutine", "_loop", "_running", "_waits", "ended")

    def __init__(
        self,
        coroutine: Coroutine[Any, Any, None],
        loop: asyncio.AbstractEventLoop,
        ended: Callable[["RequestDriver"], None],
    ) -> None:
        self._coroutine = coroutine
        self._loop = loop
        self.ended = ended
        self._waits: Signal | asyncio.Future[Any] | None = None
        self._running = False

    def start(self) -> None:
        """Run to the first wait, now."""
        self._step(self._coroutine.send, None)

    def wake(self, signal: Signal) -> None:
        """Go on in the loop's next turn, if the coroutine still waits for this signal then."""
        self._loop.call_soon(self._resume, signal)

    def throw(self, error: BaseException) -> None:
        """Raise `error` where the coroutine waits, now; if it is just running, where it waits next. Nothing once it
        has ended."""
        if self._running:
            self._loop.call_soon(self.throw, error)
        elif self._waits is not None:
            self._step(self._coroutine.throw, error)

    def _resume(self, waited: Signal | asyncio.Future[Any]) -> None:
        if self._waits is waited:
            self._step(self._coroutine.send, None)

    def _step(self, step: Callable[[Any], Any], value: Any) -> None:
        self._waits = None
        self._running = True
        try:
            waits = step(value)
        except StopIteration:
            self._running = False
            self.ended(self)
            return
        except BaseException:
            self._running = False
            self.ended(self)
            raise
        self._running = False
        self._waits = waits
        if type(waits) is Signal:
            waits.drive = self
            if waits.is_set:
                self.wake(waits)
        else:
            # The protocol between asyncio's futures and whoever steps a coroutine (PEP 492, asyncio.Task).
            waits._asyncio_future_blocking = False
            waits.add_done_callback(self._resume)
