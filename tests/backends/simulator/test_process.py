"""As a process: small, quick to start, gone on a signal, and plain about wrong arguments."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from backends.simulator.arguments import parser, settings
from backends.simulator.settings import SimulatorSettings, duration
from tests.backends.simulator.raw import HI, Client, ask
from tests.pace import Watch

COMMAND = [sys.executable, "-m", "backends.simulator", "--port", "0"]


@pytest.fixture(params=["module", "verb"])
def command(request: pytest.FixtureRequest) -> list[str]:
    """Both ways to start it."""
    verb = "import sys; from gateway.cli import simulate; sys.exit(simulate.run(sys.argv[1:]))"
    return COMMAND if request.param == "module" else [sys.executable, "-c", verb, "--port", "0"]


async def started(command: list[str], *more: str) -> tuple[asyncio.subprocess.Process, int]:
    """The process and its port, once it listens."""
    process = await asyncio.create_subprocess_exec(*command, *more, stderr=subprocess.PIPE)
    assert process.stderr is not None
    async with asyncio.timeout(10):
        line = (await process.stderr.readline()).decode()
    assert line.startswith("simulator (no model) ready on http://127.0.0.1:"), line
    return process, int(line.rpartition(":")[2])


def resident(pid: int) -> int:
    """Resident memory of a process in KiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_signal_ends_it_at_once_with_0_though_streams_are_open(command: list[str], number: int) -> None:
    process, port = await started(command, "--first-byte", "30s")
    async with await Client.to(port) as client:
        client.send(HI | {"stream": True})
        await client.head()
        watch = Watch()
        process.send_signal(number)
        assert await process.wait() == 0
        assert watch.own < 1


async def test_it_is_small_and_quick() -> None:
    times = []
    for _ in range(3):
        began = time.monotonic()
        process, port = await started(COMMAND)
        times.append(time.monotonic() - began)
        await ask(port, HI | {"stream": True, "max_tokens": 3})
        memory = resident(process.pid)
        process.terminate()
        await process.wait()
    # Python itself needs 2 MiB more from 3.12 on.
    assert memory < (25 if sys.version_info < (3, 12) else 28) * 1024
    # 0.1 s where nothing else runs; the machine may be busy.
    assert min(times) < 1.0


def test_it_imports_only_what_it_needs() -> None:
    code = "import sys, backends.simulator.arguments; print(' '.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    for heavy in ("pydantic", "httpx", "uvicorn", "starlette", "typer", "rich", "redis", "prometheus_client", "yaml"):
        assert heavy not in loaded


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--tokens", "many"], "invalid int value"),
        (["--tokens", "0"], "tokens must be at least 1"),
        (["--gap", "quick"], "'quick' is not a duration (like 50ms, 1.5s, 2m)"),
        (["--port", "70000"], "port must be between 0 and 65535"),
        (["--jitter", "2"], "jitter must be between 0 and 1"),
        (["--max-num-queued-reqs", "0"], "max_num_queued_reqs must be at least 1"),
        (["--nope"], "unrecognized arguments: --nope"),
        (["--tok", "5"], "unrecognized arguments"),
    ],
)
def test_wrong_arguments_are_2_with_the_reason(command: list[str], words: list[str], said: str) -> None:
    done = subprocess.run([*command, *words], capture_output=True, text=True, check=False, timeout=20)
    assert done.returncode == 2
    assert said in done.stderr and "Traceback" not in done.stderr


def test_taken_port_is_1_with_the_reason(command: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        done = subprocess.run([*command, "--port", port], capture_output=True, text=True, check=False, timeout=20)
    assert done.returncode == 1
    assert "in use" in done.stderr and "Traceback" not in done.stderr


def test_flags_say_what_settings_are() -> None:
    words = (
        "--port 9 --model a --model b --tokens 7 --first-byte 1s --prompt-token 2ms --gap 3us --jitter 0.1 --seed 4 "
        "--max-num-seqs 5 --max-num-queued-reqs 6 --max-model-len 99 --api-key k --keep-alive 8 --fixed-ids --ping "
        "--sse-keep-alive-interval 2m --host 127.0.0.2 --dimensions 3"
    )
    assert settings(parser("x").parse_args(words.split())) == SimulatorSettings(
        "127.0.0.2", 9, ("a", "b"), 7, 1.0, 0.002, 3e-06, 0.1, 4, 5, 6, 99, ("k",), 8.0, True, True, 120.0, 3
    )


@pytest.mark.parametrize(
    ("text", "seconds"), [("50ms", 0.05), ("1.5s", 1.5), ("2m", 120), ("0", 0), ("3", 3), ("1h", 3600)]
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "-1s", "1 s", "1e3", "fast", "nan"])
def test_other_texts_are_no_durations(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        duration(text)


def test_help_is_there(command: list[str]) -> None:
    done = subprocess.run(
        [*command, "--help"], capture_output=True, text=True, check=True, timeout=20, env={**os.environ}
    )
    assert "--first-byte TIME" in done.stdout and "without a model" in done.stdout
