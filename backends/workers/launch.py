"""Starting, signalling and reaping: each worker in a session and process group of its own (setsid(2)).

A child is waited for through a pidfd, so that its death is an event of the loop, within a millisecond, on uvloop as on
asyncio; it stays a zombie, which keeps its group's number from being given to anyone else, until the group is empty.
Linux only (pidfd_open(2), /proc, PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from backends.workers import groups
from backends.workers.command import fill, ports_wanted
from backends.workers.guard import Guard
from backends.workers.output import Lines, Pipe
from backends.workers.ports import HOST, Ports

LEASH = Path(__file__).with_name("leash.py")
# What helpers of a child that has ended get to end by themselves: Python's resource tracker then unlinks the shared
# memory that a killed one leaves in /dev/shm.
HELPERS = 1.0
# A process that SIGKILL does not end by then hangs in the kernel; waiting on would not help.
KILLED = 10.0


class LaunchError(Exception):
    """A worker's process can't be started; the message says why."""


@dataclass(frozen=True, slots=True)
class Order:
    """What to start. `argv` holds placeholders (`command.fill`)."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)
    hold_ports: bool = True


@dataclass(frozen=True, slots=True)
class Calls:
    """Whom a child tells; all called from the loop. `exited` comes once, with the reason; then `gone`, once."""

    exited: Callable[[str], None]
    gone: Callable[[], None]
    line: Callable[[str], None]


class Launcher:
    """Starts children under the eyes of a guard. `environ` is what they inherit, `warn` takes a line for the log."""

    def __init__(
        self,
        *,
        warn: Callable[[str], None],
        clock: Callable[[], float],
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.guard = Guard(warn)
        self._warn = warn
        self._clock = clock
        self._environ = dict(os.environ if environ is None else environ)
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Starts the guard. Call it, and `spawn`, in the thread that lives as long as the gateway: the kernel
        takes the end of the thread that started a child for the end of its parent."""
        self._loop = asyncio.get_running_loop()
        self.guard.start(self._loop)

    async def stop(self) -> None:
        """Lets the guard go, which kills what was not ended before."""
        await self.guard.stop()

    def spawn(self, order: Order, calls: Calls) -> Child:
        """A started child. Raises LaunchError."""
        assert self._loop is not None, "start() comes first"
        ports = self._ports(order)
        try:
            process, output = self._popen(order, ports)
        except OSError as error:
            ports.release()
            raise LaunchError(f"{order.argv[0]}: {error.strerror or error}") from error
        self.guard.add(process.pid)
        if not order.hold_ports:
            ports.release()
        pipe = Pipe(self._loop, output, Lines(calls.line, self._clock, order.secrets))
        return Child(self._loop, process, ports, pipe, calls, self.guard, self._warn)

    def _ports(self, order: Order) -> Ports:
        try:
            return Ports(ports_wanted(order.argv))
        except OSError as error:
            raise LaunchError(f"no free port on {HOST}: {error.strerror}") from error

    def _popen(self, order: Order, ports: Ports) -> tuple[subprocess.Popen[bytes], int]:
        # No PYTHONUNBUFFERED: it makes of one print several writes, which mix with other processes' of the engine.
        env = self._environ | dict(order.env) | dict([self.guard.mark])
        program, *arguments = fill(order.argv, name=order.name, host=HOST, ports=ports.numbers)
        reader, writer = os.pipe()
        try:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(LEASH), str(os.getpid()), _find(program, env), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=writer,
                stderr=writer,
                start_new_session=True,
                env=env,
            )
        except OSError:
            os.close(reader)
            raise
        finally:
            os.close(writer)
        return process, reader


class Child:
    """One started child with its group, ports and output."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        process: subprocess.Popen[bytes],
        ports: Ports,
        pipe: Pipe,
        calls: Calls,
        guard: Guard,
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
        self._watch = os.pidfd_open(process.pid)
        loop.add_reader(self._watch, self._exited)

    @property
    def url(self) -> str:
        """Where its engine will answer."""
        return f"http://{HOST}:{self.ports[0]}"

    async def listener(self) -> groups.Listener:
        """Whose socket gets what is sent to the child's port."""
        return await asyncio.to_thread(groups.listener, HOST, self.ports[0], self.pid)

    def terminate(self) -> None:
        """Asks the first process to end. It alone: an engine that drains needs its helpers for that."""
        if self._ending is None:
            os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """Ends the whole group at once."""
        self._killed.set()
        self._signal(signal.SIGKILL)

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
            self._killed.set()
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
        try:
            while os.waitid(os.P_PGID, self.pid, os.WEXITED | os.WNOHANG) is not None:
                pass
        except ChildProcessError:
            return

    def _signal(self, number: signal.Signals) -> None:
        if self._process.returncode is None:
            try:
                os.killpg(self.pid, number)
            except ProcessLookupError:
                return


def _find(program: str, env: Mapping[str, str]) -> str:
    """The program's path. Engines installed beside us are found though their environment is not on the PATH."""
    path = os.pathsep.join((env.get("PATH", os.defpath), os.path.dirname(sys.executable)))
    found = shutil.which(program, path=path)
    if found is None:
        raise FileNotFoundError(2, "no such program", program)
    return found


def _reason(status: os.waitid_result | None, last: Sequence[str]) -> str:
    said = f": {last[-1][:200]}" if last else ""
    if status is None:
        return f"ended{said}"
    if status.si_code == os.CLD_EXITED:
        return f"exit code {status.si_status}{said}"
    try:
        name = signal.Signals(status.si_status).name
    except ValueError:
        name = f"signal {status.si_status}"
    # Only a kill from outside looks like this, most often by the kernel when memory runs out.
    return f"killed by {name}{said}"
