"""Both ends of an upstream connection: a server that writes what a test says, and a sink that remembers what came."""

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable

from backends.http1.connection import UpstreamConnection
from backends.http1.connection_pool import ConnectionPool
from backends.http1.interface import Headers, Origin, UpstreamError
from backends.http1.timer_wheel import TimerWheel
from backends.http1.tls import TlsSettings
from tests.pace import own_timeout

BODY = b'{"model": "m"}'
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(BODY)
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"

Script = Callable[["Peer"], Awaitable[None]]


class Peer:
    """The server's end of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        self.reader = reader
        self.writer = writer
        self.number = number
        """Of the connection, from 0."""

    async def request(self) -> bytes:
        """Wait for a whole request; returns its body."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        return await self.reader.readexactly(length)

    async def say(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def gone(self) -> None:
        """Wait until the client closes."""
        with contextlib.suppress(ConnectionError):
            while await self.reader.read(65536):
                pass

    def reset(self) -> None:
        raw = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


class Server:
    """A listener on 127.0.0.1 whose connections each run a script, and are closed (FIN) at its end."""

    def __init__(self, script: Script, tls: ssl.SSLContext | None = None) -> None:
        self._script = script
        self._tls = tls
        self._tasks: set[asyncio.Task[None]] = set()
        self.accepted = 0
        self.open = 0
        self._settled = asyncio.Condition()
        self.port = 0

    async def __aenter__(self) -> "Server":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        peer = Peer(reader, writer, self.accepted)
        self.accepted += 1
        self.open += 1
        try:
            await self._script(peer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self.open -= 1
            async with self._settled:
                self._settled.notify_all()
            self._tasks.discard(task)
            writer.close()

    async def all_closed(self) -> None:
        """Wait until every connection is closed."""
        async with own_timeout(2), self._settled:
            await self._settled.wait_for(lambda: not self.open)


def says(*answers: bytes) -> Script:
    """Answers each request of a connection with the next of `answers`, the last one again and again."""

    async def script(peer: Peer) -> None:
        left = list(answers)
        while True:
            await peer.request()
            await peer.say(left.pop(0) if len(left) > 1 else left[0])

    return script


def says_and_closes(answer: bytes) -> Script:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.say(answer)

    return script


class Answer:
    """A sink. `hook` is called after each of its calls with the name of the call."""

    last_at = 0.0

    def __init__(self, hook: Callable[[str], None] | None = None) -> None:
        self.status = 0
        self.headers: Headers = []
        self.reads: list[bytes] = []
        self.calls: list[str] = []
        self.error: UpstreamError | None = None
        self._hook = hook
        self._over = asyncio.Event()

    @property
    def body(self) -> bytes:
        return b"".join(self.reads)

    @property
    def ended(self) -> bool:
        return self.calls[-1:] == ["end"]

    @property
    def kind(self) -> str:
        """The kind of the error, or `none`."""
        return "none" if self.error is None else self.error.kind

    def on_head(self, status: int, headers: Headers, /) -> None:
        assert not self.calls
        self.status = status
        self.headers = headers
        self._note("head")

    def on_data(self, data: bytes, /) -> None:
        assert self.calls
        assert self.calls[-1] in ("head", "data")
        assert data
        self.reads.append(data)
        self._note("data")

    def on_end(self) -> None:
        assert self.calls[-1] in ("head", "data")
        self._note("end")
        self._over.set()

    def on_error(self, error: UpstreamError, /) -> None:
        assert not {"end", "error"} & set(self.calls)
        self.error = error
        self._note("error")
        self._over.set()

    def _note(self, call: str) -> None:
        self.calls.append(call)
        if self._hook is not None:
            self._hook(call)

    async def over(self, timeout: float = 5.0) -> "Answer":
        async with asyncio.timeout(timeout):
            await self._over.wait()
        return self


@contextlib.asynccontextmanager
async def pool_to(
    port: int, *, keep_alive: float = 4.0, host: str = "127.0.0.1", tls: TlsSettings | None = None
) -> AsyncIterator[ConnectionPool]:
    """A pool whose gauges must be at zero in the end."""
    wheel = TimerWheel(asyncio.get_running_loop())
    pool = ConnectionPool(Origin(host, port, tls), keep_alive=keep_alive, wheel=wheel)
    yield pool
    pool.close()
    assert (pool.active, pool.idle) == (0, 0)


async def idle_ones_gone(pool: ConnectionPool) -> None:
    """Wait until the pool has seen that its idle connections are no good."""
    for _ in range(1000):
        if not pool.idle:
            return
        await asyncio.sleep(0.001)
    raise TimeoutError


async def ready(pool: ConnectionPool) -> UpstreamConnection:
    return pool.take() or await pool.connect(2.0)


async def ask(pool: ConnectionPool, *, head: bytes = HEAD, body: bytes = BODY, head_request: bool = False) -> Answer:
    """One exchange on a kept or new connection, to its end."""
    answer = Answer()
    (await ready(pool)).send(head, body, answer, head_request=head_request)
    return await answer.over()
