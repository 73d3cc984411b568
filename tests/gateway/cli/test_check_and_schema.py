"""`sluice check` says every mistake or one line; `sluice schema` is JSON."""

import json
from pathlib import Path

import pytest

from gateway.cli import check, schema
from tests.policies.policy_files import EXAMPLES, SMALL, write


def test_check_of_a_good_file_is_one_line_and_0(capsys: pytest.CaptureFixture[str]) -> None:
    path = EXAMPLES / "quickstart.yaml"
    assert check.run(path) == 0
    out, err = capsys.readouterr()
    assert (out, err) == (f"{path}: OK (1 pool, 1 route, 1 plan)\n", "")


def test_check_prints_every_mistake_and_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, SMALL + "  - {model: n, pool: gone}\nserver: {max_body: 5}\n")
    assert check.run(path) == 1
    assert capsys.readouterr().out.splitlines() == [
        f'{path}:8:22 routes[1].pool: no pool "gone" (known: p)',
        f'{path}:9:20 server.max_body: expected a size such as 512B, 64KiB or 16MiB, found "5"',
    ]


def test_check_needs_no_secrets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, SMALL.replace("endpoints:", "api_key: {env: SLUICE_NOT_SET}\n    endpoints:"))
    assert check.run(path) == 0
    assert "OK" in capsys.readouterr().out


def test_check_says_which_file_of_an_issuers_keys_is_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    issuer = "{name: corp, issuer: 'https://i', audience: a, jwks: {file: k.json}, default: {plan: p}}"
    path = write(tmp_path, SMALL + f"plans: {{p: {{}}}}\nauth: {{anonymous: p, jwt: [{issuer}]}}\n")
    assert check.run(path) == 0
    note = f"note: {tmp_path}/k.json is not there (auth.jwt corp: jwks.file)"
    assert note in capsys.readouterr().out.splitlines()


def test_check_of_a_missing_file_is_a_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check.run(tmp_path / "gone.yaml") == 1
    assert capsys.readouterr().out == f"{tmp_path}/gone.yaml:1:1: cannot be read: No such file or directory\n"


def test_schema_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert schema.run() == 0
    found = json.loads(capsys.readouterr().out)
    assert found["properties"]["server"]["properties"]["max_body"]["default"] == "16MiB"
