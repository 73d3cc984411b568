"""`sluice explain`: a row a finding, and an exit code that a script can use."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from backends.identity.keyfile import change_keys
from gateway.cli.verbs import app
from policies.identity.api_keys import KeyEntry, digest
from tests.policies.policy_files import SMALL, write

PLANS = "auth: {api_keys: {file: k.yaml}}\nplans: {free: {}}\n"


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    entry = KeyEntry("k1", digest("1"), "acme", "free", created=0.0)
    change_keys(tmp_path / "k.yaml", lambda _: [entry])
    return write(tmp_path, SMALL + PLANS)


def explained(*words: str, code: int) -> Result:
    result = CliRunner().invoke(app, ["explain", *words])
    assert result.exit_code == code, result.output
    return result


def test_what_would_be_sent_on_is_0(policy: Path) -> None:
    lines = explained(str(policy), "--key", "k1", "--model", "m", code=0).stdout.splitlines()
    assert lines[0].split() == ["key", "k1", "of", "tenant", "acme", "active"]
    assert lines[-1].split(maxsplit=1) == ["result", "it would be sent on"]
    assert not any(line.endswith(" ") for line in lines)


def test_what_would_be_refused_is_1(policy: Path) -> None:
    out = explained(str(policy), "--key", "k1", "--model", "x", code=1).stdout
    assert "refused: 404 model_not_found" in out


def test_what_cannot_be_told_is_1_and_an_error(policy: Path) -> None:
    assert "known: anonymous, k1" in explained(str(policy), "--key", "k9", "--model", "m", code=1).stderr
    (policy.parent / "k.yaml").unlink()
    assert "is not there; make it" in explained(str(policy), "--key", "k1", "--model", "m", code=1).stderr


def test_a_wrong_policy_is_1_with_its_mistakes(tmp_path: Path) -> None:
    path = write(tmp_path, SMALL + "nonsense: 1\n")
    assert "nonsense" in explained(str(path), "--key", "k1", "--model", "m", code=1).stdout


def test_a_missing_word_is_2(policy: Path) -> None:
    explained(str(policy), "--model", "m", code=2)
