"""Stands between a store and its server, and makes trouble."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress


class StoreProxy:
    """Hands on what both sides send. `delay` holds replies back by so many seconds, `first_delay` the first of each
    connection; `tamper` changes them."""

    def __init__(self, port: int) -> None:
        """port: of the server"""
        self.delay = self.first_delay = 0.0
        self.tamper: Callable[[bytes], bytes] | None = None
        self.requests = 0
        """Reads of what a client has sent: how many writes have come at most."""
        self.connections = 0
        self._port = port
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            upstream, sends = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            writer.close()
            return
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._requests(reader, sends))
                group.create_task(self._replies(upstream, writer))
        except* (OSError, EOFError):
            pass
        finally:
            writer.close()
            sends.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            self.requests += 1
            writer.write(data)
        raise EOFError

    async def _replies(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        delay = self.first_delay
        while data := await reader.read(65536):
            data = self.tamper(data) if self.tamper is not None else data
            loop.call_later(delay or self.delay, self._write, writer, data)
            delay = 0.0
        raise EOFError

    @staticmethod
    def _write(writer: asyncio.StreamWriter, data: bytes) -> None:
        if not writer.is_closing():
            writer.write(data)


@asynccontextmanager
async def store_proxy(port: int) -> AsyncIterator[StoreProxy]:
    proxy = StoreProxy(port)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.stop()
