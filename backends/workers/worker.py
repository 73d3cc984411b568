"""One worker: a name in a pool, with what is known of it and what can be told of it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Literal, Protocol

from backends.workers.child import ChildCallbacks
from backends.workers.groups import PortListener
from backends.workers.launch import LaunchOrder
from backends.workers.process import WorkerProcess, WorkerState
from backends.workers.spec import WorkerSpec

Kind = Literal["starting", "ready", "died", "stopping", "stopped"]


@dataclass(frozen=True, slots=True)
class WorkerEvent:
    """Event of a worker, for logs and metrics.

    `seconds` is how long the start took (ready) or how long until the next one (died).
    """

    kind: Kind
    worker: str
    pool: str
    pid: int | None = None
    reason: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class WorkerView:
    """One worker as it is now. `url` and `pid` are None while there is no child."""

    name: str
    pool: str
    state: WorkerState
    url: str | None
    pid: int | None
    starts: int
    """Children so far: two views with one number are the same child."""
    restarts: int
    reason: str
    """Reason for which the worker is not ready; empty when it is, or always was."""
    started_in: float | None
    """Seconds from the start of the child to its first good answer."""


class StartedChild(Protocol):
    """A started child, as far as decisions need it (`child.Child`)."""

    pid: int
    ports: tuple[int, ...]

    @property
    def url(self) -> str: ...
    async def listener(self) -> PortListener: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...


class ChildLauncher(Protocol):
    """Starter of children (`launch.WorkerLauncher`)."""

    def start(self) -> None: ...
    def spawn(self, order: LaunchOrder, calls: ChildCallbacks) -> StartedChild: ...
    async def stop(self) -> None: ...


class Worker:
    """One name in a pool: its machine, its child, its timer."""

    def __init__(self, spec: WorkerSpec, process: WorkerProcess) -> None:
        self.spec = spec
        self.wanted: WorkerSpec | None = spec
        self.process = process
        self.child: StartedChild | None = None
        self.starts = 0
        self.hold_ports = True
        self.timer: asyncio.TimerHandle | None = None
        self.watch: asyncio.Task[None] | None = None

    def view(self) -> WorkerView:
        process, child = self.process, self.child
        return WorkerView(
            name=self.spec.name,
            pool=self.spec.pool,
            state=process.state,
            url=child.url if child else None,
            pid=child.pid if child else None,
            starts=self.starts,
            restarts=process.restarts,
            reason=process.reason,
            started_in=process.started_in,
        )


class WorkerTasks:
    """The tasks of one owner: held until they end, and none fails unseen."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[object, object, None], name: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._done)
        return task

    def cancel(self) -> None:
        for task in self._running:
            task.cancel()

    def _done(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            task.get_loop().call_exception_handler({"message": f"{task.get_name()} failed", "exception": error})
