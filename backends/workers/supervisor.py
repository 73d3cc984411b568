"""The supervisor: which workers there should be, and what is done about those that are not as they should be.

It decides; `launch` acts and `process` remembers. All of it runs on the event loop's thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Self

from backends.workers.child import ChildCallbacks
from backends.workers.launch import LaunchError, LaunchOrder
from backends.workers.process import WorkerAction, WorkerProcess, WorkerState
from backends.workers.ready import until_well
from backends.workers.spec import WorkerSpec, workers_of
from backends.workers.worker import ChildLauncher, Kind, StartedChild, Worker, WorkerEvent, WorkerTasks, WorkerView
from policies.config.settings import PoolSettings

__all__ = ["Supervisor", "WorkerEvent", "WorkerState", "WorkerView"]


async def _at_once(_worker: str) -> None:
    """Without word from whoever sends requests, there are none to wait for."""


class Supervisor:
    """Starts the workers of all pools and keeps them running.

    `changed` is called whenever a worker's state changes, `report` with what happened, `line` with a worker's name and
    what it printed; all three on the loop, and none may block. `drained(name)` returns when no request is open on a
    worker that is to go. `clock` is monotonic, in seconds, `chance` gives numbers in [0, 1).
    """

    def __init__(
        self,
        pools: Mapping[str, PoolSettings],
        *,
        launcher: ChildLauncher,
        changed: Callable[[], None],
        report: Callable[[WorkerEvent], None],
        line: Callable[[str, str], None],
        clock: Callable[[], float],
        chance: Callable[[], float],
        drained: Callable[[str], Awaitable[None]] = _at_once,
    ) -> None:
        self._pools = pools
        self._launcher = launcher
        self._changed = changed
        self._report = report
        self._line = line
        self._clock = clock
        self._chance = chance
        self._drained = drained
        self._workers: dict[str, Worker] = {}
        self._tasks = WorkerTasks()
        self._guarded = False
        self._closing = False
        self._settled = asyncio.Event()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop(hurry=False)

    async def start(self) -> None:
        """Starts every worker and returns at once; `changed` tells when they are ready."""
        await self.reconcile(self._pools)

    def workers(self) -> Sequence[WorkerView]:
        """Every worker there is, also those on their way out."""
        return [worker.view() for worker in self._workers.values()]

    async def reconcile(self, pools: Mapping[str, PoolSettings]) -> None:
        """Makes the workers those of a new policy; returns when all is under way.

        New ones start, surplus ones drain and stop, one whose command line or environment changed stops and starts;
        the rest are not touched: other settings of theirs hold from now on.
        """
        if self._closing:
            return
        wanted = {spec.name: spec for spec in workers_of(pools)}
        if wanted and not self._guarded:
            self._launcher.start()
            self._guarded = True
        for name, worker in list(self._workers.items()):
            if name not in wanted:
                self._want(worker, None)
        for name, spec in wanted.items():
            if name in self._workers:
                self._want(self._workers[name], spec)
            else:
                self._workers[name] = worker = Worker(spec, WorkerProcess(spec.care, self._chance))
                self._apply(worker, worker.process.start(self._clock()))

    async def stop(self, *, hurry: bool) -> None:
        """Ends every group: SIGTERM, then SIGKILL after `stop.kill_after`; in a hurry SIGKILL at once. May be called
        again, in a hurry, while it runs."""
        self._closing = True
        for worker in list(self._workers.values()):
            worker.wanted = None
            self._end(worker, drain=False, hurry=hurry)
        while self._workers:
            self._settled.clear()
            await self._settled.wait()
        self._tasks.cancel()
        if self._guarded:
            self._guarded = False
            await self._launcher.stop()

    def _want(self, worker: Worker, spec: WorkerSpec | None) -> None:
        worker.wanted = spec
        if spec is not None and spec.runs_like(worker.spec):
            worker.spec = spec
            worker.process.care = spec.care
        elif worker.process.state is not WorkerState.STOPPING:
            self._end(worker, drain=True, hurry=False)

    def _end(self, worker: Worker, *, drain: bool, hurry: bool) -> None:
        before = worker.process.state
        actions = worker.process.stop(self._clock(), drain=drain, hurry=hurry)
        if before is not WorkerState.STOPPING and worker.process.state is WorkerState.STOPPING:
            self._tell(worker, "stopping")
        self._apply(worker, actions)

    def _apply(self, worker: Worker, actions: tuple[WorkerAction, ...]) -> None:
        """Does what the machine asks, winds its timer and tells the world."""
        for action in actions:
            self._do(worker, action)
        if worker.timer is not None:
            worker.timer.cancel()
        due = worker.process.due
        loop = asyncio.get_running_loop()
        worker.timer = None if due is None else loop.call_later(max(0.0, due - self._clock()), self._tick, worker)
        if worker.watch is not None and worker.process.state is not WorkerState.STARTING:
            worker.watch.cancel()
            worker.watch = None
        if worker.process.state is WorkerState.STOPPED:
            self._stopped(worker)
        self._changed()

    def _do(self, worker: Worker, action: WorkerAction) -> None:
        name, child = worker.spec.name, worker.child
        if action is WorkerAction.START:
            self._start(worker)
        elif action is WorkerAction.DRAIN:
            self._tasks.spawn(self._drain(worker, worker.process), f"drain {name}")
        elif child is not None:
            if action is WorkerAction.TERMINATE:
                child.terminate()
            else:
                child.kill()

    def _start(self, worker: Worker) -> None:
        spec, process = worker.spec, worker.process
        worker.starts += 1
        order = LaunchOrder(spec.name, spec.argv, spec.env, spec.secrets, hold_ports=worker.hold_ports)
        calls = ChildCallbacks(
            exited=lambda reason: self._exited(worker, reason),
            gone=lambda: self._gone(worker),
            line=lambda text: self._line(spec.name, text),
        )
        try:
            worker.child = self._launcher.spawn(order, calls)
        except LaunchError as error:
            process.start_failed(self._clock(), str(error))
            self._tell(worker, "died", seconds=process.retry_in)
            return
        self._tell(worker, "starting")
        worker.watch = self._tasks.spawn(self._wait_for(worker, worker.child), f"start of {spec.name}")

    async def _wait_for(self, worker: Worker, child: StartedChild) -> None:
        host, port = child.url.removeprefix("http://").rsplit(":", 1)
        health = worker.spec.health
        unfit = await until_well(host, int(port), health, listener=child.listener, clock=self._clock)
        worker.watch = None
        process = worker.process
        if unfit is None:
            actions = process.healthy(self._clock())
            self._tell(worker, "ready", seconds=process.started_in or 0.0)
        else:
            actions = process.unfit(self._clock(), unfit)
            self._tell(worker, "died", seconds=process.retry_in)
        self._apply(worker, actions)

    async def _drain(self, worker: Worker, process: WorkerProcess) -> None:
        await self._drained(worker.spec.name)
        if process.state is WorkerState.STOPPING:
            self._apply(worker, process.drained(self._clock()))

    def _exited(self, worker: Worker, reason: str) -> None:
        before = worker.process.state
        actions = worker.process.exited(self._clock(), reason)
        if before is WorkerState.STARTING:
            # Perhaps its engine can't bind beside our reserved port: the next start tries it the other way.
            worker.hold_ports = not worker.hold_ports
        if before in (WorkerState.STARTING, WorkerState.READY):
            self._tell(worker, "died", seconds=worker.process.retry_in)
        self._apply(worker, actions)

    def _gone(self, worker: Worker) -> None:
        worker.child = None
        self._apply(worker, worker.process.gone(self._clock()))

    def _tick(self, worker: Worker) -> None:
        before = worker.process.state
        actions = worker.process.tick(self._clock())
        if before is WorkerState.STARTING and worker.process.state is WorkerState.BACKING_OFF:
            self._tell(worker, "died", seconds=worker.process.retry_in)
        self._apply(worker, actions)

    def _stopped(self, worker: Worker) -> None:
        if worker.wanted is not None and not self._closing:
            worker.spec = worker.wanted
            worker.process = WorkerProcess(worker.spec.care, self._chance)
            self._apply(worker, worker.process.start(self._clock()))
            return
        if self._workers.get(worker.spec.name) is worker:
            del self._workers[worker.spec.name]
            self._tell(worker, "stopped")
        self._settled.set()

    def _tell(self, worker: Worker, kind: Kind, seconds: float = 0.0) -> None:
        spec, child = worker.spec, worker.child
        pid = child.pid if child else None
        self._report(WorkerEvent(kind, spec.name, spec.pool, pid, worker.process.reason, seconds))
