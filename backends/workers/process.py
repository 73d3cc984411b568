"""One child's state machine: events in, actions out. No I/O, and the time is told.

STOPPED -- start --> STARTING -- healthy --> READY
STARTING -- start_timeout, unfit, exit --> BACKING_OFF
READY -- exit, with whatever status: an engine that ends has died --> BACKING_OFF
BACKING_OFF -- its time is up and the old group is gone --> STARTING
any -- stop --> STOPPING (drain, SIGTERM, SIGKILL) -- gone --> STOPPED
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, StrEnum

# Whatever the settings say: a command that fails at once must not keep a core busy ...
SOONEST = 0.1
# ... and a child that lives for a moment has not been well.
FORGIVEN = 10.0


class WorkerState(StrEnum):
    """State of a worker; the values of `sluice_worker_state`."""

    STARTING = "starting"
    READY = "ready"
    BACKING_OFF = "backing_off"
    STOPPING = "stopping"
    STOPPED = "stopped"


class WorkerAction(Enum):
    """Action that the state machine requests from its caller."""

    START = "start the child"
    DRAIN = "wait until it has no open request, then say `drained`"
    TERMINATE = "SIGTERM to the child"
    KILL = "SIGKILL to its group"


class StopTimes(Enum):
    """Times of a stop under way."""

    NOT = 0
    DRAINING = 1
    TERMINATING = 2
    KILLING = 3


@dataclass(frozen=True, slots=True)
class RestartRules:
    """Rules of a worker's restarts and stops; lengths in seconds. May change while it runs."""

    start_timeout: float = 600.0
    backoff: float = 1.0
    max_backoff: float = 60.0
    drain: float = 30.0
    kill_after: float = 10.0


class WorkerProcess:
    """The state of one worker over all the children that it has had.

    `chance` gives numbers in [0, 1). Every method takes the time (monotonic, in seconds) and returns what to do.
    """

    def __init__(self, care: RestartRules, chance: Callable[[], float]) -> None:
        self.care = care
        self.state = WorkerState.STOPPED
        self.reason = ""
        self.restarts = 0
        self.started_in: float | None = None
        self.retry_in = 0.0
        self._chance = chance
        self._failures = 0
        self._alive = False
        self._stopping = StopTimes.NOT
        self._since = 0.0
        self._due: float | None = None

    @property
    def due(self) -> float | None:
        """Time of the next call of `tick`; None where only an event changes the state."""
        # A new child waits for the last one's group: they would share a GPU.
        return None if self.state is WorkerState.BACKING_OFF and self._alive else self._due

    def start(self, now: float) -> tuple[WorkerAction, ...]:
        """The child is to be started, for the first time or again."""
        self.state, self._stopping = WorkerState.STARTING, StopTimes.NOT
        self.started_in = None
        self._alive = True
        self._since, self._due = now, now + self.care.start_timeout
        return (WorkerAction.START,)

    def start_failed(self, now: float, reason: str) -> tuple[WorkerAction, ...]:
        """There is no child: its command can't be run."""
        self._alive = False
        self._fall(now, reason)
        return ()

    def healthy(self, now: float) -> tuple[WorkerAction, ...]:
        """The engine answers, and it is ours."""
        if self.state is WorkerState.STARTING:
            self.state, self.reason = WorkerState.READY, ""
            self.started_in = now - self._since
            # It has to stay well for as long as the longest wait before its past is forgotten,
            # or a child that dies right after each start would be started twice a second for ever.
            self._due = now + max(FORGIVEN, self.care.max_backoff)
        return ()

    def unfit(self, now: float, reason: str) -> tuple[WorkerAction, ...]:
        """Mark the worker as unfit: it may run, but gets no traffic (another process has its port)."""
        if self.state is not WorkerState.STARTING:
            return ()
        self._fall(now, reason)
        return (WorkerAction.KILL,)

    def exited(self, now: float, reason: str) -> tuple[WorkerAction, ...]:
        """The child has ended; the rest of its group may still be there until `gone`."""
        if self.state in (WorkerState.STARTING, WorkerState.READY):
            self._fall(now, reason)
        return ()

    def gone(self, now: float) -> tuple[WorkerAction, ...]:
        """Apply the end of the child and its whole group."""
        self._alive = False
        if self.state is WorkerState.STOPPING:
            self._rest()
        return self.tick(now)

    def stop(self, now: float, *, drain: bool, hurry: bool) -> tuple[WorkerAction, ...]:
        """Ends it: after its open requests (`drain`), by SIGTERM, or by SIGKILL at once (`hurry`)."""
        if not self._alive:
            self._rest()
            return ()
        was, self.state = self.state, WorkerState.STOPPING
        if hurry:
            return self._enter(StopTimes.KILLING, now)
        if drain and was is WorkerState.READY and self.care.drain > 0:
            return self._enter(StopTimes.DRAINING, now)
        return self._enter(StopTimes.TERMINATING, now)

    def drained(self, now: float) -> tuple[WorkerAction, ...]:
        """No request is open on it any more."""
        return self._enter(StopTimes.TERMINATING, now) if self._stopping is StopTimes.DRAINING else ()

    def tick(self, now: float) -> tuple[WorkerAction, ...]:
        """Time has passed."""
        due = self.due
        if due is None or now < due:
            return ()
        if self.state is WorkerState.STARTING:
            self._fall(now, f"not healthy within {self.care.start_timeout:g} s")
            return (WorkerAction.KILL,)
        if self.state is WorkerState.BACKING_OFF:
            self.restarts += 1
            return self.start(now)
        if self.state is WorkerState.READY:
            self._failures, self._due = 0, None
            return ()
        step = StopTimes.TERMINATING if self._stopping is StopTimes.DRAINING else StopTimes.KILLING
        return self._enter(step, now)

    def _fall(self, now: float, reason: str) -> None:
        ceiling = min(self.care.max_backoff, self.care.backoff * 2.0 ** min(self._failures, 32))
        # Half of it is chance, so that workers felled by one cause do not load their weights at one moment.
        self.retry_in = max(SOONEST, ceiling * (0.5 + 0.5 * self._chance()))
        self._failures += 1
        self.state, self.reason, self._due = WorkerState.BACKING_OFF, reason, now + self.retry_in

    def _enter(self, step: StopTimes, now: float) -> tuple[WorkerAction, ...]:
        if step.value <= self._stopping.value:
            return ()
        self._stopping = step
        if step is StopTimes.DRAINING:
            self._due = now + self.care.drain
            return (WorkerAction.DRAIN,)
        if step is StopTimes.TERMINATING:
            self._due = now + self.care.kill_after
            return (WorkerAction.TERMINATE,)
        self._due = None
        return (WorkerAction.KILL,)

    def _rest(self) -> None:
        self.state, self._stopping, self._due = WorkerState.STOPPED, StopTimes.NOT, None
