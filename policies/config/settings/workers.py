"""Endpoints that we start and watch ourselves (policy key `pools.NAME.workers`)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from policies.config.forms import ENV_NAME, GPUS, MODEL, STEP, TEXT, TextStep
from policies.config.kind import UNSET
from policies.config.mistakes import unknown
from policies.config.units import COUNT, COUNT_ABOVE_0, SECONDS, SECONDS_ABOVE_0, SHARE

PLACEHOLDERS = ("model", "port", "port2", "port3", "host", "name")
VLLM = ("vllm", "serve")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleSettings:
    """Between how many workers there are.

    min: fewest
    max: most
    """

    min: Annotated[int, COUNT] = 1
    max: Annotated[int, COUNT_ABOVE_0]

    def __post_init__(self) -> None:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is more than max {self.max}")


@dataclass(frozen=True, slots=True, kw_only=True)
class CrashLoopSettings:
    """A worker that does not stay up is not started any more.

    starts: so many starts ...
    within: ... in this time
    """

    starts: Annotated[int, COUNT_ABOVE_0] = 5
    within: Annotated[float, SECONDS_ABOVE_0] = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartSettings:
    """Restart of a worker that died.

    backoff: first wait, doubled each time
    max: longest wait
    crash_loop: when to stop trying
    """

    backoff: Annotated[float, SECONDS] = 1.0
    max: Annotated[float, SECONDS] = 60.0
    crash_loop: CrashLoopSettings | None = CrashLoopSettings()


@dataclass(frozen=True, slots=True, kw_only=True)
class StopSettings:
    """Stop of a worker.

    drain: how long its requests may finish
    kill_after: from SIGTERM to SIGKILL
    """

    drain: Annotated[float, SECONDS] = 30.0
    kill_after: Annotated[float, SECONDS] = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleUpSettings:
    """Growing.

    window: how long the load must stand
    step: workers, or a percentage of those there are
    """

    window: Annotated[float, SECONDS_ABOVE_0] = 60.0
    step: Annotated[TextStep, STEP] = field(default=TextStep(50, True))


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleDownSettings:
    """Shrinking.

    window: how long the load must be gone
    step: workers, or a percentage of those there are
    """

    window: Annotated[float, SECONDS_ABOVE_0] = 300.0
    step: Annotated[TextStep, STEP] = field(default=TextStep(1, False))


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoscaleSettings:
    """Automatic scaling of the number of workers.

    queue_per_worker: waiting requests a worker
    gpu_utilization: share of the GPU that is busy
    up: growing
    down: shrinking
    """

    queue_per_worker: Annotated[int, COUNT_ABOVE_0] = 4
    gpu_utilization: Annotated[float, SHARE] = 0.8
    up: ScaleUpSettings = ScaleUpSettings()
    down: ScaleDownSettings = ScaleDownSettings()


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """Processes that serve one model.

    model: path or name of the model; a simulator needs none
    served_name: what the worker calls it; absent: the model's own name
    count: how many, or {min, max}
    gpus: auto, none, or a list of GPU lists such as [[0], [1]]; sets CUDA_VISIBLE_DEVICES
    args: command-line options without their dashes
    env: environment variables
    command: a command line, with {model} {port} {port2} {port3} {host} {name} filled in; None: the simulator's own
    start_timeout: how long a start may take
    warm_up: one-token requests before it takes traffic
    restart: how a dead worker comes back
    stop: how a worker is ended
    autoscale: when there are more or fewer
    """

    model: Annotated[str | None, MODEL, UNSET] = None
    served_name: Annotated[str | None, MODEL, UNSET] = None
    count: Annotated[int | ScaleSettings, COUNT_ABOVE_0] = 2
    gpus: Annotated[Literal["auto", "none"] | tuple[tuple[Annotated[int, COUNT], ...], ...], GPUS] = "auto"
    args: Mapping[Annotated[str, TEXT], Annotated[str, TEXT]] = field(default_factory=dict)
    env: Mapping[Annotated[str, ENV_NAME], Annotated[str, TEXT]] = field(default_factory=dict)
    command: Annotated[tuple[Annotated[str, TEXT], ...] | None, UNSET] = VLLM
    start_timeout: Annotated[float, SECONDS_ABOVE_0] = 600.0
    warm_up: Annotated[int, COUNT] = 1
    restart: RestartSettings = RestartSettings()
    stop: StopSettings = StopSettings()
    autoscale: AutoscaleSettings | None = None

    def check(self, engine: str) -> None:
        """Check that a worker of this engine can be started; ValueError names the missing setting."""
        if self.command == VLLM and engine not in ("vllm", "simulator"):
            raise ValueError(f"workers of engine {engine} need their command line: command: [...]")
        if self.model is None and self._uses_model(engine):
            raise ValueError("workers need a model")

    def _uses_model(self, engine: str) -> bool:
        if self.command is None or self.command == VLLM:
            return engine == "vllm"
        return any("{model}" in word for word in self.command)

    def __post_init__(self) -> None:
        if self.command == ():
            raise ValueError("command is empty")
        for word in self.command or ():
            for name in re.findall(r"\{([a-z0-9_]+)\}", word):
                if name not in PLACEHOLDERS:
                    raise ValueError(
                        "command: " + unknown("placeholder", f"{{{name}}}", [f"{{{one}}}" for one in PLACEHOLDERS])
                    )
