"""Checks of a response beyond llhttp's, and the facts of it that the connection needs.

llhttp accepts, and this refuses: a Transfer-Encoding other than `chunked` (taking off the framing would lose the
coding), or one in HTTP/1.0; versions other than 1.0 and 1.1; a status below 100 or above 599; an unasked 101; interim
responses without end or with a body. What else RFC 9112 forbids (bare CR and LF, folded lines, control characters,
names that are no tokens, conflicting lengths, chunk sizes that are not plain hexadecimal) llhttp refuses; the tests
it to that.
"""

from collections.abc import Callable
from typing import Final, Protocol

from backends.http1.interface import Headers

HEADERS_LIMIT: Final = 256
"""Header lines of one head."""
INTERIM_LIMIT: Final = 16
"""Interim responses before the final one."""

_NOTED: Final = frozenset({b"content-length", b"transfer-encoding", b"keep-alive"})


class MalformedResponse(Exception):
    """Raised inside a callback of the parser, which ends the parsing."""


class ResponseParser(Protocol):
    """httptools.HttpResponseParser."""

    def feed_data(self, data: memoryview, /) -> None: ...
    def get_status_code(self) -> int: ...
    def get_http_version(self) -> str: ...
    def should_keep_alive(self) -> bool: ...


class ResponseReader:
    """The callbacks of a response parser. The connection reads the plain attributes between two reads of the socket."""

    __slots__ = (
        "bodiless",
        "chunked",
        "complete",
        "framed",
        "headers",
        "idle_limit",
        "interim",
        "keep",
        "length",
        "on_body",
        "parser",
        "parts",
        "status",
    )

    def __init__(self, new_parser: Callable[["ResponseReader"], ResponseParser]) -> None:
        self.parts: list[bytes] = []
        """Body bytes that have not been delivered."""
        # The list's own append: a chunk then costs no Python call.
        self.on_body = self.parts.append
        self.expect(bodiless=False)
        self.parser = new_parser(self)

    def expect(self, *, bodiless: bool) -> None:
        """Make ready for the next response; `bodiless` after a HEAD request."""
        self.bodiless = bodiless
        self.headers: Headers = []
        self.status = 0
        """Status of the final response, once its head is complete."""
        self.interim = 0
        self.complete = False
        self.chunked = False
        self.length: bytes | None = None
        self.framed = True
        """True if the body ends by length, chunk or status, and not with the connection."""
        self.keep = False
        """True if the server keeps the connection open."""
        self.idle_limit: float | None = None
        """Seconds for which the server lets the connection idle, where it says so."""

    def head_size(self) -> int:
        """Bytes of the header lines."""
        return sum(len(name) + len(value) + 4 for name, value in self.headers)

    # -- the parser's callbacks

    def on_message_begin(self) -> None:
        if self.complete:
            raise MalformedResponse("bytes after the end of the response")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.status:
            # A trailer: dropped, as RFC 9112 section 7.1.2 lets a recipient do.
            return
        headers = self.headers
        if len(headers) >= HEADERS_LIMIT:
            raise MalformedResponse(f"more than {HEADERS_LIMIT} header lines")
        name = name.lower()
        value = value.rstrip()
        if name in _NOTED:
            # The one that nearly every response has is noted here, without a call.
            if name == b"content-length":
                self.length = value
            else:
                self._note(name, value)
        headers.append((name, value))

    def _note(self, name: bytes, value: bytes) -> None:
        if name == b"keep-alive":
            self.idle_limit = _idle_limit(value)
        elif self.chunked or value.lower() != b"chunked":
            raise MalformedResponse("a Transfer-Encoding other than chunked")
        else:
            self.chunked = True

    def on_headers_complete(self) -> None:
        parser = self.parser
        status = parser.get_status_code()
        if status < 200:
            self._pass_over(status)
            return
        version = parser.get_http_version()
        if status > 599 or (version != "1.1" and (version != "1.0" or self.chunked)):
            raise MalformedResponse(f"status {status}, version {version}, chunked {self.chunked}")
        self.status = status
        self.keep = parser.should_keep_alive()
        if self.bodiless:
            # llhttp can't be told that there is no body, so it is stopped here.
            self.complete = True
            raise MalformedResponse("bytes after the head")
        self.framed = self.chunked or self.length is not None or status in (204, 304)

    def _pass_over(self, status: int) -> None:
        """Swallow an interim response (RFC 9110 section 15.2): it answers nothing that the client asked."""
        self.interim += 1
        if status == 101 or status < 100 or self.interim > INTERIM_LIMIT:
            raise MalformedResponse(f"interim status {status}, the {self.interim}. of the response")
        if self.chunked or self.length not in (None, b"0"):
            raise MalformedResponse("an interim response with a body")
        self.headers = []
        self.length = None
        self.idle_limit = None

    def on_message_complete(self) -> None:
        if self.status:
            self.complete = True


def _idle_limit(value: bytes) -> float | None:
    """Seconds that the server's `Keep-Alive: timeout=N` leaves us: a fifth of it is for the request's way there."""
    for parameter in value.split(b","):
        name, _, number = parameter.strip().partition(b"=")
        if name.lower() == b"timeout" and number.isdigit() and len(number) < 10:
            return 0.8 * int(number)
    return None
