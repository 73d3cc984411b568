"""A server that says what it is told to, for clients whose requests nobody need understand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class _Connection(asyncio.Protocol):
    def __init__(self, answer: bytes, open_ones: set[_Connection]) -> None:
        self._answer = answer
        self._open_ones = open_ones
        self.lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._open_ones.add(self)

    def data_received(self, data: bytes) -> None:
        if self._answer:
            self.transport.write(self._answer)

    def connection_lost(self, exc: Exception | None) -> None:
        self._open_ones.discard(self)
        self.lost.set()


@asynccontextmanager
async def answering(*answers: bytes) -> AsyncIterator[int]:
    """Gives each connection the next answer, the last one for ever, and keeps it open; yields the port."""
    left = list(answers)
    open_ones: set[_Connection] = set()

    def connection() -> _Connection:
        return _Connection(left.pop(0) if len(left) > 1 else left[0], open_ones)

    server = await asyncio.get_running_loop().create_server(connection, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for each in list(open_ones):
            each.transport.abort()
            await each.lost.wait()
        await server.wait_closed()
