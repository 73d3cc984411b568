"""Output of a worker, cut into lines of bounded length and number."""

from __future__ import annotations

import os
import re
from asyncio import AbstractEventLoop
from collections import deque
from collections.abc import Callable

LONGEST = 2000
PER_SECOND = 500
READ = 65536
COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
# A line of a worker's must not be able to look like another line, or move the operator's cursor.
UNPRINTABLE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")


class OutputLines:
    """Bytes in, lines out: at most LONGEST bytes a line and PER_SECOND lines a second, the rest is counted.

    `last` holds the last few lines, for the reason of a death. `secrets` are blotted out.
    """

    def __init__(self, line: Callable[[str], None], clock: Callable[[], float], secrets: tuple[str, ...] = ()) -> None:
        self.last: deque[str] = deque(maxlen=5)
        self._line = line
        self._clock = clock
        self._secrets = secrets
        self._rest = b""
        self._cut = 0
        self._second = clock()
        self._printed = 0
        self._left_out = 0

    def feed(self, data: bytes) -> None:
        """Takes a piece of output, cut anywhere."""
        *whole, rest = data.split(b"\n")
        if whole:
            self._take(whole)
        self._extend(rest)

    def end(self) -> None:
        """The output is over: what stands without a line's end is a line too."""
        if self._rest:
            self._take([b""])
        self._say_left_out()

    def _take(self, whole: list[bytes]) -> None:
        now = self._clock()
        if now - self._second >= 1.0:
            self._say_left_out()
            self._second, self._printed = now, 0
        room = PER_SECOND - self._printed
        for each in whole[:room]:
            self._line(self._finish(each))
        beyond = whole[room:]
        if beyond:
            # Only counted: a worker that prints nothing but line ends would keep the loop busy.
            self._finish(beyond[-1])
            self._left_out += len(beyond)
        self._printed += len(whole) - len(beyond)

    def _extend(self, data: bytes) -> None:
        room = LONGEST - len(self._rest)
        self._rest += data[:room]
        self._cut += max(0, len(data) - room)

    def _finish(self, data: bytes) -> str:
        self._extend(data)
        text = self._rest.decode("utf-8", "replace").rstrip("\r")
        # A progress bar rewrites its line: what it last showed is the line.
        text = UNPRINTABLE.sub("?", COLOUR.sub("", text.rpartition("\r")[2]))
        for secret in self._secrets:
            text = text.replace(secret, "***")
        if self._cut:
            text += f" ... {self._cut} bytes more"
        self._rest, self._cut = b"", 0
        if text and not text.isspace():
            self.last.append(text)
        return text

    def _say_left_out(self) -> None:
        if self._left_out:
            self._line(f"... {self._left_out} lines left out: more than {PER_SECOND} a second")
            self._left_out = 0


class OutputPipe:
    """Reads a worker's output from the event loop, always and at once, so that the worker never waits for us."""

    def __init__(self, loop: AbstractEventLoop, descriptor: int, lines: OutputLines) -> None:
        self._loop = loop
        self._descriptor = descriptor
        self._lines = lines
        self._open = True
        os.set_blocking(descriptor, False)
        loop.add_reader(descriptor, self._read)

    @property
    def last_words(self) -> tuple[str, ...]:
        """The last lines that were not blank."""
        return tuple(self._lines.last)

    def take(self) -> None:
        """Takes what is in the pipe now: the last words of a worker that has just died."""
        for _ in range(16):
            if not self._open or not self._read():
                return

    def close(self) -> None:
        """Takes what is still there, then closes. A process that has left the group may still hold the other end."""
        self.take()
        self._end()

    def _read(self) -> bool:
        try:
            data = os.read(self._descriptor, READ)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if data:
            self._lines.feed(data)
            return True
        self._end()
        return False

    def _end(self) -> None:
        if self._open:
            self._open = False
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._lines.end()
