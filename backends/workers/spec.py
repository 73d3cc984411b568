"""From the settings of pools to the workers that there should be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from backends.engines import HealthEndpoint, health_of
from backends.workers import simulator, vllm
from backends.workers.command import complete_command, flags
from backends.workers.process import RestartRules
from policies.config.settings import PoolSettings, WorkerSettings
from policies.config.settings.workers import VLLM


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """One worker as it should be. `argv` holds placeholders for what differs at each start."""

    name: str
    pool: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(repr=False)
    secrets: tuple[str, ...] = field(repr=False)
    health: HealthEndpoint
    care: RestartRules

    def runs_like(self, other: WorkerSpec) -> bool:
        """Return whether a child of one spec serves for the other."""
        return (self.argv, dict(self.env)) == (other.argv, dict(other.env))


def workers_of(pools: Mapping[str, PoolSettings]) -> list[WorkerSpec]:
    """The workers of all pools, named POOL-w0, POOL-w1 ..."""
    return [
        _spec(pool_name, pool, workers, index)
        for pool_name, pool in pools.items()
        if (workers := pool.workers) is not None
        for index in range(_count(workers))
    ]


def _count(workers: WorkerSettings) -> int:
    count = workers.count
    return count if isinstance(count, int) else count.min


def _spec(pool_name: str, pool: PoolSettings, workers: WorkerSettings, index: int) -> WorkerSpec:
    api_key = None if pool.api_key is None else pool.api_key.value
    return WorkerSpec(
        name=f"{pool_name}-w{index}",
        pool=pool_name,
        argv=_argv(pool, workers),
        env=_env(pool, workers, index, api_key),
        secrets=() if not api_key else (api_key,),
        health=health_of(pool.engine, pool.health.path if pool.health else "auto"),
        care=RestartRules(
            start_timeout=workers.start_timeout,
            backoff=workers.restart.backoff,
            max_backoff=workers.restart.max,
            drain=workers.stop.drain,
            kill_after=workers.stop.kill_after,
        ),
    )


def _argv(pool: PoolSettings, workers: WorkerSettings) -> tuple[str, ...]:
    model, served_name, args = workers.model, workers.served_name, workers.args
    program = workers.command or VLLM
    if pool.engine == "simulator" and program == VLLM:
        argv = simulator.command(model=model, served_name=served_name, args=args)
    elif pool.engine == "vllm":
        argv = vllm.command(program, model=model, served_name=served_name, args=args)
    else:
        argv = (*program, *flags(args))
    return complete_command(argv, model)


def _env(pool: PoolSettings, workers: WorkerSettings, index: int, api_key: str | None) -> dict[str, str]:
    env = vllm.environment(pool.keep_alive, api_key) if pool.engine == "vllm" else {}
    if workers.gpus == "none":
        env["CUDA_VISIBLE_DEVICES"] = ""
    elif workers.gpus != "auto":
        env["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, workers.gpus[index % len(workers.gpus)]))
    return env | dict(workers.env)
