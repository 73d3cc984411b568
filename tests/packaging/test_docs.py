"""The pages say what is so: generated parts are current, links lead somewhere, verbs are those that there are."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from policies.request.paths import SERVED
from tests import docs

ROOT = docs.ROOT
README = docs.README.read_text()
OWN_FOLDERS = ("gateway", "policies", "backends", "tests", ".ci")


@pytest.mark.parametrize("part", docs.PARTS)
def test_generated_part_of_the_readme_is_current(part: str) -> None:
    _, there, _ = docs.split(README, part)
    assert there == docs.PARTS[part](), f"`make docs` writes the part {part!r}"


def test_links_of_the_readme_lead_to_files_of_the_repository() -> None:
    targets = [target for target in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in target]
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_readme_names_every_verb_of_make_and_no_other() -> None:
    described = re.findall(r"^#   make ([a-z-]+)", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    verbs = [verb for verb in described if verb != "lock"]
    assert verbs == re.findall(r"^\| `make ([a-z-]+)`", README, flags=re.MULTILINE)


def test_readme_leads_from_nothing_to_an_answer_and_to_an_own_engine() -> None:
    way = ["make run", "`curl`", "policies/examples/vllm.yaml", "sluice keys create", "sluice serve policy.yaml"]
    places = [README.find(step) for step in way]
    assert -1 not in places
    assert places == sorted(places)


def test_readme_names_every_path_that_clients_may_ask_for_with_its_scope() -> None:
    rows = re.findall(r"^\| (`/.*) \| .* \| `([a-z]+)` \|$", README, flags=re.MULTILINE)
    named = {(path, scope) for paths, scope in rows for path in re.findall(r"`(/[^`]+)`", paths)}
    served = {(kind.path, kind.scope) for kind in SERVED}
    assert served - named == set()
    below = {"/versions/{v}", "/infer", "/generate", "/generate_stream", "/ready"}
    assert {path for path, _ in named - served} <= below | {"/v2/models/{m}"} | {
        "/v1/responses/{id}", "/v1/responses/{id}/cancel",
    }  # fmt: skip


def test_changelog_begins_with_what_is_not_released_yet() -> None:
    lines = (ROOT / "CHANGELOG.md").read_text().splitlines()
    assert lines[0] == "# Changelog"
    assert next(line for line in lines if line.startswith("## ")) == "## Unreleased"
    entries = [line for line in lines if line and not line.startswith(("#", "- ", "  "))]
    assert entries == [], "every entry is a list item"


def test_examples_are_told_of_in_the_readme() -> None:
    folder = ROOT / "policies" / "examples"
    examples = sorted(path.name for path in folder.glob("*.yaml") if not path.name.endswith("-keys.yaml"))
    assert [name for name in examples if name not in README] == []


def own_files() -> list[Path]:
    """Text that the project ships or runs."""
    folders = [path for folder in OWN_FOLDERS for path in (ROOT / folder).rglob("*")]
    return [
        path
        for path in [*folders, *ROOT.glob("*.*"), ROOT / "Makefile"]
        if path.is_file() and "__pycache__" not in path.parts and path.suffix not in {".pyc", ".bin"}
    ]


def test_the_repository_stands_alone() -> None:
    # Written in two pieces, so that this file is not a finding of its own.
    elsewhere = [
        "/work/" + "shared",
        "../" + "shared",
        "/opt/" + "pypi",
        "/opt/" + "wheels",
        "file:" + "///",
        "/tmp/" + "w/",
    ]
    found = [
        f"{path.relative_to(ROOT)}: {word}"
        for path in own_files()
        for word in elsewhere
        if word in path.read_text(errors="replace")
    ]
    assert found == []


def test_every_dependency_is_locked_within_its_range() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())

    def locked(name: str) -> dict[str, str]:
        pins = re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", (ROOT / name).read_text(), flags=re.MULTILINE)
        return {re.sub(r"[._]", "-", package).lower(): version for package, version in pins}

    def outside(wanted: list[str], lock: dict[str, str]) -> list[str]:
        parsed = [Requirement(line) for line in wanted]
        return [
            str(each) for each in parsed if not each.specifier.contains(lock[re.sub(r"[._]", "-", each.name).lower()])
        ]

    runtime, dev = locked("requirements.lock"), locked("requirements-dev.lock")
    assert outside(project["project"]["dependencies"], runtime) == []
    assert outside(project["dependency-groups"]["dev"], dev) == []
    assert {name: version for name, version in runtime.items() if dev[name] != version} == {}
