"""One vLLM as a child process, on one core, with everything below it ended by `stop`."""

import os
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.engines.install import Entry

MODEL = "tiny"
API_KEY = "engine-key-that-no-client-may-see"
CONTEXT = 8192
# Tokens a prefill step: an abort is heeded between steps, and one of these takes a core about 0.1 s.
STEP = 128
# So many requests are computed at a time, the others wait inside vLLM: few, so that few make it busy.
SLOTS = 2
READY_WITHIN = 150.0
_SHARED = re.compile(r"/dev/shm/(psm_[0-9a-z]+)")


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def _environment(root: Path, core: int) -> dict[str, str]:
    return os.environ | {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        # Unasked, every worker binds its computing to core 0.
        "VLLM_CPU_OMP_THREADS_BIND": str(core),
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HOME": str(root / "state" / "huggingface"),
        "VLLM_CACHE_ROOT": str(root / "state" / "vllm"),
        "VLLM_CONFIG_ROOT": str(root / "state" / "vllm-config"),
    }


@dataclass(slots=True)
class Worker:
    """A vLLM that serves the cache's model at 127.0.0.1:`port`; what it says goes to `log`."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path
    shared: set[str] = field(default_factory=set)
    while_loading: set[str] = field(default_factory=set)
    """What /health came to before it was 200: a status, or the class of what was raised."""

    @classmethod
    def start(cls, entry: Entry, number: int) -> "Worker":
        """Start it and return at once; `wait_ready` waits for the answer to /health."""
        port = free_port()
        log = entry.logs / f"vllm-{number}.log"
        cores = sorted(os.sched_getaffinity(0))
        options = f"--host 127.0.0.1 --port {port} --served-model-name {MODEL} --api-key {API_KEY} --load-format dummy"
        options += f" --dtype float32 --max-model-len {CONTEXT} --max-num-batched-tokens {STEP} --max-num-seqs {SLOTS}"
        options += " --enforce-eager --enable-auto-tool-choice --tool-call-parser hermes"
        # Should the tests be killed, the kernel tells vLLM, which ends its own children.
        command = ["setpriv", "--pdeathsig", "TERM", str(entry.vllm), "serve", str(entry.model), *options.split()]
        with log.open("wb") as out:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=_environment(entry.root, cores[number % len(cores)]),
                start_new_session=True,
            )
        return cls(process, port, log)

    def wait_ready(self) -> None:
        """Until /health is 200. Raises AssertionError with the end of the log where that does not come."""
        end = time.monotonic() + READY_WITHIN
        while self.process.poll() is None and time.monotonic() < end:
            found = self.health()
            if found == "200":
                self._note_shared_memory()
                return
            self.while_loading.add(found)
            time.sleep(0.25)
        tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-30:])
        raise AssertionError(f"vLLM was not ready (exit status {self.process.poll()}); the end of {self.log}:\n{tail}")

    def health(self) -> str:
        """What /health comes to: its status, or the class of what was raised."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=2) as answer:
                return str(answer.status)
        except urllib.error.HTTPError as error:
            error.close()
            return str(error.code)
        except urllib.error.URLError as error:
            return type(error.reason).__name__
        except OSError as error:
            return type(error).__name__

    def busy(self) -> int:
        """Requests that run or wait in the engine, by its own /metrics."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        wanted = ("vllm:num_requests_running{", "vllm:num_requests_waiting{")
        values = [float(line.rpartition(" ")[2]) for line in lines if line.startswith(wanted)]
        assert len(values) == 2, f"vLLM's gauges are not as expected: {values}"
        return int(sum(values))

    def _processes(self) -> Iterator[Path]:
        """Folders in /proc of the processes in this worker's session."""
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if int((folder / "stat").read_text().rpartition(")")[2].split()[3]) == self.process.pid:
                    yield folder

    def _note_shared_memory(self) -> None:
        for folder in self._processes():
            with suppress(OSError):
                self.shared |= set(_SHARED.findall((folder / "maps").read_text()))

    def pid_of(self, title: str) -> int:
        """The process of this worker whose command line begins with `title`."""
        for folder in self._processes():
            with suppress(OSError):
                if (folder / "cmdline").read_bytes().startswith(title.encode()):
                    return int(folder.name)
        raise AssertionError(f"vLLM has no process {title}")

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """The engine's process stands still, as one does whose GPU hangs; the one that speaks HTTP goes on."""
        engine = self.pid_of("VLLM::EngineCore")
        os.kill(engine, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(engine, signal.SIGCONT)

    def stop(self) -> None:
        """End it and everything in its group: politely, then for certain; remove the shared memory that leaves."""
        with suppress(subprocess.TimeoutExpired):
            if self.process.poll() is None:
                self.process.terminate()
            self.process.wait(5)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)
        for name in self.shared:
            Path("/dev/shm", name).unlink(missing_ok=True)
