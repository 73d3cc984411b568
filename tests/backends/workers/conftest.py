"""Real workers: the supervisor with its launcher, over engines with bad habits."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from backends.workers.launch import WorkerLauncher
from backends.workers.supervisor import Supervisor
from backends.workers.worker import WorkerEvent, WorkerView
from policies.config.settings.pools import PoolSettings
from policies.config.settings.workers import RestartSettings, StopSettings, WorkerSettings
from tests.pace import own_timeout

ENGINE = Path(__file__).with_name("engine.py")


def pool(*habits: str, count: int = 1, **settings: object) -> PoolSettings:
    """A pool of engines with these habits that are restarted soon and killed soon."""
    defaults: dict[str, object] = {
        "command": (sys.executable, "-S", str(ENGINE), "{host}", "{port}", *habits),
        "restart": RestartSettings(backoff=0.1, max=0.2),
        "stop": StopSettings(drain=5.0, kill_after=0.3),
        "start_timeout": 20.0,
    }
    workers = WorkerSettings(count=count, **(defaults | settings))  # type: ignore[arg-type]
    return PoolSettings(engine="http", workers=workers)


@dataclass
class House:
    """A running supervisor and all that it told."""

    supervisor: Supervisor
    launcher: WorkerLauncher
    events: list[WorkerEvent] = field(default_factory=list)
    lines: list[tuple[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    moved: asyncio.Event = field(default_factory=asyncio.Event)

    async def until(self, holds: Callable[[], object], within: float = 10.0) -> None:
        """Waits for something that the supervisor tells of."""
        async with own_timeout(within):
            while not holds():
                self.moved.clear()
                await self.moved.wait()

    async def ready(self, count: int = 1) -> list[WorkerView]:
        await self.until(lambda: len(self.now("ready")) == count)
        return self.now("ready")

    def now(self, state: str) -> list[WorkerView]:
        return [view for view in self.supervisor.workers() if view.state == state]

    def kinds(self, worker: str = "p-w0") -> list[str]:
        return [event.kind for event in self.events if event.worker == worker]

    def segments(self) -> list[Path]:
        return [Path("/dev/shm", line.split()[1]) for _, line in self.lines if line.startswith("segment")]

    def helpers(self) -> list[int]:
        return [int(line.split()[1]) for _, line in self.lines if line.startswith("helper")]


@asynccontextmanager
async def house(*, drained: Callable[[str], object] | None = None, **pools: PoolSettings) -> AsyncIterator[House]:
    made: House

    def changed() -> None:
        made.moved.set()

    def report(event: WorkerEvent) -> None:
        made.events.append(event)
        made.moved.set()

    def line(worker: str, text: str) -> None:
        made.lines.append((worker, text))
        made.moved.set()

    def warn(text: str) -> None:
        made.warnings.append(text)
        made.moved.set()

    launcher = WorkerLauncher(warn=warn, clock=time.monotonic)
    extra = {} if drained is None else {"drained": drained}
    supervisor = Supervisor(
        pools,
        launcher=launcher,
        changed=changed,
        report=report,
        line=line,
        clock=time.monotonic,
        chance=lambda: 0.5,
        **extra,  # type: ignore[arg-type]
    )
    made = House(supervisor, launcher)
    await supervisor.start()
    try:
        yield made
    finally:
        await supervisor.stop(hurry=True)


def alive(pid: int) -> bool:
    """Whether a process is there and not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


async def become(holds: Callable[[], object], within: float = 2.0) -> None:
    """Waits for something that nobody tells of."""
    async with own_timeout(within):
        while not holds():  # noqa: ASYNC110 - the kernel's table of processes has no event for us
            await asyncio.sleep(0.005)


async def gone(*pids: int) -> None:
    """Waits until none of the processes is alive."""
    await become(lambda: not any(map(alive, pids)))


@pytest.fixture(autouse=True)
def no_zombie_is_left() -> Iterator[None]:
    """After every test: no child of it, neither running nor dead; servers of other modules' fixtures were there
    before."""

    def children() -> set[str]:
        return set(Path("/proc/thread-self/children").read_text().split())

    before = children()
    yield
    assert children() <= before
