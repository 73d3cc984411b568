"""What stands between `make` and the programs: signals reach the gateway, and what is missing is named."""

import os
import signal
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CI = ROOT / ".ci"
LONG_LIVED = "import signal; print('up', flush=True); signal.pause()"


def outside_make() -> dict[str, str]:
    """Our environment without what an outer make left in it."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}


@contextmanager
def made(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """`make run` of a command that is up and waits; its whole session is gone afterwards."""
    (folder / "program.py").write_text(LONG_LIVED)
    (folder / "Makefile").write_text(f"run:\n\t@exec python3 -I -S {CI}/serve python3 program.py\n")
    make = subprocess.Popen(
        ["make", "run"],
        cwd=folder,
        env=outside_make(),
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert make.stdout is not None
    try:
        assert make.stdout.readline() == "up\n"
        yield make
    finally:
        try:
            os.killpg(make.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        make.stdout.close()
        make.wait(5)


@pytest.mark.parametrize(
    "ask",
    [
        pytest.param(lambda pid: os.killpg(pid, signal.SIGINT), id="ctrl-c"),
        pytest.param(lambda pid: os.kill(pid, signal.SIGINT), id="sigint-to-make-alone"),
        pytest.param(lambda pid: os.kill(pid, signal.SIGTERM), id="sigterm-to-make-alone"),
    ],
)
def test_what_ends_make_ends_what_it_runs(tmp_path: Path, ask: Callable[[int], None]) -> None:
    with made(tmp_path) as make:
        ask(make.pid)
        # The pipe closes when the last process that holds it is gone.
        make.communicate(timeout=3)
        assert make.returncode != 0


def test_a_killed_make_leaves_nothing_running(tmp_path: Path) -> None:
    with made(tmp_path) as make:
        os.kill(make.pid, signal.SIGKILL)
        make.communicate(timeout=3)
        assert make.returncode == -signal.SIGKILL


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_an_old_python_is_refused_with_its_version(tmp_path: Path) -> None:
    old = script(tmp_path / "python3", 'case "$2" in *exit*) exit 1 ;; *) echo 3.10.12 ;; esac')
    done = subprocess.run([CI / "python", old, tmp_path / "env"], capture_output=True, text=True, timeout=10)
    assert done.returncode == 1
    assert "Python 3.11 or newer is needed" in done.stderr
    assert "3.10.12" in done.stderr
    assert not (tmp_path / "env").exists()


def test_no_python_at_all_says_what_to_install(tmp_path: Path) -> None:
    done = subprocess.run(
        [CI / "python", "no-such-python", tmp_path / "env"], capture_output=True, text=True, timeout=10
    )
    assert done.returncode == 1
    assert "apt-get install python3 python3-venv" in done.stderr


def need(*wanted: str, path: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/bash", CI / "need", *wanted], env={"PATH": path}, capture_output=True, text=True, timeout=10
    )


def test_missing_rights_are_an_error_that_says_what_to_install(tmp_path: Path) -> None:
    script(tmp_path / "id", "echo 1000")
    script(tmp_path / "sudo", "exit 1")
    script(tmp_path / "apt-get", "exit 0")
    done = need("no-such-command=no-such-package", path=f"{tmp_path}:/usr/bin:/bin")
    assert done.returncode == 1
    assert "may not install packages" in done.stderr
    assert "apt-get install --no-install-recommends no-such-package" in done.stderr


def test_a_package_that_does_not_bring_the_command_is_an_error(tmp_path: Path) -> None:
    script(tmp_path / "id", "echo 1000")
    script(tmp_path / "sudo", "exit 0")
    script(tmp_path / "apt-get", "exit 0")
    done = need("no-such-command=no-such-package", path=f"{tmp_path}:/usr/bin:/bin")
    assert done.returncode == 1
    assert "no-such-command is still not there" in done.stderr


def test_a_machine_without_apt_is_told_what_to_install(tmp_path: Path) -> None:
    done = need("no-such-command=no-such-package", path=str(tmp_path))
    assert done.returncode == 1
    assert "no apt-get" in done.stderr
    assert "no-such-package" in done.stderr


def test_what_is_there_is_not_asked_for(tmp_path: Path) -> None:
    done = need("sh=no-such-package", path="/usr/bin:/bin")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
