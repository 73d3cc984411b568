"""A backend that does exactly what it is told, at which byte it is told, and remembers what it was sent.

    backend.answers(503)                         a plain answer
    backend.streams("a", "b")                    a chat stream of two content chunks
    backend.raw(b"HTTP/1.1 200 OK\\r\\n...", cut=17, rst=True)
    backend.does(script)                         an `async def script(c, request)` of the test's own
    backend.then.answers(200)                    what the request after that gets; the last one stays

    backend.health.answers(503)                  what probes of its health get, instead of 200
    backend.token.raw(b"", stall=True)           and those that ask for one token, instead of one

It never times out by itself and parses no more of HTTP than where a request ends. What the gateway's probes do (they
say who they are) is kept apart: `requests`, `attempts`, `connections` and `received` know nothing of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Self, cast

from tests.pace import own_timeout

Headers = Iterable[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Request:
    """What came, byte for byte."""

    head: bytes
    body: bytes
    connection: Connection

    @property
    def line(self) -> str:
        """The request line."""
        return self.head.split(b"\r\n", 1)[0].decode("latin-1")

    @property
    def headers(self) -> list[tuple[str, str]]:
        """Names in lower case, in their order."""
        pairs = (line.split(b":", 1) for line in self.head.split(b"\r\n")[1:] if line)
        return [(name.decode("latin-1").lower(), value.strip().decode("latin-1")) for name, value in pairs]

    def header(self, name: str) -> str | None:
        """The value of a header that is there at most once."""
        values = [value for each, value in self.headers if each == name]
        assert len(values) < 2, f"{name} came {len(values)} times: {values}"
        return values[0] if values else None


Script = Callable[["Connection", Request], Awaitable[None]]


@dataclass(slots=True)
class Said:
    """One body of a chat stream, as an engine writes it."""

    texts: tuple[str, ...]
    usage: bool = False
    done: bool = True

    def events(self) -> list[bytes]:
        """Its events: the role, one a text, the finish, usage if asked for, `[DONE]`."""
        events = [_chunk({"role": "assistant", "content": ""})]
        events += [_chunk({"content": text}) for text in self.texts]
        if self.done:
            events.append(_chunk({}, finish="stop"))
            if self.usage:
                usage = {"prompt_tokens": 3, "completion_tokens": len(self.texts), "total_tokens": 3 + len(self.texts)}
                events.append(_event({"id": "c", "object": "chat.completion.chunk", "choices": [], "usage": usage}))
            events.append(b"data: [DONE]\n\n")
        return events


class Connection(asyncio.Protocol):
    """One connection to the backend."""

    transport: asyncio.Transport

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.opened_at = asyncio.get_running_loop().time()
        self.closed_at: float | None = None
        self.closed = asyncio.Event()
        self.lost: Exception | None = None
        self.requests = 0
        self.probe = False
        """Whether it is one of the gateway's probes; known once it has spoken."""
        self.spoke = False
        self._buffer = bytearray()
        self._room = asyncio.Event()
        self._room.set()
        self._answering: asyncio.Task[None] | None = None

    # -- what a script does

    async def send(self, data: bytes) -> None:
        """Write, and wait while the other side does not read."""
        if not self.transport.is_closing():
            self.transport.write(data)
        await self._room.wait()

    async def drip(self, data: bytes, gap: float, size: int = 1) -> None:
        """Write `size` bytes at a time, `gap` seconds apart."""
        for start in range(0, len(data), size):
            await self.send(data[start : start + size])
            await asyncio.sleep(gap)

    async def stall(self) -> None:
        """Say nothing more until the other side closes."""
        await self.closed.wait()

    def fin(self) -> None:
        """Close in order, once what was written has left."""
        self.transport.close()

    def rst(self) -> None:
        """Reset: what is still in the other side's way is lost with it."""
        sock = self.transport.get_extra_info("socket")
        # Where the other side was faster there is no socket any more.
        with contextlib.suppress(ValueError, OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no asyncio.Transport by type.
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=64 * 1024)
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.backend.accepted.append(self)

    def data_received(self, data: bytes) -> None:
        if not self.spoke:
            self.spoke = True
            self.probe = PROBE in data
        self._buffer += data
        if not self.probe:
            self.backend.received += len(data)
        self._look()

    def eof_received(self) -> None:
        self._note_close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = exc
        self._note_close()

    def pause_writing(self) -> None:
        self._room.clear()

    def resume_writing(self) -> None:
        self._room.set()

    def _note_close(self) -> None:
        if self.closed_at is None:
            self.closed_at = asyncio.get_running_loop().time()
        self.closed.set()
        self._room.set()

    def _look(self) -> None:
        """Answer the next whole request in the buffer, one at a time."""
        if self._answering is not None and not self._answering.done():
            return
        buffer = self._buffer
        end = buffer.find(b"\r\n\r\n") + 4
        if end < 4:
            return
        head = bytes(buffer[:end])
        length = _body_length(head, buffer, end)
        if length is None:
            return
        # Copied once: a test may measure how long the loop was held, and this fake is on the same one.
        request = Request(head, bytes(memoryview(buffer)[end : end + length]), self)
        del buffer[: end + length]
        self.requests += 1
        loop = asyncio.get_running_loop()
        self._answering = loop.create_task(self._answer(request), name="backend script")
        self.backend.tasks.add(self._answering)
        self._answering.add_done_callback(self.backend.tasks.discard)

    async def _answer(self, request: Request) -> None:
        await self.backend.answer(request)
        self._answering = None
        if not self.closed.is_set():
            self._look()


