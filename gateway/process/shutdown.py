"""The end of a gateway, step by step: not ready but still at work (`server.lame_duck`), then no new work while what is
open may finish (`server.drain`). What is left after that, the listeners' own end tells and cuts.

Every step is a line of the log with its figures, so that an operator sees what a deployment has cost.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Final, Protocol

from gateway.observe.log import fields

log = logging.getLogger("sluice.shutdown")

# Bytes that were on their way when the router closed are read before idle connections end: a request among them gets
# our 503, where a close would reset the connection under it. Longer than a round trip in a data centre.
LATE: Final = 0.05
# How often it is looked whether all have finished; the end of a deployment need not be finer.
LOOK_EVERY: Final = 0.02


class ClientSide(Protocol):
    """Client listener, as the shutdown uses it (`gateway.http.listener.ClientListener`)."""

    @property
    def busy(self) -> bool: ...
    @property
    def connections(self) -> int: ...
    @property
    def requests(self) -> int: ...
    def close(self) -> None: ...
    def let_go(self, *, idle: bool = True) -> None: ...


class ClosableRouter(Protocol):
    """Request router (`gateway.router.ClientRouter`): once closed, each new request gets 503."""

    closed: bool


class Shutdown:
    """Shutdown sequence of one gateway. `hurry` skips the remaining waits; times in seconds, None is 0."""

    def __init__(
        self,
        *,
        clients: ClientSide,
        router: ClosableRouter,
        lame_duck: float | None,
        drain: float | None,
        hurry: asyncio.Event,
        streams: Callable[[], int],
        clock: Callable[[], float],
    ) -> None:
        """`streams` counts the open ones; `clock` is monotonic."""
        self._clients = clients
        self._router = router
        self._lame_duck = lame_duck or 0.0
        self._drain = drain or 0.0
        self._streams = streams
        self._clock = clock
        self._hurry = hurry
        self._began = clock()

    async def run(self, why: str) -> None:
        """Run lame duck, then drain. The caller has made the gateway not ready, and ends what is left."""
        self._began = self._clock()
        self._log("shutdown_began", why=why, lame_duck=self._lame_duck, drain=self._drain, hurry=self._hurry.is_set())
        await self._pause(self._lame_duck)
        self._router.closed = True
        self._clients.close()
        self._log("shutdown_draining", connections=self._clients.connections)
        # At once for those that are being answered, so that their answers say that the connection ends.
        self._clients.let_go(idle=False)
        until = self._clock() + self._drain
        await self._pause(LATE)
        self._clients.let_go()
        while self._clients.busy and not self._hurry.is_set() and self._clock() < until:
            await self._pause(LOOK_EVERY)
        self._log("shutdown_cutting" if self._clients.busy else "shutdown_drained")

    def done(self) -> None:
        """Log the end of the shutdown."""
        self._log("shutdown_done")

    async def _pause(self, seconds: float) -> None:
        """Wait so many seconds, or until `hurry` is set."""
        if seconds > 0 and not self._hurry.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._hurry.wait()

    def _log(self, event: str, **more: object) -> None:
        what = {
            **more,
            "requests": self._clients.requests,
            "streams": self._streams(),
            "seconds": round(self._clock() - self._began, 3),
        }
        log.log(logging.WARNING if event == "shutdown_cutting" else logging.INFO, event, extra=fields(**what))
