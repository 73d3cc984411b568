"""The pages say what is so: generated parts are current, links lead somewhere, verbs are those that there are."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from policies.request.paths import SERVED
from tests import docs

ROOT = docs.ROOT
README = (ROOT / "README.md").read_text()
HTTP_API = (ROOT / "gateway" / "README.md").read_text()
EXAMPLES = (ROOT / "policies" / "README.md").read_text()
OWN_FOLDERS = ("gateway", "policies", "backends", "tests", ".ci")
DOCUMENTS = sorted(
    str(path.relative_to(ROOT))
    for path in [*ROOT.glob("*.md"), *(path for folder in OWN_FOLDERS for path in (ROOT / folder).rglob("*.md"))]
)
# A name in backticks is taken for a path of the repository when it begins with one of its folders.
PATHS = re.compile(r"`((?:gateway|policies|backends|tests)/[\w./-]+)`")
# These tell of trees that were: the paths in them need not be there any more.
HISTORY = {"CHANGELOG.md", "tests/bench/RESULTS.md"}


def prose(text: str) -> str:
    """Return a document's text without its code blocks."""
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub gives the headings of a document."""
    headings = re.findall(r"^#+ (.+)$", prose(text), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(("document", "part"), [(name, part) for name in docs.PARTS for part in docs.PARTS[name]])
def test_generated_part_of_a_document_is_current(document: str, part: str) -> None:
    _, there, _ = docs.split((ROOT / document).read_text(), part)
    assert there == docs.PARTS[document][part](), f"`make docs` writes the part {part!r} of {document}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_to_files_and_headings_of_the_repository(document: str) -> None:
    lost = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose((ROOT / document).read_text())):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        path = (ROOT / document).parent / name if name else ROOT / document
        if not path.exists() or (anchor and anchor not in anchors(path.read_text())):
            lost.append(target)
    assert lost == []


@pytest.mark.parametrize("document", [name for name in DOCUMENTS if name not in HISTORY])
def test_paths_in_backticks_exist(document: str) -> None:
    text = prose((ROOT / document).read_text())
    named = PATHS.findall(re.sub(r"Create `[^`]+`", "", text))
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_readme_names_every_verb_of_make_and_no_other() -> None:
    described = re.findall(r"^#   make ([a-z-]+)", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    verbs = [verb for verb in described if verb != "lock"]
    assert verbs == re.findall(r"^\| `make ([a-z-]+)`", README, flags=re.MULTILINE)


def test_readme_leads_from_nothing_to_an_answer_and_to_an_own_engine() -> None:
    way = ["make run", "`curl`", "policies/examples/vllm.yaml", "sluice keys create", "sluice serve policy.yaml"]
    places = [README.find(step) for step in way]
    assert -1 not in places
    assert places == sorted(places)


def test_http_api_names_every_path_that_clients_may_ask_for_with_its_scope() -> None:
    rows = re.findall(r"^\| (`/.*) \| .* \| `([a-z]+)` \|$", HTTP_API, flags=re.MULTILINE)
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


def test_examples_are_listed_in_the_guide_of_the_policy_file() -> None:
    folder = ROOT / "policies" / "examples"
    examples = sorted(path.name for path in folder.glob("*.yaml") if not path.name.endswith("-keys.yaml"))
    assert [name for name in examples if name not in EXAMPLES] == []


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


def test_tests_that_security_names_exist() -> None:
    rows = [line for line in (ROOT / "SECURITY.md").read_text().splitlines() if line.startswith("| ")]
    lost = []
    for row in rows:
        path = None
        for word in re.findall(r"`(tests/\S+\.py|test_\w+)`", row):
            if word.startswith("tests/"):
                path = ROOT / word
            elif path is None or not re.search(rf"def {word}\(", path.read_text()):
                lost.append(word)
    assert lost == []
    assert len(rows) > 15
