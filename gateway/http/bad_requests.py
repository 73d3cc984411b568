"""Malformed requests: the known part of an incomplete head, and the error that its client gets."""

import re
from dataclasses import dataclass
from typing import Any, Final

from gateway.errors import BadHost, GatewayError, HeadersTooLarge, InvalidRequest, UriTooLong, error_body
from gateway.http.headers import Headers
from gateway.http.request import ClientRequest

# The parser's own limits (zttp 0.0.35): headers a head, and bytes a line, the first one included.
MAX_HEADERS: Final = 100
MAX_LINE: Final = 16 * 1024
# So much of a first line is kept for the log and to tell the path's family.
LINE_KEPT: Final = 1024
_HOST: Final = re.compile(rb"(?i)\nhost:")
_HOST_TAIL: Final = 5
_END: Final = b"\r\n\r\n"
_LINE: Final = re.compile(rb"([!#-'*+.0-9A-Z^-z|~-]{1,32}) ([^ ?]*)(?:\?[^ ]*)?(?: |\r?$|$)")


@dataclass(frozen=True, slots=True)
class PartialRequest:
    """Fields that ClientRequest reads of a parsed head, for a head that was never whole. The query is left out: it may
    be cut."""

    method: bytes
    path: bytes
    query: bytes = b""
    http_version: bytes = b"1.1"
    expect_continue: bool = False
    end_stream: bool = False


class PartialHead:
    """Incomplete head of a request. Created only for heads that do not come in one read; the parser keeps the bytes."""

    __slots__ = ("_ended", "_hosts", "_size", "_tail", "began", "line", "line_whole")

    def __init__(self, began: float) -> None:
        self.began = began
        """Arrival of its first part, on the gateway's monotonic clock."""
        self.line = b""
        """The beginning of its first line."""
        self.line_whole = False
        self._size = 0
        self._hosts = 0
        self._tail = b""
        self._ended = False

    def feed(self, data: bytes, limit: int) -> None:
        """The next part; a first line longer than `limit` bytes is never whole."""
        if not self.line_whole:
            first, newline, _ = data[: max(0, limit - self._size)].partition(b"\n")
            self.line = (self.line + first)[:LINE_KEPT]
            self.line_whole = bool(newline)
            self._size += len(data)
        if not self._ended:
            head = self._tail + data
            end = head.find(_END)
            self._ended = end >= 0
            self._hosts += len(_HOST.findall(head, 0, end if end >= 0 else len(head)))
            self._tail = head[-_HOST_TAIL:]

    @property
    def host_missing(self) -> bool:
        """True if the head has no Host header or more than one: RFC 9112 section 3.2 wants one."""
        return self._hosts > 1 or (self._ended and not self._hosts)

    def request(self) -> PartialRequest:
        """Return method and path, as far as they came; both are empty where the line is not HTTP."""
        found = _LINE.match(self.line)
        return PartialRequest(b"", b"") if found is None else PartialRequest(found[1], found[2])


class RefusedRequest(Exception):
    """A whole head that is over a limit of ours."""

    def __init__(self, error: GatewayError) -> None:
        self.error = error


def refusal(why: str, partial: PartialHead | None, max_head: int) -> GatewayError:
    """Return the error for the parser's message `why`. `partial` is None where a whole head was read before."""
    if "size limit" in why:
        return too_large(partial is None or partial.line_whole, max_head)
    if "header field" in why and partial is not None and partial.host_missing:
        return BadHost("A request has one Host header: one host, with or without a port.")
    return InvalidRequest(f"The request is not valid HTTP/1.1: {why}.")


def too_large(line_whole: bool, max_head: int) -> GatewayError:
    """Return the error for a head over one of the limits: its first line where that is not whole, else its headers."""
    line = min(max_head, MAX_LINE)
    if not line_whole:
        return UriTooLong(f"The URL is over the limit of {line} bytes.")
    return HeadersTooLarge(
        f"The headers are over the limit: {max_head} bytes in all (server.max_head), {line} bytes each, "
        f"{MAX_HEADERS} of them."
    )


def answer(request: ClientRequest, error: GatewayError) -> None:
    """Answer without a request handler: nothing is counted or logged, and the body always has OpenAI's shape."""
    body = error_body(error, "openai")
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    request.start(error.status, headers, length_known=True)
    request.finish(body)


def head_size(request: Any, headers: Headers) -> int:
    """Return the bytes of a parsed head, blanks and its last line left out."""
    return len(request.target) + sum(len(name) + len(value) + 4 for name, value in headers)


def nothing_waits(request: ClientRequest, fed: int) -> bool:
    """Return True if the `fed` bytes given to the parser since the previous request were that request alone, so that
    new bytes begin the next one. The parser does not report this; a head is counted with one blank a header."""
    length = 0
    size = len(request.method) + len(request.raw_path) + len(request.http_version) + len(b"  HTTP/\r\n\r\n")
    size += len(request.query) + 1 if request.query else 0
    for name, value in request.headers:
        size += len(name) + len(value) + len(b": \r\n")
        if name == b"content-length":
            length = int(value)
        elif name == b"transfer-encoding":
            return False
    return fed <= size + length