class Scripts:
    """What is done with requests of one kind, one after another; the last one stays."""

    def __init__(self) -> None:
        self._all: list[Script] = []
        self._append = False

    @property
    def then(self) -> Self:
        """The next script comes after those that are there, instead of in their place."""
        self._append = True
        return self

    def does(self, script: Script) -> Self:
        """Answer with this script."""
        if not self._append:
            self._all.clear()
        self._append = False
        self._all.append(script)
        return self

    def answers(self, status: int, body: bytes | str = b'{"ok":true}', headers: Headers = ()) -> Self:
        """A plain answer with a Content-Length."""
        data = body.encode() if isinstance(body, str) else body
        return self.raw(plain(status, data, headers), keep=True)

    def raw(
        self, data: bytes, *, cut: int | None = None, rst: bool = False, keep: bool = False, stall: bool = False
    ) -> Self:
        """These bytes (the first `cut` of them), then a reset, a stall, or (unless `keep`) a close in order."""

        async def script(c: Connection, request: Request) -> None:
            await c.send(data[:cut])
            if rst:
                # Give the bytes time to be read: a reset overtakes what the other side has not fetched.
                await asyncio.sleep(0.05)
                c.rst()
            elif stall:
                await c.stall()
            elif not keep:
                c.fin()

        return self.does(script)

    def next(self) -> Script:
        """The script that is due."""
        return self._all.pop(0) if len(self._all) > 1 else self._all[0]


