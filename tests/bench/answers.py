"""Reading HTTP answers off a socket with as little work as can be: status, framing, payload, events."""

from __future__ import annotations

import re
from typing import Final

_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED: Final = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
FIRST_CONTENT: Final = re.compile(rb'"content": ?"[^"]')
"""In a chat stream. A role-only chunk has an empty `content`; a gateway may hold it back until there is more."""


class WrongAnswer(Exception):
    """Not the answer that was expected: the measurement is worth nothing."""


class Answer:
    """One answer, fed as it comes. `body` is its payload: chunk sizes are taken out."""

    __slots__ = ("_left", "_rest", "body", "complete", "first_content", "head")

    def __init__(self) -> None:
        self.head = b""
        self.body = bytearray()
        self.complete = False
        self.first_content = False
        self._left: int | None = None
        """Bytes to come; None: chunked."""
        self._rest = b""

    def feed(self, data: bytes) -> int:
        """Take what was read; how many events ended in it. Raises WrongAnswer for anything but a 200."""
        data = self._rest + data
        self._rest = b""
        if not self.head:
            end = data.find(b"\r\n\r\n") + 4
            if end < 4:
                self._rest = data
                return 0
            self._begin(data[:end])
            data = data[end:]
        before = len(self.body)
        if self._left is None:
            self._chunks(data)
        else:
            self._left -= len(data)
            self.body += data
            self.complete = self._left == 0
        if not self.first_content and FIRST_CONTENT.search(self.body, max(0, before - 20)) is not None:
            self.first_content = True
        return self.body.count(b"\n\n", max(0, before - 1))

    def _begin(self, head: bytes) -> None:
        if not head.startswith(b"HTTP/1.1 200 "):
            raise WrongAnswer(head.decode("latin-1"))
        self.head = head
        if _CHUNKED.search(head) is None:
            length = _LENGTH.search(head)
            if length is None:
                raise WrongAnswer(f"neither chunked nor of a known length: {head.decode('latin-1')}")
            self._left = int(length[1])

    def _chunks(self, data: bytes) -> None:
        at, end = 0, len(data)
        while at < end:
            line = data.find(b"\r\n", at)
            if line < 0:
                break
            size = int(data[at:line], 16)
            after = line + 2 + size
            if after + 2 > end:
                break
            if size == 0:
                self.complete = True
                return
            self.body += data[line + 2 : after]
            at = after + 2
        # A chunk that is not whole waits for its rest.
        self._rest = data[at:]
