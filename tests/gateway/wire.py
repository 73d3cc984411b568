"""A real listener of the gateway's with a door of the test's own: what answers a request is a coroutine of the test."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from backends.http1.timer_wheel import TimerWheel
from gateway.errors import GatewayError
from gateway.http.bad_requests import answer
from gateway.http.listener import ClientListener
from gateway.http.request import ClientGone, ClientRequest
from gateway.http.timers import WireSettings
from tests.flow.harness import eventually

Answer = Callable[[ClientRequest], Coroutine[Any, Any, None]]
LENGTH = b"content-length"


class Door:
    """Answers every request with `answer`, and remembers the requests."""

    def __init__(self, answer: Answer | None) -> None:
        self._answer = answer
        self.cycles: list[ClientRequest] = []
        self.refused: list[tuple[bytes, str]] = []
        """Of what was no request: its path, and the code of the refusal."""

    def open(self, cycle: ClientRequest) -> Coroutine[Any, Any, None] | None:
        self.cycles.append(cycle)
        return None if self._answer is None else self._answer(cycle)

    async def refuse(self, cycle: ClientRequest, error: GatewayError) -> None:
        self.refused.append((cycle.raw_path, error.code))
        answer(cycle, error)

    async def opened(self, count: int = 1) -> ClientRequest:
        """The last of so many requests, once they have come."""
        await eventually(lambda: len(self.cycles) >= count, lambda: f"{len(self.cycles)} requests came, not {count}")
        return self.cycles[count - 1]


class Reader:
    """A pump that only notes what it is told."""

    def __init__(self) -> None:
        self.paused = False
        self.resumed = asyncio.Event()

    def pause(self) -> None:
        self.paused = True
        self.resumed.clear()

    def resume(self) -> None:
        self.paused = False
        self.resumed.set()


async def echo(cycle: ClientRequest) -> None:
    """Answers with the path and the body that came."""
    body = await cycle.read_body(1 << 20)
    plain(cycle, cycle.raw_path + b" " + body)


def plain(cycle: ClientRequest, body: bytes, status: int = 200) -> None:
    """A whole answer of known length."""
    cycle.start(status, [(LENGTH, b"%d" % len(body))], length_known=True)
    cycle.finish(body)


class Held:
    """Answers each request with its path, once it is let go; notes who left."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.gone: list[ClientRequest] = []

    async def __call__(self, cycle: ClientRequest) -> None:
        waiting = asyncio.get_running_loop().create_task(self.go.wait())
        try:
            await waiting
            plain(cycle, cycle.raw_path)
        except ClientGone:
            waiting.cancel()
            self.gone.append(cycle)


@contextlib.asynccontextmanager
async def listening(
    door: Door | None, *, address: str = "127.0.0.1:0", app: Any = None, most: int = 1000, **settings: Any
) -> AsyncIterator[ClientListener]:
    """A listener that takes `most` connections; `settings` are those of WireSettings. It must end by itself."""

    async def nothing(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("nothing of this is for the control routes")

    wheel = TimerWheel(asyncio.get_running_loop())
    wire = WireSettings(clock=time.monotonic, **settings)
    listener = ClientListener(app or nothing, address, handler=door, wheel=wheel, settings=wire, most=most)
    listener.bind()
    await listener.start()
    try:
        yield listener
    finally:
        async with asyncio.timeout(5):
            await listener.stop()
    assert listener.connections == 0
    assert listener.requests == 0
