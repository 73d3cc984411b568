"""The checklists of CONTRIBUTING.md suffice: each is applied to a copy of the tree, and its commands are run there."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text().partition("\n## Checklists\n")[2]
PARTS = ("gateway", "policies", "backends", "tests", "pyproject.toml", "README.md", "DESIGN.md", "CHANGELOG.md")


def checklists() -> dict[str, list[str]]:
    """Return the steps of every checklist by its title."""
    sections = re.split(r"^### (.+)$", TEXT, flags=re.MULTILINE)[1:]
    return {
        title: re.split(r"^\d+\. ", body, flags=re.MULTILINE)[1:]
        for title, body in zip(sections[::2], sections[1::2], strict=True)
    }


def block(step: str) -> str:
    """Return the code block of a step, without the indentation of the list."""
    found = re.search(r"^   ```\w+\n(.*?)^   ```$", step, flags=re.MULTILINE | re.DOTALL)
    assert found is not None, step
    return re.sub(r"^   ", "", found[1], flags=re.MULTILINE)


def insert(path: Path, after: str, lines: str) -> None:
    """Insert lines below the last line that is `after`, whatever its indentation."""
    text = path.read_text().splitlines(keepends=True)
    places = [number for number, line in enumerate(text) if line.strip() == after]
    assert places, f"{path}: no line {after!r}"
    text.insert(places[-1] + 1, lines)
    path.write_text("".join(text))


def apply(step: str, tree: Path) -> list[str]:
    """Apply one step to the tree; return the commands that it names."""
    if created := re.match(r"Create `([^`]+)`", step):
        path = tree / created[1]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block(step))
    elif inserted := re.match(r"In `([^`]+)`, after `([^`]+)`, add", step):
        insert(tree / inserted[1], inserted[2], block(step))
    elif replaced := re.match(r"In `([^`]+)`, replace `([^`]+)` with `([^`]+)`", step):
        path = tree / replaced[1]
        assert path.read_text().count(replaced[2]) == 1, step
        path.write_text(path.read_text().replace(replaced[2], replaced[3]))
    elif step.startswith("Run "):
        return block(step).splitlines()
    return []


@pytest.mark.parametrize("title", sorted(checklists()))
def test_checklist_suffices(title: str, tmp_path: Path) -> None:
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / part, tmp_path)
    commands = [command for step in checklists()[title] for command in apply(step, tmp_path)]
    assert len(commands) == 3
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "COV"))}
    environment = {**inherited, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    for command in commands:
        words = [sys.executable if word == ".venv/bin/python" else word for word in shlex.split(command)]
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"


def test_every_kind_of_addition_has_a_checklist() -> None:
    assert sorted(checklists()) == ["A balancing strategy", "A metric", "A setting", "An engine"]
