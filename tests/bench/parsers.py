"""Why the client side parses with zttp: CPU a request and right and wrong, against httptools, both below uvicorn.

    .venv/bin/python -m tests.bench.parsers [--rounds 3] [--seconds 2] [--cases]

`uvicorn` is uvicorn's protocol class with an application that reads the body and answers 800 bytes; `bare` is the
parser in a protocol of a few lines (zttp builds the reply's head there; with httptools it is ready-made). Each server
has a process and, with two cores, a core of its own; 32 clients ask again as soon as they have their answer. The
servers take turns, figures are medians, CPU is of the server's own clock. `--cases` leaves the figures out.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final

import httptools
import uvloop
import zttp
from uvicorn import Config, Server

from tests.bench import parser_cases
from tests.bench.children import Child, Cores, child, load
from tests.bench.machine import busy, machine
from tests.bench.parser_cases import CASES, Case, outcome, right

UVICORN: Final = {"httptools": "httptools", "zttp": "uvicorn.protocols.http.zttp_impl:ZttpProtocol"}
BODY: Final = b'{"choices":[{"message":{"content":"' + b"x" * 750 + b'"}}]}'
HEADERS: Final = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(BODY))]
ANSWER: Final = b"HTTP/1.1 200 OK\r\n" + b"".join(b"%b: %b\r\n" % pair for pair in HEADERS) + b"\r\n" + BODY
App = Callable[[Any, Any, Any], Awaitable[None]]


# -- the servers, each in a process of its own


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Reads the body, answers."""
    while (await receive())["more_body"]:
        pass
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": BODY})


class BareHttptools(asyncio.Protocol):
    """Collects what a server would need to know, and answers."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_message_begin(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = b""

    def on_url(self, url: bytes) -> None:
        self.url = url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.method, self.path = self.parser.get_method(), httptools.parse_url(self.url).path
        self.transport.write(ANSWER)


class BareZttp(asyncio.Protocol):
    """The same with zttp, which must be told of the answer: its state covers both directions."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.conn: Any = zttp.Connection(zttp.SERVER)

    def data_received(self, data: bytes) -> None:
        event = self.conn.receive_event(data)
        while event is not zttp.NEED_DATA:
            if type(event) is zttp.Request:
                block: Any = event.headers
                self.headers = block.to_list(lowercase_names=True)
                self.method, self.path, self.body = event.method, event.path, b""
            elif type(event) is zttp.Data:
                self.body += event.data
            else:
                self._answer()
            event = self.conn.next_event()

    def _answer(self) -> None:
        self.conn.send_response(200, HEADERS)
        self.conn.send_data(BODY)
        self.conn.end_message()
        self.transport.write(self.conn.data_to_send())
        self.conn.start_next_cycle()


async def serve(kind: str, name: str) -> None:
    """Say the address, then serve until killed."""
    if kind == "bare":
        protocol = {"httptools": BareHttptools, "zttp": BareZttp}[name]
        server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0, backlog=1024)
        _say(server.sockets[0].getsockname()[1])
        await server.serve_forever()
    config = Config(app if kind == "uvicorn" else parser_cases.app, http=UVICORN[name], port=0, ws="none",
                    lifespan="off", access_log=False, log_config=None, proxy_headers=False)  # fmt: skip
    config.load()
    uvicorn = Server(config)
    uvicorn.lifespan = config.lifespan_class(config)
    await uvicorn.startup()
    _say(uvicorn.servers[0].sockets[0].getsockname()[1])
    await asyncio.get_running_loop().create_future()


def _say(port: int) -> None:
    sys.stdout.write(f"ready on 127.0.0.1:{port}\n")
    sys.stdout.flush()


# -- measuring them


@contextlib.contextmanager
def server(kind: str, name: str, folder: Path, cores: Cores) -> Iterator[Child]:
    """One of the servers: `uvicorn`, `bare` or `cases`, with `httptools` or `zttp`."""
    command = [sys.executable, "-m", "tests.bench.parsers", "--serve", kind, name]
    with child(command, r"^ready on (\S+)$", log=folder / f"{kind}-{name}.log", cores=cores.measured) as running:
        yield running


def costs(rounds: int, seconds: float) -> dict[tuple[str, str], float]:
    """Microseconds of CPU a request by kind and parser, medians."""
    cores, figures = Cores.of_this_machine(), dict[tuple[str, str], list[float]]()
    with tempfile.TemporaryDirectory(prefix="sluice-bench-") as folder:
        for number in range(rounds):
            for kind in ("uvicorn", "bare"):
                for name in sorted(UVICORN, reverse=number % 2 == 1):
                    with server(kind, name, Path(folder), cores) as running:
                        job = {"kind": "json", "address": running.address, "model": "m", "key": "none", "clients": 32,
                               "seconds": seconds, "pid": running.pid}  # fmt: skip
                        result = load(job, cores.rest)
                    figures.setdefault((kind, name), []).append(result["cpu"] / result["requests"] * 1e6)
    return {which: statistics.median(values) for which, values in figures.items()}


def verdicts() -> list[tuple[Case, dict[str, str]]]:
    """What became of each case with each of uvicorn's two protocol classes."""
    with tempfile.TemporaryDirectory(prefix="sluice-bench-") as folder, contextlib.ExitStack() as running:
        servers = {name: running.enter_context(server("cases", name, Path(folder), Cores(None, None)))
                   for name in UVICORN}  # fmt: skip
        return [(case, {name: outcome(one.address, case) for name, one in servers.items()}) for case in CASES]


def tables(figures: dict[tuple[str, str], float], found: list[tuple[Case, dict[str, str]]]) -> str:
    """Both tables in Markdown; wrong outcomes are bold."""
    lines = ["| CPU a request, us | httptools | zttp |", "|---|---:|---:|"]
    lines += [f"| {kind} | {figures[kind, 'httptools']:.1f} | {figures[kind, 'zttp']:.1f} |"
              for kind in sorted({kind for kind, _ in figures}, reverse=True)]  # fmt: skip
    lines = [*lines, ""] if figures else []
    lines += ["| request | should be | httptools | zttp | RFC |", "|---|---|---|---|---|"]
    for case, came in found:
        if came["httptools"] != came["zttp"] or not right(case, came["zttp"]):
            shown = [came[name] if right(case, came[name]) else f"**{came[name]}**" for name in ("httptools", "zttp")]
            lines.append(f"| {case.name} | {case.should} | {' | '.join(shown)} | {case.source} |")
    alike = [case.name for case, came in found if came["httptools"] == came["zttp"] and right(case, came["zttp"])]
    return "\n".join([*lines, "", f"Right with both: {', '.join(alike)}."]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.parsers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--cases", action="store_true", help="only right and wrong, no figures")
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        uvloop.run(serve(*options.serve))
        return
    note = busy()
    figures = {} if options.cases else costs(options.rounds, options.seconds)
    facts = [f"`{' '.join(['python -m tests.bench.parsers', *sys.argv[1:]])}`", machine(), *([note] if note else [])]
    sys.stdout.write("  \n".join(facts) + f"\n\n{tables(figures, verdicts())}")


if __name__ == "__main__":
    main()
