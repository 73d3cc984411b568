"""Cancels a piece of work at its first await, its second, and so on until it has no more.

Awaits are counted over the work and all tasks that it starts, since what is open there must be closed as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from contextvars import ContextVar
from typing import Any, Literal

When = Literal["waits", "under way", "answered"]
"""waits: what is awaited has not even been asked for. under way: two turns of the loop later, when it was sent.
answered: in the turn in which it comes, before whoever waits is told."""

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

    def waits(self, what: Any) -> Any:
        """The work awaits this now."""
        self.awaits += 1
        if self.awaits == self._at:
            assert self._victim is not None
            if self._when == "answered" and isinstance(what, asyncio.Future):
                what.add_done_callback(self._cancel)
            elif self._when == "under way":
                loop = asyncio.get_running_loop()
                loop.call_soon(lambda: loop.call_soon(self._cancel, None))
            else:
                self._victim.cancel()
        return what

    def _cancel(self, _: asyncio.Future[Any] | None) -> None:
        assert self._victim is not None
        self._victim.cancel()


class _Counted(Coroutine[Any, Any, Any]):
    """A coroutine whose awaits a Cut is told of. A task that ends before its first step throws into it as well."""

    def __init__(self, work: Coroutine[Any, Any, Any], cut: Cut) -> None:
        self._work = work
        self._cut = cut

    def send(self, value: Any) -> Any:
        return self._cut.waits(self._work.send(value))

    def throw(self, *error: Any) -> Any:
        return self._cut.waits(self._work.throw(*error))

    def close(self) -> None:
        self._work.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._work.__await__()


def _counting(
    loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any] | Generator[Any, None, Any], **more: Any
) -> asyncio.Task[Any]:
    cut = _INSIDE.get()
    assert isinstance(work, Coroutine)
    return asyncio.Task(work if cut is None else _Counted(work, cut), loop=loop, **more)
