"""What a soak runs: four simulators, each a process that can be frozen, and the gateway, a process that can be
measured."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from backends.identity.keyfile import change_keys
from policies.identity.api_keys import KeyEntry, digest, new_key
from tests.bench.children import Child, child, memory_mb

MODEL: Final = "m"
ENDPOINTS: Final = 4
SIMULATOR: Final = (sys.executable, "-m", "backends.simulator", "--port", "0", "--model", MODEL, "--fixed-ids",
                    "--first-byte", "20ms", "--gap", "5ms", "--tokens", "12")  # fmt: skip
SLUICE: Final = str(Path(sys.executable).with_name("sluice"))
# A whole stream of a simulator that is well takes 75 ms; a machine that does much else may need ten times that.
TIMEOUTS: Final = {"connect": "500ms", "first_byte": "1s", "first_byte_plain": "1s", "idle": "1s",
                   "attempt": "5s", "total": "15s"}  # fmt: skip
LONGEST: Final = 15.0
"""`total` in seconds: nothing may take longer."""
KEEP_ALIVE: Final = 2.0
POOL: Final[dict[str, Any]] = {
    "engine": "simulator",
    "keep_alive": f"{KEEP_ALIVE:g}s",
    "health": {"every": "500ms", "timeout": "500ms", "suspect_every": "100ms"},
    "ejection": {"for": "1s", "max_for": "2s"},
    "breaker": {"open_for": "1s", "max_open_for": "2s"},
    "slow_start": "2s",
}
RETRIES: Final = 3


@dataclass(frozen=True, slots=True)
class Stage:
    """Everything that runs. `admin` and `gateway.address` are `host:port`."""

    folder: Path
    gateway: Child
    simulators: tuple[Child, ...]
    admin: str
    key: str
    document: dict[str, Any] = field(repr=False)
    """The policy as it was at the start."""

    @property
    def policy(self) -> Path:
        return self.folder / "policy.yaml"

    @property
    def access_log(self) -> Path:
        return self.folder / "access.log"

    @property
    def said(self) -> str:
        """What the gateway had to say, on its log and on stderr."""
        return (self.folder / "gateway.out").read_text() + (self.folder / "sluice.log").read_text()

    @property
    def resident_mb(self) -> float:
        """Memory of the gateway now, MB of 10^6 bytes."""
        return memory_mb(self.gateway.pid)

    async def held(self) -> dict[str, Any]:
        """What the gateway holds now: names of tasks, kinds of descriptors, counts of threads and memory blocks."""
        file = self.folder / "held.json"
        file.unlink(missing_ok=True)
        os.kill(self.gateway.pid, signal.SIGUSR1)
        async with asyncio.timeout(5):
            while not file.exists():  # noqa: ASYNC110  the other process has no event for us
                await asyncio.sleep(0.02)
        told: dict[str, Any] = json.loads(file.read_text())
        return told


@contextlib.contextmanager
def stage(folder: Path) -> Iterator[Stage]:
    """Started, and ended whatever happens."""
    with contextlib.ExitStack() as running:
        simulators = tuple(running.enter_context(_simulator(folder, number)) for number in range(ENDPOINTS))
        key = make_key(folder)
        document = _document([simulator.address for simulator in simulators])
        policy = folder / "policy.yaml"
        policy.write_text(json.dumps(document))
        command = [sys.executable, "-m", "tests.soak.host", str(policy), str(folder / "held.json")]
        log = folder / "gateway.out"
        gateway = running.enter_context(child(command, r"^ready on (\S+)$", log=log))
        admin = re.search(r"admin on http://(\S+)", log.read_text())
        assert admin is not None, log.read_text()
        yield Stage(folder, gateway, simulators, admin[1], key, document)


def make_key(folder: Path) -> str:
    """A client's key of plan `soak`, written to keys.yaml."""
    key = new_key()
    entry = KeyEntry(id="soak", sha256=digest(key), tenant="soak", plan="soak", created=1_763_650_057.0)
    change_keys(folder / "keys.yaml", lambda _: [entry])
    return key


def _document(addresses: list[str]) -> dict[str, Any]:
    endpoints = [{"url": f"http://{address}"} for address in addresses]
    return {
        "version": 1,
        "server": {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0"},
        "auth": {"api_keys": {"file": "keys.yaml"}},
        "plans": {"soak": {}},
        "pools": {"pool": {**POOL, "endpoints": endpoints}},
        "routes": [{"model": MODEL, "pool": "pool", "timeouts": TIMEOUTS,
                    "retry": {"retries": RETRIES, "backoff": "100ms", "max": "400ms"}}],
        "observe": {"access_log": {"path": "access.log"}, "log": {"path": "sluice.log"}},
    }  # fmt: skip


@contextlib.contextmanager
def _simulator(folder: Path, number: int) -> Iterator[Child]:
    with child(SIMULATOR, r"ready on http://(\S+)$", log=folder / f"simulator-{number}.log") as running:
        try:
            yield running
        finally:
            # One that is frozen would not hear that it is to end.
            with contextlib.suppress(ProcessLookupError):
                os.kill(running.pid, signal.SIGCONT)
