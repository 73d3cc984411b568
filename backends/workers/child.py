"""One started child: its death, its group, its output.

A child is waited for through a pidfd, so that its death is an event of the loop, within a millisecond, on uvloop as on
asyncio; it stays a zombie, which keeps its group's number from being given to anyone else, until the group is empty.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from backends.workers import groups
from backends.workers.guard import OrphanGuard
from backends.workers.output import OutputPipe
from backends.workers.ports import HOST, FreePorts

# What helpers of a child that has ended get after SIGTERM ...
HELPERS = 1.0
# ... and its resource trackers, which need milliseconds, after the SIGKILL of the others.
TRACKERS = 0.5
# A process that SIGKILL does not end by then hangs in the kernel; waiting on would not help.
KILLED = 10.0


@dataclass(frozen=True, slots=True)
class ChildCallbacks:
    """Callbacks of a child, called from the loop. `exited` comes once, with the reason; then `gone`, once."""

    exited: Callable[[str], None]
    gone: Callable[[], None]
    line: Callable[[str], None]


class ChildProcess:
    """One started child with its group, ports and output."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        process: subprocess.Popen[bytes],
        watch: int,
        ports: FreePorts,
        pipe: OutputPipe,
        calls: ChildCallbacks,
        guard: OrphanGuard,
        warn: Callable[[str], None],
    ) -> None:
        self.pid = process.pid
        self.ports = ports.numbers
        self._loop = loop
        self._process = process
        self._held = ports
        self._pipe = pipe
        self._calls = calls
        self._guard = guard
        self._warn = warn
        self._killed = asyncio.Event()
        self._ending: asyncio.Task[None] | None = None
        self._watch = watch
        loop.add_reader(watch, self._exited)

    @property
    def url(self) -> str:
        """URL of the child's engine."""
        return f"http://{HOST}:{self.ports[0]}"

    async def listener(self) -> groups.PortListener:
        """Return the owner of the socket on the child's port."""
        return await asyncio.to_thread(groups.listener, HOST, self.ports[0], self.pid)

    def terminate(self) -> None:
        """Asks the first process to end. It alone: an engine that drains needs its helpers for that."""
        if self._ending is None:
            os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """Ends the group at once. Its resource trackers end themselves, or half a second later they are ended too."""
        self._killed.set()
        if self._process.returncode is None:
            for pid in groups.members(self.pid):
                if not groups.is_tracker(pid):
                    with contextlib.suppress(OSError):
                        os.kill(pid, signal.SIGKILL)

    def _exited(self) -> None:
        self._loop.remove_reader(self._watch)
        os.close(self._watch)
        self._pipe.take()
        status = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
        self._ending = self._loop.create_task(self._end(), name=f"end of process group {self.pid}")
        self._calls.exited(_reason(status, self._pipe.last_words))

    async def _end(self) -> None:
        empty = False
        try:
            await self._end_helpers()
            self.kill()
            await self._empty_within(TRACKERS)
            self._signal(signal.SIGKILL)
            empty = await self._empty_within(KILLED)
        finally:
            self._bury(empty)

    async def _end_helpers(self) -> None:
        if self._killed.is_set() or not await self._members():
            return
        self._signal(signal.SIGTERM)
        await self._empty_within(HELPERS, until=self._killed)

    async def _empty_within(self, seconds: float, until: asyncio.Event | None = None) -> bool:
        deadline = self._loop.time() + seconds
        pause = 0.005
        while await self._members():
            if self._loop.time() > deadline or (until is not None and until.is_set()):
                return False
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 0.1)
        return True

    async def _members(self) -> list[int]:
        return await asyncio.to_thread(groups.members, self.pid)

    def _bury(self, empty: bool) -> None:
        """The order counts: the number of the group is free for others as soon as its zombie is reaped."""
        if empty:
            self._guard.remove(self.pid)
        else:
            self._warn(f"processes of group {self.pid} outlive SIGKILL")
        self._process.wait()
        self._reap_adopted()
        self._pipe.close()
        self._held.release()
        self._calls.gone()

    def _reap_adopted(self) -> None:
        """Orphans of the group are ours where we are process 1 of a container."""
        with contextlib.suppress(ChildProcessError):
            while os.waitid(os.P_PGID, self.pid, os.WEXITED | os.WNOHANG) is not None:
                pass

    def _signal(self, number: signal.Signals) -> None:
        if self._process.returncode is None:
            with contextlib.suppress(OSError):
                os.killpg(self.pid, number)


def _reason(status: os.waitid_result | None, last: Sequence[str]) -> str:
    if status is None:
        return "ended"
    if status.si_code == os.CLD_EXITED:
        # Who ends of its own accord says nothing of use last; who fails mostly says why.
        said = f": {last[-1][:200]}" if last and status.si_status else ""
        return f"exit code {status.si_status}{said}"
    try:
        name = signal.Signals(status.si_status).name
    except ValueError:
        name = f"signal {status.si_status}"
    # Only a kill from outside looks like this, most often by the kernel when memory runs out.
    return f"killed by {name}"
