"""Starting workers: each in a session and process group of its own (setsid(2)), on ports of its own, under the guard.

Linux only (pidfd_open(2), /proc, PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from backends.workers.child import ChildCallbacks, ChildProcess
from backends.workers.command import fill, ports_wanted
from backends.workers.guard import OrphanGuard
from backends.workers.output import OutputLines, OutputPipe
from backends.workers.ports import HOST, FreePorts

LEASH = Path(__file__).with_name("leash.py")


class LaunchError(Exception):
    """A worker's process can't be started; the message says why."""


@dataclass(frozen=True, slots=True)
class LaunchOrder:
    """Order to start a worker. `argv` holds placeholders (`command.fill`)."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)
    hold_ports: bool = True


class WorkerLauncher:
    """Starts children under the eyes of a guard. `environ` is what they inherit, `warn` takes a line for the log."""

    def __init__(
        self,
        *,
        warn: Callable[[str], None],
        clock: Callable[[], float],
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.guard = OrphanGuard(warn)
        self._warn = warn
        self._clock = clock
        self._environ = dict(os.environ if environ is None else environ)
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Starts the guard. Call it, and `spawn`, in the thread that lives as long as the gateway: the kernel
        takes the end of the thread that started a child for the end of its parent."""
        self._loop = asyncio.get_running_loop()
        if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
            # Inherited from whoever started us; the kernel would reap our children before we know how they ended.
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self.guard.start(self._loop)

    async def stop(self) -> None:
        """Lets the guard go, which kills what was not ended before."""
        await self.guard.stop()

    def spawn(self, order: LaunchOrder, calls: ChildCallbacks) -> ChildProcess:
        """A started child. Raises LaunchError."""
        assert self._loop is not None, "start() comes first"
        ports = self._ports(order)
        with contextlib.ExitStack() as undo:
            undo.callback(ports.release)
            try:
                process, output = self._popen(order, ports)
                undo.callback(_discard, process, output)
                watch = os.pidfd_open(process.pid)
            except OSError as error:
                raise LaunchError(f"{order.argv[0]}: {error.strerror or error}") from error
            undo.pop_all()
        self.guard.add(process.pid)
        if not order.hold_ports:
            ports.release()
        pipe = OutputPipe(self._loop, output, OutputLines(calls.line, self._clock, order.secrets))
        return ChildProcess(self._loop, process, watch, ports, pipe, calls, self.guard, self._warn)

    def _ports(self, order: LaunchOrder) -> FreePorts:
        try:
            return FreePorts(ports_wanted(order.argv))
        except OSError as error:
            raise LaunchError(f"no free port on {HOST}: {error.strerror}") from error

    def _popen(self, order: LaunchOrder, ports: FreePorts) -> tuple[subprocess.Popen[bytes], int]:
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


def _find(program: str, env: Mapping[str, str]) -> str:
    """The program's path. Engines installed beside us are found though their environment is not on the PATH."""
    # Not shutil.which: shutil brings three compression libraries, 1 MB, for it.
    folders = [*env.get("PATH", os.defpath).split(os.pathsep), os.path.dirname(sys.executable)]
    for path in [program] if os.sep in program else [os.path.join(folder, program) for folder in folders]:
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    raise FileNotFoundError(errno.ENOENT, "no such program", program)


def _discard(process: subprocess.Popen[bytes], output: int) -> None:
    process.kill()
    process.wait()
    os.close(output)
