"""Streams that run beside the test: read in a thread, looked at while they run."""

import json
import socket
import threading
import time
from contextlib import suppress
from typing import Any, Self

from tests.engines import wire
from tests.engines.clients import Target
from tests.engines.payloads import CHAT, ask
from tests.engines.test_leaving import send


class Stream:
    """A streamed chat of exactly `tokens` tokens whose prompt begins with `mark`. Leaving its `with` leaves the answer.

    The gateway gives nothing of an answer before its first content, so the first byte of it says that it has begun.
    """

    def __init__(self, target: Target, mark: str, tokens: int) -> None:
        self.mark = mark
        self.began: float | None = None
        """When its first byte came, `time.monotonic`."""
        self.left = False
        self._got = bytearray()
        asked = {"max_tokens": tokens, "ignore_eos": True, "stream": True}
        self._connection = send(target, CHAT, ask(CHAT, mark, asked).payload)
        self._connection.settimeout(60)
        self._thread = threading.Thread(target=self._read, name=f"stream {mark}", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.leave()

    def _read(self) -> None:
        try:
            while data := self._connection.recv(1 << 16):
                self.began = self.began or time.monotonic()
                self._got += data
                # The last chunk; no event of vLLM's ends so.
                if self._got.endswith(b"\r\n0\r\n\r\n") or not self._chunked():
                    return
        except OSError:
            return

    def _chunked(self) -> bool:
        return b"transfer-encoding: chunked" in self._got.lower().partition(b"\r\n\r\n")[0]

    @property
    def size(self) -> int:
        """Bytes so far."""
        return len(self._got)

    def leave(self) -> None:
        """Close the connection, whatever has come."""
        self.left = True
        # A socket that a thread reads is not closed before that has read something.
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self._connection.close()

    def end(self, within: float) -> "End":
        """What it came to; it must be over within so many seconds."""
        self._thread.join(within)
        assert not self._thread.is_alive(), f"{self.mark} is not over within {within} s: {bytes(self._got[-300:])!r}"
        answer = wire.read(bytes(self._got), closed=True)
        assert answer is not None, "it ended without a head"
        return End(answer[0])


class End:
    """A stream that is over, or an error in its place."""

    def __init__(self, answer: wire.Message) -> None:
        self.status = answer.status
        self.headers = answer.headers
        self.body = answer.body
        self.framed = answer.whole

    @property
    def complete(self) -> bool:
        """Whether it is a whole stream, by HTTP's word and by OpenAI's."""
        return self.status == 200 and self.framed and self.body.endswith(b"data: [DONE]\n\n")

    @property
    def events(self) -> list[dict[str, Any]]:
        """The objects of its events, or of an answer that is no stream."""
        if not self.body.startswith(b"data:"):
            return [json.loads(self.body)]
        parts = [part.removeprefix(b"data: ") for part in self.body.split(b"\n\n") if part]
        return [json.loads(part) for part in parts if part != b"[DONE]"]

    @property
    def error(self) -> str | None:
        """The code of the error that is the last thing it said."""
        error = self.events[-1].get("error")
        return None if error is None else str(error["code"])
