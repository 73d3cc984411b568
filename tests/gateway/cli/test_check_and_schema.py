"""`sluice check` says every mistake or one line; `sluice schema` is JSON."""

import json
from pathlib import Path

import pytest

from backends.identity.keyfile import write_entry
from gateway.cli import check, schema
from policies.identity.api_keys import KeyEntry, digest
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
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"{path}: OK (1 pool, 1 route, 0 plans)"
    assert said[1].startswith(f"note: {path}:")
    assert said[1].endswith(" pools.p.api_key: environment variable SLUICE_NOT_SET is not set")


def test_check_says_which_file_of_an_issuers_keys_is_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, SMALL + f"plans: {{p: {{}}}}\nauth: {{anonymous: p, jwt: [{issuer_of('file: k.json')}]}}\n")
    assert check.run(path) == 0
    note = f"note: {tmp_path}/k.json is not there (auth.jwt corp: jwks.file)"
    assert note in capsys.readouterr().out.splitlines()


def issuer_of(jwks: str) -> str:
    return f"{{name: corp, issuer: 'https://i', audience: a, jwks: {{{jwks}}}, default: {{plan: p}}}}"


@pytest.mark.parametrize(
    ("auth", "plan", "note"),
    [
        ("{api_keys: off}", "{}", "nobody can ask: auth has no api_keys, no jwt and no anonymous plan"),
        ("{api_keys: {file: k.json}}", "{}", "{folder}/k.json:1: the last line has no end"),
        ("{api_keys: {file: old.keys}}", "{}", '{folder}/old.keys: key k: no plan "gone" (known: p)'),
        (
            f"{{anonymous: p, jwt: [{issuer_of('file: k.json')}]}}",
            "{}",
            "{folder}/k.json: no key in it suits RS256, ES256, EdDSA (auth.jwt corp: jwks.file)",
        ),
        (
            f"{{anonymous: p, jwt: [{issuer_of('url: http://sso/keys')}]}}",
            "{}",
            "auth.jwt corp: its keys come over http, and whoever stands between could send others: use https",
        ),
        (
            "{anonymous: p}",
            "{limits: [{requests: 9/minute, per: ip}, {requests: 99/minute, per: all}, {concurrency: 4}]}",
            "plans.p.limits[2] is per key, and all anonymous clients are one: per: ip counts each address",
        ),
        (
            "{anonymous: p}",
            "{max_output_tokens: 2k, limits: [{requests: 9/minute, per: ip}, {output_tokens: 1k/minute, per: ip}]}",
            "plans.p.max_output_tokens is 2000, and limits[1] lets 1000 through at once: more is always refused",
        ),
        (
            "{anonymous: p}",
            "{max_input_tokens: 2k, limits: [{tokens: 9k/day, burst: 1k, per: ip}, {output_tokens: 9/day, per: all}]}",
            "plans.p.max_input_tokens is 2000, and limits[0] lets 1000 through at once: more is always refused",
        ),
    ],
)
def test_check_notes_what_nobody_can_have_meant(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], auth: str, plan: str, note: str
) -> None:
    (tmp_path / "k.json").write_text('{"keys": []}')
    entry = KeyEntry("k", digest("1"), "acme", "gone", created=0.0)
    (tmp_path / "old.keys").write_bytes(write_entry(entry) + b"\n")
    path = write(tmp_path, SMALL + f"plans: {{p: {plan}}}\nauth: {auth}\n")
    assert check.run(path) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [f"note: {note.replace('{folder}', str(tmp_path))}"]


@pytest.mark.parametrize("url", ["https://sso/keys", "http://127.0.0.1:1/keys", "http://localhost/keys"])
def test_check_has_nothing_against_keys_over_tls_or_from_here(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], url: str
) -> None:
    path = write(tmp_path, SMALL + f"plans: {{p: {{}}}}\nauth: {{anonymous: p, jwt: [{issuer_of(f'url: {url}')}]}}\n")
    assert check.run(path) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_check_of_a_missing_file_is_a_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check.run(tmp_path / "gone.yaml") == 1
    assert capsys.readouterr().out == f"{tmp_path}/gone.yaml:1:1: cannot be read: No such file or directory\n"


def test_schema_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert schema.run() == 0
    found = json.loads(capsys.readouterr().out)
    assert found["properties"]["server"]["properties"]["max_body"]["default"] == "16MiB"
