"""Requests on which parsers may differ, and what an application behind uvicorn is told of them."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from typing import Any, Final

HEAD: Final = b"POST /v1/chat/completions HTTP/1.1\r\n"
TYPE: Final = b"Content-Type: application/json\r\n"
BODY: Final = b'{"model":"m"}'
SIZED: Final = TYPE + b"Content-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
CHUNKED: Final = b"Transfer-Encoding: chunked\r\n"
CHUNKS: Final = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
# What one case may take; a parser that lost a body lets the application wait for it.
PATIENCE: Final = 1.0


@dataclass(frozen=True, slots=True)
class Case:
    """A request, and what should become of it by RFC 9110 and 9112 (and by us, where they leave it open)."""

    name: str
    sent: bytes
    should: str
    """`200 BYTES` with the size of the body that reaches the application, or a status; `or` between alternatives."""
    source: str


_OK: Final = f"200 {len(BODY)}"
CASES: Final = (
    Case("plain POST", HEAD + b"Host: h\r\n" + SIZED, _OK, "9112 6.2"),
    Case("Upgrade: h2c with body", HEAD + b"Host: h\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
         b"HTTP2-Settings: AAMAAABk\r\n" + SIZED, _OK, "9110 7.8; the JDK's client"),
    Case("two Hosts", HEAD + b"Host: h\r\nHost: other\r\n" + SIZED, "400", "9112 3.2"),
    Case("no Host", HEAD + SIZED, "400", "9112 3.2"),
    Case("Host with a space", HEAD + b"Host: h other\r\n" + SIZED, "400", "9112 3.2"),
    Case("head of 80 KiB", HEAD + b"Host: h\r\n" + b"".join(b"X-%d: %b\r\n" % (number, b"x" * 1020)
         for number in range(80)) + SIZED, "431 or 400", "9110 5.4: a limit"),
    Case("one header of 80 KiB", HEAD + b"Host: h\r\nX-Long: " + b"x" * 81_920 + b"\r\n" + SIZED, "431 or 400",
         "9110 5.4: a limit"),
    Case("obs-fold", HEAD + b"Host: h\r\nX-Folded: a\r\n b\r\n" + SIZED, "400", "9112 5.2: or unfold"),
    Case("space before the colon", HEAD + b"Host: h\r\nX-Name : a\r\n" + SIZED, "400", "9112 5.1"),
    Case("NUL in a value", HEAD + b"Host: h\r\nX-Nul: a\0b\r\n" + SIZED, "400", "9110 5.5"),
    Case("bare CR in a value", HEAD + b"Host: h\r\nX-Cr: a\rb\r\n" + SIZED, "400", "9112 2.2"),
    Case("length and chunked", HEAD + b"Host: h\r\nContent-Length: 3\r\n" + CHUNKED + TYPE + b"\r\n" + CHUNKS, "400",
         "9112 6.3: smuggling"),
    Case("two lengths that differ", HEAD + b"Host: h\r\nContent-Length: 3\r\n" + SIZED, "400", "9112 6.3"),
    Case("Content-Length: +13", HEAD + b"Host: h\r\n" + SIZED.replace(b"h: ", b"h: +"), "400", "9112 6.3"),
    Case("chunked twice", HEAD + b"Host: h\r\n" + CHUNKED * 2 + TYPE + b"\r\n" + CHUNKS, "400", "9112 6.1"),
    Case("chunked in HTTP/1.0", HEAD.replace(b"1.1", b"1.0") + b"Host: h\r\n" + CHUNKED + TYPE + b"\r\n" + CHUNKS,
         f"400 or {_OK}", "9112 6.1: suspect"),
    Case("chunk size 0xd", HEAD + b"Host: h\r\n" + CHUNKED + b"\r\n0x" + CHUNKS, "400", "9112 7.1"),
    Case("chunk ends with a bare LF", HEAD + b"Host: h\r\n" + CHUNKED + b"\r\n" + CHUNKS.replace(b"}\r\n", b"}\n"),
         "400", "9112 7.1"),
    Case("trailers", HEAD + b"Host: h\r\n" + CHUNKED + b"\r\n" + CHUNKS[:-2] + b"X-Sum: 1\r\n\r\n", _OK, "9112 7.1.2"),
    Case("method in lower case", HEAD.lower().replace(b"http", b"HTTP") + b"Host: h\r\n" + SIZED, "400 or " + _OK,
         "9110 9.1: another method"),
    Case("an empty line first", b"\r\n" + HEAD + b"Host: h\r\n" + SIZED, _OK, "9112 2.2"),
)  # fmt: skip


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Tells which request it was given: the size of its body and the Hosts."""
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size, more = size + len(message["body"]), message["more_body"]
    hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
    body = json.dumps({"body": size, "hosts": hosts}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def outcome(address: str, case: Case) -> str:
    """What came of it: `STATUS`, `200 BYTES` (of the body, as the application saw it), `hangs` or `closed`."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as client:
        try:
            client.sendall(case.sent)
            answer = _first_answer(client)
        except TimeoutError:
            return "hangs"
        except ConnectionError:
            return "closed"
    head, _, body = answer.partition(b"\r\n\r\n")
    if not head:
        return "closed"
    status = head.split(b" ", 2)[1].decode()
    return f"200 {json.loads(body)['body']}" if status == "200" else status


def right(case: Case, came: str) -> bool:
    return came in case.should.split(" or ")


def _first_answer(client: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data or (data.startswith(b"HTTP/1.1 200") and not data.endswith(b"}")):
        part = client.recv(65536)
        if not part:
            break
        data += part
    return data
