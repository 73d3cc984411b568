"""`sluice serve` as a process of its own: started by a test, listened to, and looked for after its end."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import resource
import select
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tests.pace import Watch

ENGINE = Path(__file__).parents[1] / "backends" / "workers" / "engine.py"
MARK = "SLUICE_APP_TEST"


def engine(*habits: str, count: int = 2) -> dict[str, Any]:
    """A pool of workers with these habits."""
    command = [sys.executable, "-S", str(ENGINE), "{host}", "{port}", *habits]
    workers = {"command": command, "count": count, "start_timeout": "20s", "stop": {"kill_after": "10s"}}
    return {"engine": "http", "workers": workers}


def policy(folder: Path, **over: Any) -> Path:
    """A policy file that anybody may use, on free ports, with what is laid over it."""
    document = {
        "version": 1,
        "server": {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0"},
        "auth": {"anonymous": "all"},
        "plans": {"all": {}},
        "pools": {"pool": engine()},
        "routes": [{"model": "m", "pool": "pool"}],
        "observe": {"access_log": {"path": "access.log"}},
        **over,
    }
    path = folder / "policy.yaml"
    path.write_text(json.dumps(document))
    return path


def marked(mark: str) -> list[int]:
    """Processes that were started, however indirectly, with this mark in their environment. Zombies have none."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found


@dataclass
class Served:
    """A running `sluice serve`."""

    process: subprocess.Popen[bytes]
    mark: str
    said: bytes = b""

    def until(self, pattern: bytes, timeout: float = 15.0) -> re.Match[bytes]:
        """Wait until stderr has said something."""
        assert self.process.stderr is not None
        deadline = time.monotonic() + timeout
        while (found := re.search(pattern, self.said)) is None:
            left = deadline - time.monotonic()
            assert left > 0, f"never said {pattern!r}: {self.said!r}"
            self._more(self.process.stderr, left)
        return found

    def _more(self, pipe: IO[bytes], timeout: float) -> None:
        if select.select([pipe], [], [], timeout)[0]:
            data = os.read(pipe.fileno(), 65536)
            assert data, f"it ended with {self.process.wait(5)}: {self.said!r}"
            self.said += data

    def ready(self) -> tuple[str, int]:
        """Where it listens, once it says that it is ready."""
        host, _, port = self.until(rb"(?m)^ready on (\S+)$")[1].decode().rpartition(":")
        return host, int(port)

    def workers(self) -> list[int]:
        """Every process of it but itself."""
        return [pid for pid in marked(self.mark) if pid != self.process.pid]

    def ends(self, within: float) -> int:
        """Its exit code; nothing of it is left after so many seconds."""
        watch = Watch()
        while (code := self.process.poll()) is None:
            assert watch.calm < within, "it does not end"
            time.sleep(0.01)
        while left := marked(self.mark):
            assert watch.calm < within, f"left: {left}"
            time.sleep(0.01)
        return code


@contextlib.contextmanager
def serving(path: Path, *, descriptors: int | None = None, **environment: str) -> Iterator[Served]:
    """`sluice serve POLICY` in a session of its own, with at most so many descriptors. Whatever is left of it is killed
    at the end."""
    limits = functools.partial(resource.setrlimit, resource.RLIMIT_NOFILE, (descriptors or 0, descriptors or 0))
    mark = uuid.uuid4().hex
    process = subprocess.Popen(
        [sys.executable, "-c", "from gateway.cli import main; main()", "serve", str(path)],
        env={**os.environ, MARK: mark, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=None if descriptors is None else limits,
    )
    try:
        yield Served(process, mark)
    finally:
        for pid in marked(mark):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.communicate(timeout=5)
