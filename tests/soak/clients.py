"""Clients of a soak: a crowd over raw sockets, of which 60% leave at random moments.

What came back is compared byte for byte with what a simulator that is well says to the same request: an answer is
whole, or a beginning of it and an error event. So two models' outputs that were spliced would show.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import socket
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, cast

from tests.bench.answers import Answer
from tests.soak.stage import LONGEST, MODEL

PROMPTS: Final = tuple(f"Say something about rivers, number {number}. " + "x" * (37 * number) for number in range(8))
LEAVING: Final = 0.6
THINK: Final = 0.05
"""Seconds between two requests of a client, on average."""
LEAVES: Final = ("part", "sent", "soon", "begun", "reads")
What = Literal["status", "broken", "wrong", "hung", "lost"]
ASKED_AGAIN: Final = 4
"""How often one connection is used, at most."""
_STATUS: Final = re.compile(rb"HTTP/1\.1 (\d{3}) ")
_ID: Final = re.compile(rb"\r\nx-request-id: *(\S+)", re.IGNORECASE)
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_ERROR: Final = b'data: {"error":'


@dataclass(frozen=True, slots=True)
class Question:
    """One request of the crowd and its right answer."""

    stream: bool
    wire: bytes
    right: bytes


@dataclass(frozen=True, slots=True)
class Seen:
    """An answer that was not a whole and right 200. `what`: status | broken | wrong | hung | lost."""

    what: What
    request_id: str
    status: int
    detail: str


@dataclass(slots=True)
class Tally:
    """What the crowd has seen."""

    asked: int = 0
    right: int = 0
    left: Counter[str] = field(default_factory=Counter)
    odd: list[Seen] = field(default_factory=list)


class Reply(Answer):
    """Any status; a length of None is chunked."""

    __slots__ = ("request_id", "status")
    status: int
    request_id: str

    def _begin(self, head: bytes) -> None:
        status, length, found = _STATUS.match(head), _LENGTH.search(head), _ID.search(head)
        if status is None:
            raise ValueError(f"no status line: {head[:80]!r}")
        self.head = head
        self.status = int(status[1])
        self.request_id = "" if found is None else found[1].decode()
        self._left = None if length is None else int(length[1])


class _Line(asyncio.Protocol):
    """One connection. `over` is set when the answer is whole, the connection gone, or the moment to leave there."""

    def __init__(self) -> None:
        self.gone = False
        self.reads = 0
        self.leave_after = 0
        self.over = asyncio.Event()
        self.reply = Reply()
        self.fault: Exception | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone = True
        self.over.set()

    def ask(self, data: bytes, leave_after: int = 0) -> None:
        self.reply, self.reads, self.leave_after = Reply(), 0, leave_after
        self.over.clear()
        self.transport.write(data)

    def data_received(self, data: bytes) -> None:
        self.reads += 1
        try:
            self.reply.feed(data)
        except ValueError as error:
            self.fault = error
        if self.reply.complete or self.fault or self.reads == self.leave_after:
            self.over.set()

    def leave(self, *, reset: bool) -> None:
        if reset and not self.gone:
            sock = self.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()


class Crowd:
    """So many clients, each of which asks, thinks for a moment and asks again until `stop`."""

    def __init__(self, address: str, questions: list[Question], rng: random.Random, tally: Tally) -> None:
        host, _, port = address.rpartition(":")
        assert host.startswith("127."), "load goes to loopback only"
        self._host, self._port = host, int(port)
        self._questions = questions
        self._rng = rng
        self._stopped = asyncio.Event()
        self.tally = tally

    def stop(self) -> None:
        """No further request; those under way come to their end."""
        self._stopped.set()

    async def run(self, clients: int) -> None:
        """Until `stop`."""
        async with asyncio.TaskGroup() as group:
            for number in range(clients):
                group.create_task(self._client(random.Random(self._rng.random())), name=f"client {number}")

    async def _client(self, rng: random.Random) -> None:
        loop = asyncio.get_running_loop()
        while not self._stopped.is_set():
            _, line = await loop.create_connection(_Line, self._host, self._port)
            for _ in range(rng.randint(1, ASKED_AGAIN)):
                await asyncio.sleep(rng.expovariate(1 / THINK))
                if line.gone:
                    break
                stays = await self._ask(line, rng)
                if not stays or self._stopped.is_set():
                    break
            line.leave(reset=False)

    async def _ask(self, line: _Line, rng: random.Random) -> bool:
        """One request; whether the connection may be used again."""
        question = rng.choice(self._questions)
        self.tally.asked += 1
        if rng.random() < LEAVING:
            return await self._leave(line, question, rng)
        line.ask(question.wire)
        try:
            async with asyncio.timeout(LONGEST + 2):
                await line.over.wait()
        except TimeoutError:
            self._note(line, question, "hung")
            return False
        return self._judge(line, question)

    async def _leave(self, line: _Line, question: Question, rng: random.Random) -> bool:
        """Ask and leave at one of LEAVES. Who gets the whole answer before has stayed."""
        kind, reset = rng.choice(LEAVES), rng.random() < 0.5
        data, wait, reads = question.wire, LONGEST, 0
        if kind == "part":
            data, wait = data[: rng.randrange(1, len(data))], rng.uniform(0, 0.02)
        elif kind == "sent":
            wait = 0.0
        elif kind == "soon":
            wait = rng.uniform(0, 0.1)
        else:
            reads = 1 if kind == "begun" else rng.randint(2, 6)
        line.ask(data, reads)
        try:
            async with asyncio.timeout(wait):
                await line.over.wait()
        except TimeoutError:
            pass
        if line.reply.complete or line.gone or line.fault:
            return self._judge(line, question)
        self.tally.left[kind] += 1
        line.leave(reset=reset)
        return False

    def _judge(self, line: _Line, question: Question) -> bool:
        reply = line.reply
        if line.fault is not None:
            self._note(line, question, "wrong")
        elif not reply.head:
            self._note(line, question, "lost")
        elif reply.status != 200:
            self._note(line, question, "status" if reply.complete else "wrong")
        elif reply.complete:
            if reply.body == question.right:
                self.tally.right += 1
            else:
                self._note(line, question, "wrong")
        else:
            self._note(line, question, "broken" if _honest(bytes(reply.body), question) else "wrong")
        return reply.complete and not line.gone

    def _note(
        self, line: _Line, question: Question, what: Literal["status", "broken", "wrong", "hung", "lost"]
    ) -> None:
        reply = line.reply
        detail = f"{'stream' if question.stream else 'plain'} {bytes(reply.body[-200:])!r} {line.fault or ''}"
        status, name = (reply.status, reply.request_id) if reply.head else (0, "")
        self.tally.odd.append(Seen(what, name, status, detail))


def _honest(body: bytes, question: Question) -> bool:
    """Whether a broken answer is a beginning of the right one and, of a stream, ends with an error event, after which
    there is no `[DONE]`."""
    if not question.stream:
        return question.right.startswith(body)
    before, mark, event = body.rpartition(_ERROR)
    if not mark or not event.endswith(b"\n\n") or b"[DONE]" in event:
        return False
    # Rule 5: a blank line comes first unless the last bytes ended an event.
    return question.right.startswith(before) or question.right.startswith(before.removesuffix(b"\n\n"))


async def questions(address: str, simulator: str, key: str) -> list[Question]:
    """Each prompt, streamed and not, with what a simulator says to it."""
    found = []
    for prompt in PROMPTS:
        for stream in (True, False):
            body = {"model": MODEL, "stream": stream, "messages": [{"role": "user", "content": prompt}]}
            reply = await ask(simulator, body, {}, timeout=10)
            assert reply.complete and reply.status == 200, reply.head
            wire = _wire(address, body, {"authorization": f"Bearer {key}"})
            found.append(Question(stream, wire, bytes(reply.body)))
    return found


async def ask(address: str, body: Mapping[str, Any], headers: Mapping[str, str], timeout: float) -> Reply:
    """One request on a connection of its own; what came of its answer in so many seconds."""
    host, _, port = address.rpartition(":")
    transport, line = await asyncio.get_running_loop().create_connection(_Line, host, int(port))
    line.ask(_wire(address, body, headers))
    try:
        async with asyncio.timeout(timeout):
            await line.over.wait()
    except TimeoutError:
        pass
    finally:
        transport.abort()
    return line.reply


def _wire(host: str, body: Mapping[str, Any], headers: Mapping[str, str]) -> bytes:
    data = json.dumps(body).encode()
    pairs = {"host": host, "content-type": "application/json", **headers, "content-length": str(len(data))}
    lines = "".join(f"{name}: {value}\r\n" for name, value in pairs.items())
    return f"POST /v1/chat/completions HTTP/1.1\r\n{lines}\r\n".encode() + data
