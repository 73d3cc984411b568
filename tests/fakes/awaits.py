"""Cancels a piece of work at its first await, its second, and so on until it has no more.

Awaits are counted over the work and all tasks that it starts, since what is open there must be closed as well.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Callable, Coroutine, Generator
from contextvars import ContextVar
from typing import Any, Literal

When = Literal["waits", "answered"]
"""waits: what is awaited has not come. answered: in the turn in which it comes, before whoever waits is told."""

_INSIDE: ContextVar[Cut | None] = ContextVar("inside", default=None)


class Cut:
    """Runs work once, and cancels it at the await of that number."""

    def __init__(self, at: int, when: When) -> None:
        self.awaits = 0
        self._at = at
        self._when = when
        self._victim: asyncio.Task[Any] | None = None

    @property
    def reached(self) -> bool:
        """Whether the work had so many awaits."""
        return self.awaits >= self._at

    async def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """The work's outcome, or a CancelledError as the outcome. Raises what it raises otherwise."""
        loop = asyncio.get_running_loop()
        before = loop.get_task_factory()
        loop.set_task_factory(_counting)
        token = _INSIDE.set(self)
        try:
            self._victim = loop.create_task(work, name="cut")
        finally:
            _INSIDE.reset(token)
        try:
            return await self._victim
        except asyncio.CancelledError as error:
            return error
        finally:
            loop.set_task_factory(before)

    async def counted(self, work: Coroutine[Any, Any, Any]) -> Any:
        return await self._stepped(work)

    @types.coroutine
    def _stepped(self, work: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
        go: Callable[[], Any] = lambda: work.send(None)  # noqa: E731
        while True:
            try:
                waits = go()
            except StopIteration as ended:
                return ended.value
            self.awaits += 1
            if self.awaits == self._at:
                assert self._victim is not None
                if self._when == "answered" and isinstance(waits, asyncio.Future):
                    waits.add_done_callback(self._cancel)
                else:
                    self._victim.cancel()
            try:
                yield waits
                go = lambda: work.send(None)  # noqa: E731
            except BaseException as error:
                thrown = error
                go = lambda: work.throw(thrown)  # noqa: B023, E731  # called before the next one is caught

    def _cancel(self, _: asyncio.Future[Any]) -> None:
        assert self._victim is not None
        self._victim.cancel()


def _counting(
    loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any] | Generator[Any, None, Any], **more: Any
) -> asyncio.Task[Any]:
    cut = _INSIDE.get()
    assert isinstance(work, Coroutine)
    return asyncio.Task(work if cut is None else cut.counted(work), loop=loop, **more)
