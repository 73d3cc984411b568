"""Driver that runs the coroutine of one request without an asyncio.Task.

A task costs 6 us of a request's 50: it is registered, scheduled, given a context, and woken through futures and
handles. A `RequestDriver` steps the coroutine by hand: the coroutine starts at once, inside the socket's callback, and
resumes when the `Signal` that it awaits is set. The coroutine may also await asyncio's futures and tasks (a connection
being made, a body being read), but nothing that needs the current task, such as `asyncio.timeout`.
"""

import asyncio
from collections.abc import Callable, Coroutine, Generator
from typing import Any


class Signal:
    """Event that is set once and that one driven coroutine may await."""

    __slots__ = ("driver", "is_set")

    def __init__(self) -> None:
        self.is_set = False
        self.driver: RequestDriver | None = None

    def set(self) -> None:
        """Resume the waiter in the next turn of the loop: the caller of `set` is never re-entered."""
        if not self.is_set:
            self.is_set = True
            if self.driver is not None:
                self.driver.wake(self)

    def __await__(self) -> Generator["Signal", None, None]:
        if not self.is_set:
            yield self


class RequestDriver:
    """Runner of one coroutine. `ended` is called once, when the coroutine has returned or raised."""

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
            waits.driver = self
            if waits.is_set:
                self.wake(waits)
        else:
            # The protocol between asyncio's futures and the code that steps a coroutine (PEP 492, asyncio.Task).
            waits._asyncio_future_blocking = False
            waits.add_done_callback(self._resume)
