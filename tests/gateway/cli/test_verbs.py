"""The command line: its verbs, its exit codes, and what it does not import."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gateway import __version__

SLUICE = Path(sys.executable).with_name("sluice")
VERBS = ["serve", "check", "explain", "schema", "keys", "simulate"]


def sluice(*words: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}
    return subprocess.run([SLUICE, *words], env=environment, capture_output=True, text=True, timeout=30)


def test_help_lists_exactly_the_verbs_that_there_are() -> None:
    done = sluice("--help")
    assert done.returncode == 0
    commands = done.stdout.partition("Commands:\n")[2]
    assert re.findall(r"^  (\S+) ", commands, flags=re.MULTILINE) == VERBS


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb: str) -> None:
    done = sluice(verb, "--help")
    assert done.returncode == 0
    assert done.stdout.lower().startswith(f"usage: sluice {verb}")


def test_version_is_that_of_the_package() -> None:
    assert sluice("--version").stdout == f"sluice {__version__}\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["canary"], "No such command 'canary'"),
        (["serve"], "Missing argument 'POLICY'"),
        (["serve", "no-such-file.yaml"], "'no-such-file.yaml' does not exist"),
        (["check", "no-such-file.yaml"], "'no-such-file.yaml' does not exist"),
        (["check", "--colour", "policy.yaml"], "No such option: --colour"),
        (["schema", "policy.yaml"], "unexpected extra argument"),
        (["keys", "burn"], "No such command 'burn'"),
        (["simulate", "--port", "http"], "invalid int value: 'http'"),
    ],
)
def test_wrong_arguments_end_with_2_and_say_why(words: list[str], said: str) -> None:
    done = sluice(*words)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_check_of_a_broken_policy_ends_with_1_and_tells_where(tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("version: 1\npools: {}\nroutes:\n  - {model: a, pool: b}\n")
    done = sluice("check", policy)
    assert done.returncode == 1
    assert f"{policy}:4:" in done.stdout


def test_serve_of_a_broken_policy_ends_with_1_and_imports_no_cli_library(tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("version: 1\npools: {}\nroutes:\n  - {model: a, pool: b}\n")
    program = (
        "import sys\nfrom gateway.cli import main\n"
        "try:\n    main(['serve', sys.argv[1]])\n"
        "finally:\n    print(sorted({'typer', 'rich'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program, policy], capture_output=True, text=True, timeout=30)
    assert done.returncode == 1, done.stderr
    assert f"{policy}:4:" in done.stderr
    assert done.stdout == "[]\n"
