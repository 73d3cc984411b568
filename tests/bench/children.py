"""Processes that a measurement starts, pins to cores, and ends: simulators, the gateway, the load generator."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from backends.workers import leash

ROOT: Final = Path(__file__).resolve().parents[2]
START_TIMEOUT: Final = 20.0
STOP_TIMEOUT: Final = 5.0
# What a job of the load generator may take beyond the seconds that it was asked for.
LOAD_SLACK: Final = 20.0


@dataclass(frozen=True, slots=True)
class Cores:
    """Which cores what is measured runs on, and which everything else. Both None: too few to tell them apart."""

    measured: frozenset[int] | None
    rest: frozenset[int] | None

    @classmethod
    def of_this_machine(cls, *, pin: bool = True) -> Cores:
        """The last core that this process may use, and the others."""
        usable = sorted(os.sched_getaffinity(0))
        if not pin or len(usable) < 2:
            return cls(None, None)
        return cls(frozenset(usable[-1:]), frozenset(usable[:-1]))

    def __str__(self) -> str:
        if self.measured is None or self.rest is None:
            return "not pinned"
        return f"gateway on core {_listed(self.measured)}, everything else on {_listed(self.rest)}"


@dataclass(frozen=True, slots=True)
class Child:
    """A process that is ready. `address` is what it said, `host:port`."""

    process: subprocess.Popen[bytes]
    address: str

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def peak_mb(self) -> float:
        """Most memory that was ever resident, MB of 10^6 bytes."""
        return memory_mb(self.pid, "VmHWM")


def memory_mb(pid: int, field: str = "VmRSS") -> float:
    """A line of /proc/PID/status, which counts in KiB, in MB of 10^6 bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(rf"^{field}:\s+(\d+) kB$", status, re.MULTILINE)
    assert found is not None, status
    return int(found[1]) * 1024 / 1e6


@contextlib.contextmanager
def child(command: Sequence[str], ready: str, *, log: Path, cores: frozenset[int] | None = None) -> Iterator[Child]:
    """A process, from its word that it is ready (the pattern `ready`, whose group 1 is its address) to its end.

    What it prints goes to the file `log`. When this process is killed, the kernel kills it too. Raises RuntimeError
    with what it had to say when it does not get ready.
    """
    leashed = [sys.executable, "-I", "-S", leash.__file__, str(os.getpid()), *command]
    with log.open("wb") as out:
        process = subprocess.Popen(leashed, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                                   preexec_fn=_pinned(cores))  # fmt: skip
    try:
        yield Child(process, _said(process, re.compile(ready, re.MULTILINE), log))
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, and SIGKILL for one that does not obey."""
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def load(job: Mapping[str, Any], cores: frozenset[int] | None) -> dict[str, Any]:
    """Run one job of `tests.bench.load` in a process of its own. Raises RuntimeError when it fails."""
    limit = float(job["seconds"]) + float(job.get("ramp", 0.0)) + LOAD_SLACK
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.load", json.dumps(job)],
        cwd=ROOT, capture_output=True, text=True, timeout=limit, preexec_fn=_pinned(cores), check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(f"the load generator failed: {done.stderr.strip()[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def _said(process: subprocess.Popen[bytes], ready: re.Pattern[str], log: Path) -> str:
    deadline = time.monotonic() + START_TIMEOUT
    while True:
        ended = process.poll() is not None
        text = log.read_text(errors="replace")
        found = ready.search(text)
        if found is not None:
            return found[1]
        if ended or time.monotonic() > deadline:
            what = f"ended with {process.returncode}" if ended else f"was not ready within {START_TIMEOUT:g} s"
            raise RuntimeError(f"{' '.join(map(str, process.args))} {what}:\n{text[-2000:]}")  # type: ignore[arg-type]
        time.sleep(0.01)


def _pinned(cores: frozenset[int] | None) -> Any:
    # Before the exec, and so for every thread that it will have. We have no threads that a fork could harm.
    return None if cores is None else lambda: os.sched_setaffinity(0, cores)


def _listed(cores: frozenset[int]) -> str:
    ordered = sorted(cores)
    return ",".join(map(str, ordered)) if len(ordered) < 5 else f"{ordered[0]}-{ordered[-1]}"
