"""A client that hides nothing: what came byte for byte, in which HTTP chunks, and how the connection ended."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

RECORDED = Path(__file__).with_name("recorded")
CHAT = "/v1/chat/completions"
HI: dict[str, Any] = {"model": "simulator", "messages": [{"role": "user", "content": "Say hello"}]}


@dataclass
class Answer:
    """`end`: done = the message was whole; cut = FIN before its end; reset = RST."""

    status: int
    headers: dict[str, str]
    body: bytes
    chunks: list[bytes] = field(default_factory=list)
    end: Literal["done", "cut", "reset"] = "done"

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[bytes]:
        return self.body.split(b"\n\n")[:-1]

    @property
    def data(self) -> list[Any]:
        """The JSON of each event; [DONE] as it is."""
        rows = [event.rpartition(b"data: ")[2] for event in self.events if not event.startswith(b":")]
        return [row.decode() if row == b"[DONE]" else json.loads(row) for row in rows]


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def to(cls, port: int) -> Client:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    def send(
        self, body: Any = None, path: str = CHAT, method: str = "POST", headers: Mapping[str, str] | None = None
    ) -> None:
        data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        rows = {"host": "x", "content-type": "application/json"} | dict(headers or {})
        if body is not None:
            rows["content-length"] = str(len(data))
        head = "".join(f"{name}: {value}\r\n" for name, value in rows.items() if value)
        self.writer.write(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + data)

    async def head(self) -> tuple[int, dict[str, str]]:
        head = await self.reader.readuntil(b"\r\n\r\n")
        first, *rows = head.decode("latin-1").split("\r\n")[:-2]
        return int(first.split()[1]), dict(row.split(": ", 1) for row in rows)

    async def answer(self, *, to_head: bool = False) -> Answer:
        status, headers = await self.head()
        answer = Answer(status, headers, b"")
        try:
            if "transfer-encoding" in headers:
                await self._chunks(answer)
            elif not to_head:
                answer.body = await self._exactly(int(headers["content-length"]), answer)
        except ConnectionResetError:
            answer.end = "reset"
        answer.body = answer.body or b"".join(answer.chunks)
        return answer

    async def _chunks(self, answer: Answer) -> None:
        while True:
            line = await self.reader.readline()
            if not line.endswith(b"\n"):
                answer.end = "cut"
                return
            size = int(line, 16)
            if size == 0:
                await self.reader.readexactly(2)
                return
            answer.chunks.append(b"")
            chunk = await self._exactly(size, answer)
            answer.chunks[-1] = chunk
            if answer.end != "done":
                return
            await self.reader.readexactly(2)

    async def _exactly(self, size: int, answer: Answer) -> bytes:
        """So many bytes, or what there were before the end; a reset loses none of them."""
        got = b""
        while len(got) < size:
            try:
                data = await self.reader.read(size - len(got))
            except ConnectionResetError:
                answer.end = "reset"
                return got
            if not data:
                answer.end = "cut"
                return got
            got += data
        return got

    async def chunk(self) -> bytes:
        """The next chunk of a chunked body, after its head was read."""
        size = int(await self.reader.readline(), 16)
        return (await self.reader.readexactly(size + 2))[:-2]

    async def rest(self) -> Answer:
        """All chunks that are left of a chunked body."""
        answer = Answer(200, {}, b"")
        await self._chunks(answer)
        answer.body = b"".join(answer.chunks)
        return answer

    async def closed(self) -> bool:
        """Whether the other side has closed, with nothing more to read."""
        return await self.reader.read(1) == b""

    async def close(self) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except ConnectionResetError:
            pass

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


async def ask(
    port: int, body: Any = None, path: str = CHAT, method: str = "POST", headers: Mapping[str, str] | None = None
) -> Answer:
    """One request on a connection of its own; ten seconds at most."""
    async with asyncio.timeout(10), await Client.to(port) as client:
        client.send(body, path, method, headers)
        return await client.answer(to_head=method == "HEAD")


def recorded(name: str) -> Answer:
    """What a vLLM 0.32.0 wrote."""
    head, body = re.split(rb"\r?\n\r?\n", (RECORDED / f"{name}.txt").read_bytes(), maxsplit=1)
    first, *rows = head.decode().splitlines()
    return Answer(int(first.split()[1]), dict(row.split(": ", 1) for row in rows), body)
