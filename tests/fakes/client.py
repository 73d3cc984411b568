"""A client that writes the bytes it is given and tells exactly what came back and how it ended."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from dataclasses import dataclass
from typing import Any, Literal

from tests.pace import own_timeout

End = Literal["complete", "cut", "eof"]


@dataclass(frozen=True, slots=True)
class Answer:
    """One response. `end` is how its body ended: as its framing says, before that, or (without framing) with the
    connection."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    end: End
    framing: Literal["chunked", "length", "none"]

    def header(self, name: str) -> str | None:
        """The value of a header that is there at most once; names are in lower case."""
        values = [value for each, value in self.headers if each == name]
        assert len(values) < 2, f"{name} came {len(values)} times: {values}"
        return values[0] if values else None

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> Any:
        """The `error` member of an error body."""
        return self.json["error"]

    @property
    def text(self) -> str:
        """What a chat answer says, streamed or not."""
        if self.header("content-type") == "application/json":
            text: str = self.json["choices"][0]["message"]["content"]
            return text
        return "".join(
            chunk["choices"][0]["delta"].get("content") or "" for chunk in self.chunks if chunk.get("choices")
        )

    @property
    def chunks(self) -> list[Any]:
        """The JSON of every `data:` event but `[DONE]`."""
        datas = [event.partition(b"data: ")[2] for event in self.body.split(b"\n\n") if b"data: " in event]
        return [json.loads(data) for data in datas if data != b"[DONE]"]


class Client:
    """One connection to a gateway. `async with await Client.to(address) as client:`"""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def to(cls, address: str, **options: Any) -> Client:
        """Connect to `host:port`."""
        host, _, port = address.rpartition(":")
        return cls(*await asyncio.open_connection(host, int(port), limit=1 << 26, **options))

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except OSError:
            # Reset by the other side: closed is closed.
            pass

    async def send(self, data: bytes) -> None:
        """Write bytes."""
        self.writer.write(data)
        await self.writer.drain()

    def half_close(self) -> None:
        """Send a FIN and go on reading."""
        self.writer.write_eof()

    def reset(self) -> None:
        """Send an RST."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def until(self, mark: bytes, timeout: float = 15.0) -> bytes:
        """Everything up to and with `mark`."""
        async with own_timeout(timeout):
            return await self.reader.readuntil(mark)

    async def rest(self, timeout: float = 15.0) -> bytes:
        """Everything until the connection ends; a reset counts as the end."""
        parts = []
        async with own_timeout(timeout):
            try:
                while part := await self.reader.read(1 << 16):
                    parts.append(part)
            except ConnectionError:
                pass
        return b"".join(parts)

    async def head(self, timeout: float = 20.0) -> tuple[int, list[tuple[str, str]]]:
        """The status and the headers of the next response; names in lower case."""
        head = (await self.until(b"\r\n\r\n", timeout)).decode("latin-1")
        first, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
        version, status, _ = first.split(" ", 2)
        assert version == "HTTP/1.1", first
        pairs = (line.split(": ", 1) for line in lines)
        return int(status), [(name.lower(), value) for name, value in pairs]

    async def answer(self, *, method: str = "POST", timeout: float = 20.0) -> Answer:
        """The next response, whole or as far as it came."""
        status, headers = await self.head(timeout)
        fields = dict(headers)
        async with own_timeout(timeout):
            if method == "HEAD" or status in (204, 304) or status < 200:
                return Answer(status, headers, b"", "complete", "none")
            if fields.get("transfer-encoding") == "chunked":
                assert "content-length" not in fields
                body, end = await self._chunked()
                return Answer(status, headers, body, end, "chunked")
            if "content-length" in fields:
                body, end = await self._sized(int(fields["content-length"]))
                return Answer(status, headers, body, end, "length")
            return Answer(status, headers, await self.rest(timeout), "eof", "none")

    async def _sized(self, length: int) -> tuple[bytes, End]:
        try:
            return await self.reader.readexactly(length), "complete"
        except asyncio.IncompleteReadError as error:
            return error.partial, "cut"
        except ConnectionError:
            return b"", "cut"

    async def _chunked(self) -> tuple[bytes, End]:
        parts: list[bytes] = []
        try:
            while True:
                size = int(await self.reader.readuntil(b"\r\n"), 16)
                part = await self.reader.readexactly(size + 2)
                assert part.endswith(b"\r\n")
                if size == 0:
                    return b"".join(parts), "complete"
                parts.append(part[:-2])
        except asyncio.IncompleteReadError as error:
            return b"".join([*parts, error.partial]), "cut"
        except ConnectionError:
            return b"".join(parts), "cut"


def request(
    method: str,
    path: str,
    body: bytes | None = None,
    headers: list[tuple[str, str]] | None = None,
    host: str = "gateway",
) -> bytes:
    """A request's bytes, with a Content-Length where there is a body."""
    pairs = [("host", host), *(headers or [])]
    if body is not None:
        pairs.append(("content-length", str(len(body))))
    lines = "".join(f"{name}: {value}\r\n" for name, value in pairs)
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode("latin-1") + (body or b"")
