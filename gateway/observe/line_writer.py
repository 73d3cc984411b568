"""Lines to a file or a standard stream that may be full, stuck or rotated away, without ever holding up the loop.

The loop appends to a list; a thread of the writer's own takes the list every `delay` seconds and writes it with one
call. So a line costs the loop 0.1 us, and a blocked pipe blocks a thread that nobody waits for. What no longer fits is
dropped and counted, and said once until lines go through again. Where lines come often they come as finished bytes:
what the thread does in Python it does with the loop waiting for it.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable
from typing import Any, Final

STDOUT: Final = "-"
STDERR: Final = "stderr"
_STANDARD = {STDOUT: 1, STDERR: 2}

# Told from either thread: an event's name and its fields.
Complain = Callable[[str, dict[str, object]], None]


class LineWriter:
    """A bounded buffer of values in front of a file descriptor.

    `path` is a file's, `-` for stdout or `stderr`; `encode` turns a value into a line, in the thread, and may raise
    ValueError or TypeError; without it the values are lines, bytes with their newline. `complain` hears
    `log_lines_dropped` when lines begin to be lost and `log_lines_resumed` when they go through again. A file that
    can't be opened is tried again with every batch, and one that was renamed is opened anew: logging never keeps a
    gateway from serving.
    """

    def __init__(
        self,
        path: str,
        encode: Callable[[Any], bytes] | None = None,
        *,
        complain: Complain,
        capacity: int = 8192,
        delay: float = 0.05,
    ) -> None:
        self._file = _LogFile(path)
        self._path = path
        self._encode = encode
        self._complain = complain
        self._capacity = capacity
        self._delay = delay
        self._buffer: list[Any] = []
        self._wanted = threading.Event()
        self._idle = True
        self._closing = False
        self._losing = False
        self._refused = 0
        self._lost = 0
        self._thread = threading.Thread(target=self._run, name=f"log {path}", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Lines lost since the start."""
        return self._refused + self._lost

    @property
    def idle(self) -> bool:
        """True if every line handed over has been written or lost."""
        return self._idle

    def write(self, value: Any) -> None:
        """Take one value. Never blocks and never raises."""
        buffer = self._buffer
        if len(buffer) >= self._capacity:
            self.lose("buffer full")
            return
        buffer.append(value)
        if self._idle:
            self._idle = False
            self._wanted.set()

    def lose(self, reason: str) -> None:
        """Count and say that a value could not be made a line, by whoever writes lines."""
        self._refused += 1
        self._say_lost(reason)

    def reopen(self) -> None:
        """Open the path again before the next line (SIGHUP); needed only where a file was truncated in its place."""
        self._file.stale = True

    def close(self, timeout: float = 2.0) -> bool:
        """Write what is left and end the thread; False after `timeout` seconds: a stuck pipe keeps nobody."""
        self._closing = True
        self._wanted.set()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            if not self._buffer:
                self._idle = True
                # A value that came before the flag was up has set nothing: look again.
                if not self._buffer and not self._closing:
                    self._wanted.wait()
                self._wanted.clear()
            if self._closing and not self._buffer:
                break
            if not self._closing:
                # Nobody waits for this thread; while it sleeps a batch gathers.
                time.sleep(self._delay)
            # The list stays the same object: a writer that has just looked it up must not append to one that is gone.
            batch = self._buffer[:]
            del self._buffer[: len(batch)]
            self._put(batch)
        self._file.close()

    def _put(self, batch: list[Any]) -> None:
        lines, reason = (batch, "") if self._encode is None else self._encoded(batch, self._encode)
        written = 0
        try:
            written = self._file.write(lines)
        except OSError as error:
            reason = error.strerror or type(error).__name__
        self._lost += len(batch) - written
        if written < len(batch):
            self._say_lost(reason)
        elif self._losing and batch and len(self._buffer) < self._capacity:
            self._losing = False
            self._complain("log_lines_resumed", {"path": self._path, "dropped": self.dropped})

    def _encoded(self, batch: list[Any], encode: Callable[[Any], bytes]) -> tuple[list[bytes], str]:
        """The lines, and why the last of those that are missing can't be made."""
        lines, reason = [], ""
        for value in batch:
            try:
                lines.append(encode(value))
            except (ValueError, TypeError) as error:
                reason = str(error)
        return lines, reason

    def _say_lost(self, reason: str) -> None:
        if not self._losing:
            self._losing = True
            self._complain("log_lines_dropped", {"path": self._path, "reason": reason})


class _LogFile:
    """The descriptor of a log, by the writer's thread only (`stale` may be set by others)."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = _STANDARD.get(path, -1)
        self._standard = path in _STANDARD
        self._torn = False
        self.stale = False

    def write(self, lines: list[bytes]) -> int:
        """Append the lines, each with its newline; how many were wholly written. OSError when none could be."""
        if not lines:
            return 0
        self._open()
        # After a disk was full, half a line stands there: it must not take the next one with it.
        data = memoryview(b"".join([b"\n", *lines] if self._torn else lines))
        done = 0
        try:
            while done < len(data):
                done += self._write_some(data[done:])
        except OSError:
            if done == 0:
                raise
        self._torn = data[done - 1] != ord("\n")
        return len(lines) - bytes(data[done:]).count(b"\n")

    def close(self) -> None:
        if not self._standard and self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _write_some(self, data: memoryview) -> int:
        while True:
            try:
                return os.write(self._fd, data)
            except BlockingIOError:
                # A pipe that somebody else has made non-blocking: wait for its reader, as if it were blocking.
                poll = select.poll()
                poll.register(self._fd, select.POLLOUT)
                poll.poll()

    def _open(self) -> None:
        if self._standard or (self._fd >= 0 and not self.stale and self._is_at_its_path()):
            return
        self.stale = False
        try:
            fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except OSError:
            # Renamed, and no new one can be made: the old one is better than none.
            if self._fd < 0:
                raise
            return
        self.close()
        self._fd = fd
        self._torn = False

    def _is_at_its_path(self) -> bool:
        try:
            return os.path.samestat(os.stat(self._path), os.fstat(self._fd))
        except OSError:
            return False
