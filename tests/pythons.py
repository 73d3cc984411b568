"""Runs the fast part of the suite on the other Pythons that this machine has.

    python -m tests.pythons                    3.12 and 3.13, each where it is found
    python -m tests.pythons 3.13 -- -x         one of them, with options for pytest

A Python is looked for on PATH and under ~/.pyenv/versions (PYENV_ROOT). Each gets an environment of its own, .venv-3.12
and .venv-3.13, from the same lock as `make dev`; it is made again when the lock changes. The fast part is what needs
neither Redis nor nginx nor workers in processes: policies, contracts, the upstream client, pools and the data plane.
Exit status: 0 when every Python that was found passes, 1 when one fails, 3 when none was found.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
VERSIONS: Final = ("3.12", "3.13")
MADE_FROM: Final = ("pyproject.toml", "requirements.lock", "requirements-dev.lock")
FAST: Final = (
    "tests/policies",
    "tests/contracts/test_engines.py", "tests/contracts/test_strategies.py", "tests/contracts/test_usage_asked.py",
    "tests/backends", *(f"--ignore=tests/backends/{name}" for name in ("cache", "store", "workers")),
    "tests/gateway", "--ignore=tests/gateway/process",
)  # fmt: skip


def find(version: str) -> Path | None:
    """Return an interpreter of this version that runs, or None."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    on_path = shutil.which(f"python{version}")
    candidates = [*(pyenv.glob(f"{version}.*/bin/python{version}")), *([Path(on_path)] if on_path else [])]
    return next((each for each in candidates if _is(each, version)), None)


def _is(python: Path, version: str) -> bool:
    """Whether this program is such a Python: a shim of pyenv is there for versions that are not chosen, too."""
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    except OSError:
        return False
    return done.returncode == 0 and done.stdout.strip() == version


def environment(python: Path, version: str) -> Path:
    """Return the interpreter of `.venv-VERSION`, which holds what the lock names."""
    venv = ROOT / f".venv-{version}"
    ours, made = venv / "bin" / "python", hashlib.sha256(b"".join((ROOT / name).read_bytes() for name in MADE_FROM))
    stamp = venv / f".dev-{made.hexdigest()[:16]}"
    if not stamp.exists():
        uv = [sys.executable, "-m", "uv"]
        install = [*uv, "pip", "install", "--quiet", "--python", str(ours)]
        for command in (
            [*uv, "venv", "--quiet", "--clear", "--python", str(python), str(venv)],
            [*install, "-r", "requirements-dev.lock"],
            [*install, "--no-deps", "-e", "."],
        ):
            subprocess.run(command, cwd=ROOT, check=True)
        stamp.touch()
    return ours


def run(version: str, options: Sequence[str]) -> bool | None:
    """Return whether the fast part passes on this Python; None where the machine does not have it."""
    python = find(version)
    if python is None:
        _report(f"Python {version}: not on this machine")
        return None
    _report(f"Python {version}: {python}")
    workers = str((os.cpu_count() or 1) * 2)
    command = [
        environment(python, version),
        "-m",
        "pytest",
        "-q",
        "-n",
        workers,
        "--dist",
        "worksteal",
        "-m",
        "not engine",
    ]
    return subprocess.run([*map(str, command), *FAST, *options], cwd=ROOT, check=False).returncode == 0


def _report(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main(arguments: Sequence[str]) -> int:
    words = list(arguments)
    at = words.index("--") if "--" in words else len(words)
    results = [run(version, words[at + 1 :]) for version in words[:at] or VERSIONS]
    if all(result is None for result in results):
        return 3
    return 1 if False in results else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
