"""The real gateway as a child process, in front of listed endpoints."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.engines.vllm import API_KEY, MODEL, free_port

SLUICE = Path(sys.executable).with_name("sluice")
READY_WITHIN = 20.0

_POLICY = """\
version: 1
server:
  listen: 127.0.0.1:{port}
  admin: 127.0.0.1:{admin}
auth:
  api_keys: {{file: keys.yaml}}
plans:
  everything: {{}}
pools:
  real:
    engine: vllm
    api_key: {{env: ENGINE_KEY}}
{pool}    endpoints:
{endpoints}
routes:
  - model: {model}
    pool: real
{route}observe:
  access_log: {{path: {access}}}
"""
_STATE = re.compile(r'sluice_endpoint_state\{.*endpoint="(\w+)".*state="(\w+)".*\} 1\b')
Settings = Mapping[str, object]


def _lines(settings: Settings) -> str:
    """Keys of a pool or a route: JSON is YAML too."""
    return "".join(f"    {key}: {json.dumps(value)}\n" for key, value in settings.items())


@dataclass(slots=True)
class Gateway:
    """A gateway at 127.0.0.1:`port` that takes `key`."""

    process: subprocess.Popen[bytes]
    port: int
    admin: int
    key: str
    log: Path

    @classmethod
    def start(
        cls,
        folder: Path,
        endpoints: list[int],
        log: Path,
        *,
        pool: Settings | None = None,
        route: Settings | None = None,
    ) -> "Gateway":
        """Make a key and a policy in `folder`, serve it, and return once it says that it is ready. `pool` and `route`
        are settings beside the defaults; the access log is beside `log`."""
        made = subprocess.run(
            [SLUICE, "keys", "create", "--file", "keys.yaml", "--tenant", "tests", "--plan", "everything"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
        key = made.stdout.splitlines()[-1].strip()
        port, admin = free_port(), free_port()
        listed = "\n".join(f'      - {{name: e{i}, url: "http://127.0.0.1:{p}"}}' for i, p in enumerate(endpoints))
        policy = folder / "policy.yaml"
        access = log.with_name(log.name.replace("gateway", "access"))
        access.unlink(missing_ok=True)
        text = _POLICY.format(
            port=port, admin=admin, endpoints=listed, model=MODEL, access=access,
            pool=_lines(pool or {}), route=_lines(route or {}),
        )  # fmt: skip
        policy.write_text(text)
        with log.open("wb") as out:
            process = subprocess.Popen(
                # Should the tests be killed, the kernel ends it.
                ["setpriv", "--pdeathsig", "INT", SLUICE, "serve", policy.name],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=os.environ | {"ENGINE_KEY": API_KEY},
                start_new_session=True,
            )
        gateway = cls(process, port, admin, key, log)
        gateway._wait_ready()
        return gateway

    def _wait_ready(self) -> None:
        end = time.monotonic() + READY_WITHIN
        while self.process.poll() is None and time.monotonic() < end:
            if b"ready on " in self.log.read_bytes():
                return
            time.sleep(0.05)
        self.stop()
        raise AssertionError(f"the gateway was not ready; it said:\n{self.log.read_text(errors='replace')}")

    def _metrics(self) -> list[str]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/metrics", timeout=5) as answer:
            text: str = answer.read().decode()
        return text.splitlines()

    def metric(self, name: str, labels: str = "") -> float:
        """The sum of all series of a metric on the admin port whose labels hold this text."""
        lines = [line for line in self._metrics() if line.startswith((f"{name}{{", f"{name} "))]
        assert lines, f"the gateway has no metric {name}"
        return sum(float(line.rpartition(" ")[2]) for line in lines if labels in line)

    def states(self) -> list[str]:
        """`sluice_endpoint_state` of each endpoint, in their order."""
        found = sorted(match.groups() for line in self._metrics() if (match := _STATE.match(line)))
        return [state for _, state in found]

    def said(self, event: str, endpoint: int) -> list[str]:
        """The lines of the log about this endpoint, with this event."""
        lines = self.log.read_text(errors="replace").splitlines()
        return [line for line in lines if f" {event} " in line and f" endpoint=e{endpoint} " in line]

    def stop(self) -> None:
        """End it and everything in its group."""
        with suppress(subprocess.TimeoutExpired):
            if self.process.poll() is None:
                self.process.send_signal(signal.SIGINT)
            self.process.wait(5)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)
