"""The command lines of workers."""

import sys

from backends.workers import simulator, vllm
from backends.workers.command import complete_command, fill, flags, ports_wanted


def filled(argv: tuple[str, ...]) -> list[str]:
    return fill(argv, name="p-w0", host="127.0.0.1", ports=(1001, 1002, 1003))


def test_vllm_is_told_model_name_address_and_arguments() -> None:
    args = {"tensor-parallel-size": "1", "enforce-eager": "true", "enable-log-requests": "false"}
    argv = vllm.command(["vllm", "serve"], model="/m/Qwen2", served_name="qwen2", args=args)
    assert filled(argv) == [
        *("vllm", "serve", "/m/Qwen2", "--host", "127.0.0.1", "--port", "1001", "--served-model-name", "qwen2"),
        *("--tensor-parallel-size", "1", "--enforce-eager", "--no-enable-log-requests"),
    ]


def test_a_whole_command_line_of_the_operators_is_only_filled_in() -> None:
    argv = vllm.command(["run.sh", "{port}", "{model}"], model="m", served_name="s", args={"x": "1"})
    assert filled(complete_command(argv, "m")) == ["run.sh", "1001", "m", "--x", "1"]


def test_braces_that_are_no_placeholder_stay() -> None:
    words = ("--config", '{"port": {port}, "a": {b}}', "{name}:{host}:{port3}")
    assert filled(words) == ["--config", '{"port": 1001, "a": {b}}', "p-w0:127.0.0.1:1003"]
    assert ports_wanted(words) == 3
    assert ports_wanted(("serve",)) == 1


def test_a_model_that_looks_like_a_placeholder_is_a_model() -> None:
    assert complete_command(("{model}", "{name}"), "{model}") == ("{model}", "{name}")


def test_an_option_without_a_value_is_bare() -> None:
    assert flags({"a": "", "b": "true", "c": "false", "d": "x y"}) == ("--a", "--b", "--no-c", "--d", "x y")


def test_vllm_keeps_idle_connections_longer_than_we_do_and_reads_its_key_from_the_environment() -> None:
    assert vllm.environment(4.0, None) == {"VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "5"}
    assert vllm.environment(30.0, "k") == {"VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "31", "VLLM_API_KEY": "k"}


def test_the_simulator_runs_in_our_own_python() -> None:
    argv = simulator.command(model="m", served_name="demo", args={"gap": "5ms"})
    assert filled(argv)[:3] == [sys.executable, "-m", "backends.simulator"]
    assert filled(argv)[3:] == ["--host", "127.0.0.1", "--port", "1001", "--model", "demo", "--gap", "5ms"]
