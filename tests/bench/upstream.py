"""What the upstream client costs by itself: CPU of this process a JSON request and an event, kernel time included.

    .venv/bin/python -m tests.bench.upstream [--origin 127.0.0.1:18000] [--requests 20000] [--streams 100] [--rounds 3]

Without `--origin` an upstream of its own is started in a second process (one that knows the tags `@chunks=N @delay=MS`
in a prompt will do, too). `bare` is the floor of the same run: the same bytes through a protocol that parses nothing.
Figures are microseconds, the median of the rounds; machines differ and are noisy, so quote them beside `bare`.
"""

import argparse
import asyncio
import contextlib
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Final, cast

import uvloop

from backends.http1.connection_pool import ConnectionPool
from backends.http1.interface import Headers, Origin, UpstreamError
from backends.http1.timer_wheel import TimerWheel

CHUNKS: Final = 100
DELAY_MS: Final = 5


def request(*, stream: bool) -> tuple[bytes, bytes]:
    """Head and body of a chat request of about 300 bytes."""
    prompt = (f"@chunks={CHUNKS} @delay={DELAY_MS} " if stream else "") + "y" * 200
    body = json.dumps({"model": "mock", "stream": stream, "messages": [{"role": "user", "content": prompt}]}).encode()
    lines = b"host: bench\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
    return b"POST /v1/chat/completions HTTP/1.1\r\n" + lines, body


class Run:
    """A number of exchanges over a number of connections: each goes on until none is left to begin."""

    def __init__(self, exchanges: int, connections: int) -> None:
        self.reads = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._left = exchanges - connections
        self._going = connections

    def next(self) -> bool:
        """Called at the end of an exchange: whether to begin another."""
        if self._left > 0:
            self._left -= 1
            return True
        self._going -= 1
        if self._going == 0:
            self.done.set_result(None)
        return False


class Ours:
    """A sink that asks again as soon as it has its answer, as a busy gateway would."""

    last_at = 0.0

    def __init__(self, run: Run, pool: ConnectionPool, head: bytes, body: bytes) -> None:
        self._run, self._pool, self._head, self._body = run, pool, head, body

    def on_head(self, status: int, headers: Headers, /) -> None:
        assert status == 200

    def on_data(self, data: bytes, /) -> None:
        self._run.reads += 1

    def on_end(self) -> None:
        if self._run.next():
            connection = self._pool.take()
            assert connection is not None
            connection.send(self._head, self._body, self)

    def on_error(self, error: UpstreamError, /) -> None:
        self._run.done.set_exception(error)


class Bare(asyncio.Protocol):
    """The same without a parser: it knows how long an answer is (`size`), or that of a stream how it ends."""

    def __init__(self, run: Run, asking: bytes, size: int | None) -> None:
        self._run, self._asking, self._size = run, asking, size
        self._got = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._run.reads += 1
        self._got += len(data)
        if self._got == self._size or (self._size is None and data.endswith(b"\r\n0\r\n\r\n")):
            self._got = 0
            if self._run.next():
                self.transport.write(self._asking)


async def bare(port: int, run: Run, connections: int, *, stream: bool) -> float:
    """CPU seconds of a run."""
    loop = asyncio.get_running_loop()
    asking = b"".join(request(stream=stream))
    size = None if stream else await _answer_size(port, asking)
    clients = [
        (await loop.create_connection(lambda: Bare(run, asking, size), "127.0.0.1", port))[1]
        for _ in range(connections)
    ]
    begun = time.process_time()
    for client in clients:
        client.transport.write(asking)
    await run.done
    spent = time.process_time() - begun
    for client in clients:
        client.transport.abort()
    return spent


async def ours(port: int, run: Run, connections: int, *, stream: bool) -> float:
    """CPU seconds of a run."""
    pool = ConnectionPool(Origin("127.0.0.1", port), keep_alive=4.0, wheel=TimerWheel(asyncio.get_running_loop()))
    head, body = request(stream=stream)
    taken = [await pool.connect(2.0) for _ in range(connections)]
    begun = time.process_time()
    for connection in taken:
        connection.send(head, body, Ours(run, pool, head, body))
    await run.done
    spent = time.process_time() - begun
    assert pool.active == 0
    pool.close()
    return spent


async def measure(port: int, *, requests: int, streams: int, rounds: int) -> dict[str, float]:
    """Medians in microseconds: of a request, and of a read of a stream (one event each, save the first and last)."""
    figures: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, client in (("bare", bare), ("ours", ours)):
            run = Run(requests, 32)
            spent = await client(port, run, 32, stream=False)
            figures.setdefault(f"{name} request", []).append(spent / requests * 1e6)
            run = Run(streams, streams)
            spent = await client(port, run, streams, stream=True)
            figures.setdefault(f"{name} event", []).append(spent / run.reads * 1e6)
    return {name: statistics.median(values) for name, values in figures.items()}


async def _answer_size(port: int, asking: bytes) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(asking)
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head)
    assert length is not None
    writer.close()
    return len(head) + int(length[1])


# -- the upstream of its own

_EVENT = b'data: {"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":" word"}}]}\n\n'
_CHUNK = b"%x\r\n%b\r\n" % (len(_EVENT), _EVENT)
_JSON = b'{"id":"c","object":"chat.completion","choices":[{"message":{"content":"' + b"x" * 500 + b'"}}]}'
_START = b"HTTP/1.1 200 OK\r\nserver: bench\r\ncontent-type: "
_PLAIN = _START + b"application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(_JSON), _JSON)
_STREAM = _START + b"text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


class Upstream(asyncio.Protocol):
    """Answers each read with a ready-made answer; all streams share one clock."""

    def __init__(self, streaming: dict["Upstream", int]) -> None:
        self._streaming = streaming

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._streaming.pop(self, None)

    def data_received(self, data: bytes) -> None:
        if b"@chunks" in data:
            self._streaming[self] = CHUNKS
            self.transport.write(_STREAM)
        else:
            self.transport.write(_PLAIN)


async def serve() -> None:
    """Print the port, then serve until killed."""
    streaming: dict[Upstream, int] = {}
    server = await asyncio.get_running_loop().create_server(lambda: Upstream(streaming), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)  # noqa: T201 - how the parent learns the port
    while True:
        await asyncio.sleep(DELAY_MS / 1000)
        for stream, left in list(streaming.items()):
            stream.transport.write(_CHUNK if left > 1 else _CHUNK + b"0\r\n\r\n")
            if left > 1:
                streaming[stream] = left - 1
            else:
                del streaming[stream]


@contextlib.contextmanager
def an_upstream(origin: str | None) -> Iterator[int]:
    """The port of the upstream; one of our own lives as long as this."""
    if origin is not None:
        yield int(origin.rpartition(":")[2])
        return
    command = [sys.executable, "-m", "tests.bench.upstream", "--serve"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None
            yield int(child.stdout.readline())
        finally:
            child.kill()


def main(say: Callable[[str], object] = print) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--origin", help="host:port on this machine")
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--streams", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        uvloop.run(serve())
        return
    with an_upstream(options.origin) as port:
        figures = uvloop.run(measure(port, requests=options.requests, streams=options.streams, rounds=options.rounds))
    for name, value in figures.items():
        say(f"{name:14} {value:6.2f} us")


if __name__ == "__main__":
    main()