@dataclass(slots=True)
class Backend:
    """A listener on 127.0.0.1. Made by the `backends` fixture or used as `async with Backend() as backend:`."""

    tls: ssl.SSLContext | None = None
    requests: list[Request] = field(default_factory=list)
    probes: int = 0
    """How often it was asked about its health."""
    asked: list[Request] = field(default_factory=list)
    """Probes that asked for a token."""
    health: Scripts = field(default_factory=lambda: Scripts().answers(200, b""))
    token: Scripts = field(default_factory=lambda: Scripts().answers(200, TOKEN))
    page: Scripts = field(default_factory=lambda: Scripts().answers(404, b""))
    """What probes see of its metrics."""
    accepted: list[Connection] = field(default_factory=list)
    """Every connection there was."""
    received: int = 0
    release: asyncio.Event = field(default_factory=asyncio.Event)
    """What scripts that hold back wait for."""
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    port: int = 0
    _scripts: Scripts = field(default_factory=Scripts)
    _server: asyncio.Server | None = None
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Connection(self), "127.0.0.1", self.port, ssl=self.tls, backlog=4096
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for connection in self.accepted:
            connection.transport.abort()
        for task in list(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"http{'s' if self.tls else ''}://127.0.0.1:{self.port}"

    @property
    def attempts(self) -> int:
        """Requests that came whole, probes left out."""
        return len(self.requests)

    @property
    def connections(self) -> list[Connection]:
        """Every connection there was that is no probe; one that has said nothing yet is none so far."""
        return [one for one in self.accepted if not one.probe and (one.spoke or one.closed_at is not None)]

    @property
    def open(self) -> list[Connection]:
        """Connections that are open now."""
        return [connection for connection in self.connections if connection.closed_at is None]

    # -- what it shall do

    @property
    def then(self) -> Self:
        """The next script comes after those that are there, instead of in their place."""
        _ = self._scripts.then
        return self

    def does(self, script: Script) -> Self:
        """Answer with this script."""
        self._scripts.does(script)
        return self

    def answers(self, status: int, body: bytes | str = b'{"ok":true}', headers: Headers = ()) -> Self:
        """A plain answer with a Content-Length."""
        self._scripts.answers(status, body, headers)
        return self

    def streams(self, *texts: str, usage: bool = False, hold: int | None = None, gap: float = 0.0) -> Self:
        """A chat stream. With `hold`, that many events go out and the rest waits for `release`."""

        async def script(c: Connection, request: Request) -> None:
            await c.send(STREAM_HEAD)
            for number, event in enumerate(Said(texts, usage=usage).events()):
                if number == hold:
                    await self.release.wait()
                if gap:
                    await asyncio.sleep(gap)
                await c.send(chunked(event))
            await c.send(LAST_CHUNK)

        return self.does(script)

    def raw(
        self, data: bytes, *, cut: int | None = None, rst: bool = False, keep: bool = False, stall: bool = False
    ) -> Self:
        """These bytes (the first `cut` of them), then a reset, a stall, or (unless `keep`) a close in order."""
        self._scripts.raw(data, cut=cut, rst=rst, keep=keep, stall=stall)
        return self

    async def answer(self, request: Request) -> None:
        """Run the script that is due (called by the connection)."""
        if request.line.startswith("GET /health "):
            self.probes += 1
            await self.health.next()(request.connection, request)
            return
        if request.connection.probe and request.line.startswith("GET /metrics "):
            await self.page.next()(request.connection, request)
            return
        if request.connection.probe:
            self.asked.append(request)
            await self.token.next()(request.connection, request)
            return
        self.requests.append(request)
        script = self._scripts.next()
        async with self._changed:
            self._changed.notify_all()
        await script(request.connection, request)

    # -- what it saw

    async def requested(self, count: int = 1, timeout: float = 15.0) -> Request:
        """Wait until so many requests have come whole; the last of them."""
        async with own_timeout(timeout), self._changed:
            await self._changed.wait_for(lambda: len(self.requests) >= count)
        return self.requests[count - 1]

    async def all_closed(self, timeout: float = 3.0) -> None:
        """Wait until no connection is open; TimeoutError after `timeout` seconds."""
        async with own_timeout(timeout):
            for connection in list(self.connections):
                await connection.closed.wait()


STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"
PROBE = b"\r\nuser-agent: sluice-probe/"
TOKEN: bytes = b'{"object":"text_completion","choices":[{"index":0,"text":" a","finish_reason":"length"}]}'


def chunked(data: bytes) -> bytes:
    """One HTTP chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def plain(status: int, body: bytes, headers: Headers = ()) -> bytes:
    """A whole answer with a Content-Length."""
    pairs = [("content-type", "application/json"), *headers, ("content-length", str(len(body)))]
    lines = "".join(f"{name}: {value}\r\n" for name, value in pairs)
    return f"HTTP/1.1 {status} Some Reason\r\n{lines}\r\n".encode("latin-1") + body


def _chunk(delta: dict[str, str], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return _event({"id": "c", "object": "chat.completion.chunk", "model": "m", "choices": [choice]})


def _event(data: object) -> bytes:
    return b"data: " + json.dumps(data, ensure_ascii=False).encode() + b"\n\n"


def _body_length(head: bytes, buffer: bytearray, start: int) -> int | None:
    """How many bytes from `start` are the body of this head; None if there are more to come."""
    lowered = head.lower()
    if b"transfer-encoding: chunked" in lowered:
        end = buffer.find(b"0\r\n\r\n", start)
        return None if end < 0 else end + 5 - start
    at = lowered.find(b"\r\ncontent-length:")
    if at < 0:
        return 0
    length = int(lowered[at + 17 :].split(b"\r\n", 1)[0])
    return length if len(buffer) - start >= length else None
