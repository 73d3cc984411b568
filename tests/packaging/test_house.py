"""Rules of the house (tests/house.py): each of them is broken by a small tree, and kept by another one."""

from pathlib import Path

import pytest

from tests.house import ROOT, breaches

DESIGN = "# Design\n\n## Rules\n\n1. One.\n12. Twelve.\n"
FAULTS = "| number | fault | expected | tests |\n|---|---|---|---|\n| 1 | a | b | c |\n| 2 | a | b | c |\n"


def tree(root: Path, files: dict[str, str]) -> Path:
    """Write a tree with the documents that a citation may name."""
    for folder in ("gateway", "backends", "policies", "tests/faults"):
        (root / folder).mkdir(parents=True)
    (root / "DESIGN.md").write_text(DESIGN)
    (root / "tests/faults/README.md").write_text(FAULTS)
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


BROKEN: dict[str, tuple[str, dict[str, str]]] = {
    "an import circle": ("cycle", {"gateway/a.py": "import gateway.b\n", "gateway/b.py": "from gateway import a\n"}),
    "a circle under TYPE_CHECKING": (
        "cycle",
        {
            "gateway/a.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from gateway.b import B\n",
            "gateway/b.py": "from gateway.c import C\n",
            "gateway/c.py": "def f():\n    import gateway.a\n",
        },
    ),
    "one name for two classes": ("class", {"gateway/a.py": "class Door: ...\n", "policies/b.py": "class Door: ...\n"}),
    "a module that opens with a bare clause": ("docstring", {"gateway/a.py": '"""What waits."""\n'}),
    "a method that opens with a bare clause": (
        "docstring",
        {"gateway/a.py": 'class A:\n    def f(self):\n        """Whether it may."""\n'},
    ),
    "an attribute that opens with a bare clause": ("docstring", {"gateway/a.py": 'x = 1\n"""Who is next."""\n'}),
    "a document that is not here": ("citation", {"gateway/a.py": "# FAULTS row 3\n"}),
    "a rule that is not in DESIGN": ("citation", {"gateway/a.py": "# DESIGN rules 1, 12 and 13\n"}),
    "a section that is not in DESIGN": ("citation", {"gateway/a.py": '# DESIGN, section "Nowhere"\n'}),
    "a fault that is not in the catalogue": ("citation", {"tests/test_a.py": "# faults 1 to 3\n"}),
    "an issue": ("citation", {"tests/test_a.py": "# point 3 of issue 2\n"}),
    "a file that is not there": ("citation", {"gateway/a.py": "# `gateway/b.py`\n"}),
    "a module that is not there": ("citation", {"gateway/a.py": "# `gateway.b.c`\n"}),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_tree_that_breaks_a_rule_is_told_so(tmp_path: Path, case: str) -> None:
    rule, files = BROKEN[case]
    found = breaches(tree(tmp_path, files))
    assert {breach.rule for breach in found} == {rule}, found


def test_a_tree_that_keeps_the_rules_has_no_breach(tmp_path: Path) -> None:
    files = {
        "gateway/a.py": '"""Queue (DESIGN rules 1 and 12, fault 2)."""\nimport policies.b\n# `policies/b.py`\n',
        "policies/b.py": 'class Door:\n    """Door of a pool."""\n    x = 1\n    """Number of slots."""\n',
        "tests/test_a.py": "class Door: ...\n",
    }
    assert breaches(tree(tmp_path, files)) == []


def test_this_tree_keeps_them() -> None:
    assert breaches(ROOT) == []
