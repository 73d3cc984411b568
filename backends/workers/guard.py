"""Our end of the guard: the process that ends all workers should we be killed with -9."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

SCRIPT = Path(__file__).with_name("guard_process.py")
AGAIN = 1.0
LET_GO = 2.0


class OrphanGuard:
    """A guard process that knows our workers' groups; started anew if somebody kills it.

    `mark` is the name and value that every worker must have in its environment.
    """

    def __init__(self, warn: Callable[[str], None]) -> None:
        self.mark = ("SLUICE_WORKERS", os.urandom(16).hex())
        self._warn = warn
        self._groups: set[int] = set()
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe = -1
        self._watch = -1
        self._stopping = False
        self._ended = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def pid(self) -> int | None:
        """The guard's process; None while there is none."""
        return self._process.pid if self._process else None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Raises OSError where no process can be started."""
        self._loop = loop
        self._stopping = False
        self._ended.clear()
        # Close-on-exec, as all descriptors of Python's: no worker can hold this end open.
        reader, self._pipe = os.pipe()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(SCRIPT), "=".join(self.mark)],
                stdin=reader,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                # Neither Ctrl-C in the terminal nor a kill of the gateway's group reaches it.
                start_new_session=True,
            )
            self._watch = os.pidfd_open(self._process.pid)
        except OSError:
            # A guard that was started reads the end of its pipe and goes.
            self._close_pipe()
            self._process = None
            raise
        finally:
            os.close(reader)
        os.set_blocking(self._pipe, False)
        loop.add_reader(self._watch, self._died)
        for group in self._groups:
            self._tell(f"+{group}\n")

    def add(self, group: int) -> None:
        """The group is to be killed when we are gone."""
        self._groups.add(group)
        self._tell(f"+{group}\n")

    def remove(self, group: int) -> None:
        """The group is empty, and its number may be given to another."""
        self._groups.discard(group)
        self._tell(f"-{group}\n")

    async def stop(self) -> None:
        """Lets the guard go: it reads the end of the pipe, kills whatever is left and exits. Takes 2 s at most."""
        self._stopping = True
        if self._process is None:
            return
        self._close_pipe()
        try:
            async with asyncio.timeout(LET_GO):
                await self._ended.wait()
        except TimeoutError:
            self._process.kill()
            self._process.wait()

    def _tell(self, line: str) -> None:
        if self._pipe < 0:
            return
        try:
            os.write(self._pipe, line.encode())
        except BlockingIOError:
            # It has not read for a thousand lines: a guard that is stopped guards nobody.
            if self._process is not None:
                self._process.kill()
        except OSError:
            # It is dead: `_died` starts another one, which is told the whole book.
            return

    def _died(self) -> None:
        assert self._loop is not None and self._process is not None
        self._loop.remove_reader(self._watch)
        os.close(self._watch)
        self._close_pipe()
        status = self._process.wait()
        self._process = None
        self._ended.set()
        if not self._stopping:
            self._warn(f"the guard of the workers died ({status}); starting another one")
            self._loop.call_later(AGAIN, self._again)

    def _again(self) -> None:
        if self._stopping or self._loop is None:
            return
        try:
            self.start(self._loop)
        except OSError as error:
            self._warn(f"no guard for the workers: {error.strerror}; trying again")
            self._loop.call_later(AGAIN, self._again)

    def _close_pipe(self) -> None:
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1
