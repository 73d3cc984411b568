"""Reads HTTP/1.1 messages out of captured bytes: a small strict reader, apart from the one under test."""

import re
from dataclasses import dataclass

from tests.fakes.tap import Tapped

_CHUNK_SIZE = re.compile(rb"([0-9a-fA-F]+)\r\n")
_BODILESS = frozenset({204, 304})


@dataclass(frozen=True, slots=True)
class Message:
    """A request or an answer. `body` is without its framing; `whole` is False where the end has not come."""

    start: str
    headers: dict[str, str]
    body: bytes
    whole: bool

    @property
    def status(self) -> int:
        """Of an answer."""
        return int(self.start.split(" ", 2)[1])


@dataclass(frozen=True, slots=True)
class Seen:
    """One exchange as the tap saw it; `answer` is None while not even its head is there."""

    request: Message
    answer: Message | None
    on: Tapped


def dechunked(data: bytes) -> tuple[bytes, int | None]:
    """The body in a chunked coding and how many bytes that coding took (None: the last chunk has not come).

    Raises ValueError for anything else than RFC 9112 section 7.1 without extensions and trailers.
    """
    body, at = bytearray(), 0
    while True:
        size = _CHUNK_SIZE.match(data, at)
        if size is None:
            if b"\r\n" in data[at:]:
                raise ValueError(f"no chunk size at byte {at}: {bytes(data[at : at + 40])!r}")
            return bytes(body), None
        length = int(size[1], 16)
        begin = size.end()
        if len(data) < begin + length + 2:
            body += data[begin : begin + length]
            return bytes(body), None
        if data[begin + length : begin + length + 2] != b"\r\n":
            raise ValueError(f"no end of line after the chunk at byte {at}")
        body += data[begin : begin + length]
        at = begin + length + 2
        if length == 0:
            return bytes(body), at


def read(data: bytes, *, closed: bool) -> tuple[Message, int] | None:
    """The first message in `data` and its length in bytes; None where its head is not complete.

    `closed`: no more will come. Interim (1xx) answers are passed over.
    """
    head, found, _ = data.partition(b"\r\n\r\n")
    if not found:
        return None
    begin = len(head) + 4
    start, *lines = head.decode("latin-1").split("\r\n")
    headers: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        if name.lower() in headers and name.lower() in ("content-length", "transfer-encoding"):
            raise ValueError(f"two {name}")
        headers[name.lower()] = value.strip()
    is_answer = start.startswith("HTTP/")
    status = int(start.split(" ", 2)[1]) if is_answer else 0
    if 100 <= status < 200:
        later = read(data[begin:], closed=closed)
        return None if later is None else (later[0], begin + later[1])
    body, end = _body(data, begin, headers, framed=not is_answer or status in _BODILESS, closed=closed)
    return Message(start, headers, body, end is not None), len(data) if end is None else end


def _body(data: bytes, begin: int, headers: dict[str, str], *, framed: bool, closed: bool) -> tuple[bytes, int | None]:
    """The body and where it ends in `data`. `framed`: without a length there is no body (else it runs to the close)."""
    if "transfer-encoding" in headers:
        if headers["transfer-encoding"].lower() != "chunked" or "content-length" in headers:
            raise ValueError(f"framing that nobody should send: {headers}")
        body, took = dechunked(data[begin:])
        return body, None if took is None else begin + took
    if "content-length" in headers:
        end = begin + int(headers["content-length"])
        return data[begin:end], end if end <= len(data) else None
    if framed:
        return b"", begin
    return data[begin:], len(data) if closed else None


def exchanges(connection: Tapped) -> list[Seen]:
    """Every exchange of a connection, in order. Raises ValueError where one side did not speak HTTP/1.1."""
    requests = _messages(bytes(connection.to_server), closed=connection.client_left is not None)
    answers: list[Message | None] = [*_messages(bytes(connection.to_client), closed=connection.server_left is not None)]
    if len(answers) > len(requests):
        raise ValueError(f"{len(answers)} answers to {len(requests)} requests")
    answers += [None] * (len(requests) - len(answers))
    return [Seen(request, answer, connection) for request, answer in zip(requests, answers, strict=True)]


def _messages(data: bytes, *, closed: bool) -> list[Message]:
    found, at = [], 0
    while at < len(data):
        next_one = read(data[at:], closed=closed)
        if next_one is None:
            break
        found.append(next_one[0])
        at += next_one[1]
    return found
