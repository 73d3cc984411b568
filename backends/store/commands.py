"""Plain commands to Redis, one at a time, for what is not on a request's way. Loads redis-py."""

from __future__ import annotations

import asyncio
from typing import Any, Final, Protocol

from backends.store.redis_client import OpenedConnection, RedisClient
from backends.store.redis_errors import UNFINISHED, GarbageError, ReplyError, StoreLostError
from policies.config.store_url import read_target

TIMEOUT: Final = 2.0
"""Seconds for one reply; that of all keys may be 3 MB."""


class CommandConnector(Protocol):
    """Makes connections (`redis_client.RedisClient`)."""

    async def open(self) -> OpenedConnection: ...


class RedisCommands:
    """A connection that is made when it is needed, and made anew after whatever went wrong on it."""

    def __init__(self, opens: CommandConnector, timeout: float = TIMEOUT) -> None:
        self._opens = opens
        self._timeout = timeout
        self._line: _ReplyLine | None = None
        self._turn = asyncio.Lock()

    @staticmethod
    def to(url: str, password: str | None, key: str) -> RedisCommands:
        """To the server of a store's URL that holds `key`. Raises ValueError for a URL of no use."""
        return RedisCommands(RedisClient(read_target(url), password, key))

    async def execute(self, *words: str | bytes | int) -> Any:
        """One command's reply: bytes, int, None, or a list of those. Raises StoreLostError. Nothing is tried twice."""
        async with self._turn:
            try:
                async with asyncio.timeout(self._timeout):
                    if self._line is None or self._line.closed:
                        self._line = _ReplyLine(await self._opens.open())
                    return await self._line.ask(packed(words))
            except TimeoutError:
                self._drop()
                raise StoreLostError("timeout", f"no reply in {self._timeout:g} s") from None
            except BaseException:
                # Whose reply comes next nobody knows, and the server may be another one by now.
                self._drop()
                raise

    async def close(self) -> None:
        """End the connection."""
        self._drop()

    def _drop(self) -> None:
        line, self._line = self._line, None
        if line is not None:
            line.abort()


class _ReplyLine(asyncio.Protocol):
    """A connection with one question under way at most."""

    def __init__(self, opened: OpenedConnection) -> None:
        self.closed = False
        self._transport = opened.transport
        self._reader = opened.reader
        self._keeper = opened.keeper
        self._reply: asyncio.Future[Any] | None = None
        opened.transport.set_protocol(self)

    async def ask(self, command: bytes) -> Any:
        self._reply = asyncio.get_running_loop().create_future()
        self._transport.write(command)
        return await self._reply

    def abort(self) -> None:
        self.closed = True
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        reply = self._reply
        try:
            self._reader.feed(data)
            found = self._reader.gets()
        except GarbageError as error:
            self.abort()
            found = error
        if found is UNFINISHED or reply is None or reply.done():
            return
        if isinstance(found, ReplyError):
            reply.set_exception(StoreLostError(found.kind, str(found)))
        elif isinstance(found, GarbageError):
            reply.set_exception(StoreLostError("other", "what came is no reply"))
        else:
            reply.set_result(found)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed, self._keeper = True, None
        if self._reply is not None and not self._reply.done():
            self._reply.set_exception(StoreLostError("connection", str(exc) if exc else "the server closed it"))


def packed(words: tuple[str | bytes | int, ...]) -> bytes:
    """A command in the protocol's words (RESP2)."""
    parts = [b"*%d\r\n" % len(words)]
    for word in words:
        data = word if isinstance(word, bytes) else str(word).encode()
        parts.append(b"$%d\r\n%b\r\n" % (len(data), data))
    return b"".join(parts)
