"""From a policy's pools to the workers that there should be."""

import sys

from backends.engines import HealthEndpoint
from backends.workers.spec import WorkerSpec, workers_of
from policies.config.settings import PoolSettings, WorkerSettings
from policies.config.settings.pools import EndpointSettings, HealthSettings
from policies.config.settings.secret import Secret
from policies.config.settings.workers import RestartSettings, ScaleSettings, StopSettings


def test_workers_are_named_after_their_pool_and_listed_pools_have_none() -> None:
    pools = {
        "a": PoolSettings(workers=WorkerSettings(model="m", count=2)),
        "b": PoolSettings(endpoints=(EndpointSettings(url="http://10.0.0.1:8000"),)),
        "c": PoolSettings(workers=WorkerSettings(model="m", count=ScaleSettings(min=1, max=4))),
    }
    assert [(spec.name, spec.pool) for spec in workers_of(pools)] == [("a-w0", "a"), ("a-w1", "a"), ("c-w0", "c")]


def test_the_operators_environment_lies_over_ours() -> None:
    env = {"VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "60", "HF_HUB_OFFLINE": "1"}
    [spec] = workers_of({"a": PoolSettings(workers=WorkerSettings(model="m", count=1, env=env))})
    assert spec.env == env


def test_gpus_are_given_in_turn() -> None:
    workers = WorkerSettings(model="m", count=3, gpus=((0, 1), (2, 3)))
    specs = workers_of({"a": PoolSettings(workers=workers)})
    assert [spec.env["CUDA_VISIBLE_DEVICES"] for spec in specs] == ["0,1", "2,3", "0,1"]
    [hidden] = workers_of({"a": PoolSettings(workers=WorkerSettings(model="m", count=1, gpus="none"))})
    assert hidden.env["CUDA_VISIBLE_DEVICES"] == ""


def test_the_pools_key_is_given_to_vllm_where_nobody_reads_it() -> None:
    key = Secret(env="VLLM_KEY", value="s3cret")
    [spec] = workers_of({"a": PoolSettings(api_key=key, workers=WorkerSettings(model="m", count=1))})
    assert spec.env["VLLM_API_KEY"] == "s3cret"
    assert spec.secrets == ("s3cret",)
    assert "s3cret" not in repr(spec) + " ".join(spec.argv)


def test_each_engine_is_asked_in_its_own_way() -> None:
    def health(engine: str, **settings: object) -> HealthEndpoint:
        pool = PoolSettings(engine=engine, workers=WorkerSettings(command=("run", "{port}"), count=1), **settings)  # type: ignore[arg-type]
        return workers_of({"a": pool})[0].health

    assert health("sglang") == HealthEndpoint("/health", (200,))
    assert health("triton") == HealthEndpoint("/v2/health/ready", (200,))
    assert 404 in health("http").well and 500 not in health("http").well
    assert health("http", health=HealthSettings(path="/up")) == HealthEndpoint("/up", (200,))
    assert health("vllm", health=None) == HealthEndpoint("/health", (200,))


def test_a_simulator_needs_no_command() -> None:
    workers = WorkerSettings(served_name="demo", count=1, args={"gap": "5ms"})
    [spec] = workers_of({"a": PoolSettings(engine="simulator", workers=workers)})
    assert spec.argv[:3] == (sys.executable, "-m", "backends.simulator")
    assert spec.argv[-4:] == ("--model", "demo", "--gap", "5ms")


def test_only_what_the_process_is_made_of_calls_for_another_process() -> None:
    def spec(**settings: object) -> WorkerSpec:
        return workers_of({"a": PoolSettings(workers=WorkerSettings(model="m", count=1, **settings))})[0]  # type: ignore[arg-type]

    base = spec()
    same = spec(stop=StopSettings(kill_after=1.0), restart=RestartSettings(max=5.0), start_timeout=1.0)
    assert same.runs_like(base) and same.care != base.care
    assert not spec(args={"dtype": "half"}).runs_like(base)
    assert not spec(env={"A": "1"}).runs_like(base)
