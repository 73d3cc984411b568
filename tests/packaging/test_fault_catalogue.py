"""Catalogue of faults (tests/faults/README.md): every test that it names exists, and every fault has a row."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CATALOGUE = (ROOT / "tests/faults/README.md").read_text("utf-8")


def test_every_test_of_the_catalogue_exists() -> None:
    named = re.findall(r"`([\w/.]+)::(\w+)`", CATALOGUE)
    assert len(named) > 100
    missing = []
    for file, name in named:
        path = ROOT / (file if "/" in file else f"tests/faults/test_{file}.py")
        if not path.exists() or not re.search(rf"^(?:async )?def {name}\b", path.read_text("utf-8"), re.MULTILINE):
            missing.append(f"{file}::{name}")
    assert missing == []


def test_rows_are_numbered_without_a_gap_and_name_a_test_or_say_that_there_is_none() -> None:
    rows = re.findall(r"^\| (\d+) \|[^|]*\| ([^|]*) \| ([^|]*) \|$", CATALOGUE, re.MULTILINE)
    assert [int(number) for number, _, _ in rows] == list(range(1, len(rows) + 1))
    assert [number for number, expected, tests in rows if "::" not in tests and "not built yet" not in expected] == []
