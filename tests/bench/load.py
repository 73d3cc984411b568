"""The load generator, a process of its own: `python -m tests.bench.load JOB`, JOB and the answer being JSON objects.

    {"kind": "json", "address": "127.0.0.1:PORT", "model": M, "key": K, "clients": 32, "seconds": 3.0, "pid": PID}
    {"kind": "stream", ..., "clients": 100, "ramp": 1.9, "seconds": 5.0}

`json` is a closed loop: each client asks again as soon as it has its answer, at most `most` times in all. `stream`
starts its clients over `ramp` seconds and then counts for `seconds`, in which all of them stream. Only loopback, only
so many connections, only so long. With a PID, `cpu` is that process's own clock over the counted time, threads
included, and `waited` how long it stood in line for a core; both in seconds, other times in milliseconds. Any answer
but a whole 200 ends the job with status 1.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import uvloop

from tests.bench.answers import Answer, WrongAnswer

PROMPT = "Say something about rivers. " + "x" * 200
MOST_CLIENTS = 1000


def cpu_seconds(pid: int) -> float:
    """User and system time of another process, ended threads included (Linux: its CLOCK_PROCESS_CPUTIME_ID)."""
    return time.clock_gettime((~pid << 3) | 2)


def waited_seconds(pid: int) -> float:
    """How long a process's first thread could have run and did not, its core being another's (Linux: schedstat)."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9


def clocks(pid: int | None) -> dict[str, float]:
    """What a measurement takes the differences of, in seconds."""
    spent, waited = (cpu_seconds(pid), waited_seconds(pid)) if pid else (0.0, 0.0)
    return {"seconds": time.perf_counter(), "cpu": spent, "waited": waited}


def request(address: str, model: str, key: str, *, stream: bool) -> bytes:
    """The bytes of a chat request of about 300 bytes of body."""
    body = json.dumps({"model": model, "stream": stream, "messages": [{"role": "user", "content": PROMPT}]}).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode("ascii") + body


class Tally:
    """What all clients of a job have seen. Counts only while `counting`; compares every whole body with the first."""

    def __init__(self, most: int | None = None) -> None:
        self.counting = False
        self.requests = 0
        self.events = 0
        self.times: list[float] = []
        """Seconds to the end of an answer, or of a stream to its first content."""
        self.first: bytes | None = None
        self.differ = 0
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._most = most

    def ended(self, body: bytearray) -> None:
        if self.first is None:
            self.first = bytes(body)
        elif body != self.first:
            self.differ += 1
        if self.counting:
            self.requests += 1
            if self.requests == self._most:
                self.end(None)

    def end(self, error: Exception | None) -> None:
        if self.over.done():
            return
        if error is None:
            self.over.set_result(None)
        else:
            self.over.set_exception(error)


class Client(asyncio.Protocol):
    """One connection, which asks again and again until it is closed."""

    def __init__(self, tally: Tally, asking: bytes, *, stream: bool) -> None:
        self._tally, self._asking, self._stream = tally, asking, stream
        self._closing = False
        self._counted = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._closing:
            self._tally.end(WrongAnswer(f"the connection ended: {exc or 'EOF'}"))

    def ask(self) -> None:
        self._answer = Answer()
        self._waiting = True
        # A stream that began before the counting does not tell its first content in it.
        self._counted = self._tally.counting
        self._asked = time.perf_counter()
        self._transport.write(self._asking)

    def data_received(self, data: bytes) -> None:
        answer, tally = self._answer, self._tally
        try:
            events = answer.feed(data)
        except (WrongAnswer, ValueError) as error:
            tally.end(error)
            return
        if self._waiting and (answer.first_content if self._stream else answer.complete):
            self._waiting = False
            if self._counted:
                tally.times.append(time.perf_counter() - self._asked)
        if tally.counting:
            tally.events += events
        if answer.complete:
            tally.ended(answer.body)
            self.ask()

    def close(self) -> None:
        self._closing = True
        self._transport.abort()


async def run(job: dict[str, Any]) -> dict[str, Any]:
    """Do a job. Raises WrongAnswer, OSError, TimeoutError."""
    loop = asyncio.get_running_loop()
    stream, seconds, count = job["kind"] == "stream", float(job["seconds"]), int(job["clients"])
    host, _, port = job["address"].rpartition(":")
    if not host.startswith("127.") or count > MOST_CLIENTS:
        raise WrongAnswer(f"load goes to loopback only, over at most {MOST_CLIENTS} connections")
    asking = request(job["address"], job["model"], job["key"], stream=stream)
    tally = Tally(job.get("most"))
    clients = [(await loop.create_connection(lambda: Client(tally, asking, stream=stream), host, int(port)))[1]
               for _ in range(count)]  # fmt: skip
    ramp = float(job.get("ramp", 0.2))
    for number, client in enumerate(clients):
        loop.call_later(ramp * number / count, client.ask)
    await asyncio.wait({tally.over}, timeout=ramp)
    begun, tally.counting = clocks(job.get("pid")), True
    await asyncio.wait({tally.over}, timeout=seconds)
    ended, tally.counting = clocks(job.get("pid")), False
    for client in clients:
        client.close()
    if tally.over.done():
        tally.over.result()
    return {name: ended[name] - begun[name] for name in begun} | _result(tally)


def _result(tally: Tally) -> dict[str, Any]:
    if tally.first is None or not tally.times:
        raise WrongAnswer("no answer was whole in time")
    return {
        "requests": tally.requests,
        "events": tally.events,
        "p50": share(tally.times, 0.50) * 1e3,
        "p99": share(tally.times, 0.99) * 1e3,
        "body": hashlib.sha256(tally.first).hexdigest(),
        "differ": tally.differ,
    }


def share(values: Sequence[float], part: float) -> float:
    """The smallest value that at least this part of the values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def main() -> int:
    """Exit status 0 with the result on stdout, or 1 and why on stderr."""
    # Nothing here makes cycles that matter in a few seconds, and a collection would show as latency.
    gc.disable()
    try:
        result = uvloop.run(run(json.loads(sys.argv[1])))
    except (WrongAnswer, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(json.dumps(result) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
