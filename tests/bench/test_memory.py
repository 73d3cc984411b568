"""What an idle gateway holds: the quickstart's serving process, its workers not counted."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.bench.children import ROOT, Child, child, memory_mb

EXAMPLES = ROOT / "policies" / "examples"
LIMIT_MB = 70
READY = r"^ready on (\S+)$"
# What no request of the quickstart needs: libraries of later issues, of the other verbs, and of probes that it has not.
# click is not among them: `import uvicorn` imports it for a command line of its own (1.5 MB, and no way round it).
UNWANTED = ("redis", "hiredis", "limits", "jwt", "cryptography", "httpx", "httpcore", "typer", "rich",
            "tornado", "opentelemetry", "vllm", "torch", "h11")  # fmt: skip


def _quickstart(folder: Path) -> Path:
    """The quickstart on free ports, everything else as shipped."""
    for example in EXAMPLES.glob("quickstart*"):
        shutil.copy(example, folder)
    policy = folder / "quickstart.yaml"
    policy.write_text(policy.read_text().replace(":8080", ":0").replace(":9901", ":0"))
    return policy


def _ask(gateway: Child, log: Path) -> None:
    """A first request: the `curl` that the gateway has printed, a streamed answer of a simulator."""
    printed = next(line for line in log.read_text().splitlines() if line.startswith("curl"))
    answer = subprocess.run(["bash", "-c", printed], capture_output=True, timeout=20, check=True)
    assert answer.stdout.endswith(b"data: [DONE]\n\n"), answer


def _serving(folder: Path, check: Callable[[Child, Path], None], *options: str) -> None:
    """Call `check` with `sluice serve` as it is started by hand, and its log."""
    sluice = Path(sys.executable).with_name("sluice")
    log = folder / "gateway.log"
    with child([sys.executable, *options, str(sluice), "serve", str(_quickstart(folder))], READY, log=log) as gateway:
        check(gateway, log)


def test_the_serving_process_has_at_most_70_mb_after_its_first_request(tmp_path: Path) -> None:
    def check(gateway: Child, log: Path) -> None:
        _ask(gateway, log)
        assert memory_mb(gateway.pid) <= LIMIT_MB, Path(f"/proc/{gateway.pid}/status").read_text()

    _serving(tmp_path, check)


def test_the_quickstart_never_imports_what_it_does_not_need(tmp_path: Path) -> None:
    # The interpreter tells every import on stderr (-X importtime), also one that has left sys.modules again. Nothing
    # in the process is changed for it, and the option is not handed on to workers.
    def check(gateway: Child, log: Path) -> None:
        _ask(gateway, log)
        told = re.findall(r"^import time: +\d+ \| +\d+ \| +(\S+)$", log.read_text(), re.MULTILINE)
        # An import that fails is told too (pybreaker and tenacity try tornado, pybreaker redis). Of a package that was
        # found something inside of it is told as well.
        imported = {name.partition(".")[0] for name in told if "." in name}
        assert {"gateway", "uvicorn", "uvloop", "zttp", "httptools", "msgspec"} <= imported
        assert imported.isdisjoint(UNWANTED), imported.intersection(UNWANTED)

    _serving(tmp_path, check, "-X", "importtime")
