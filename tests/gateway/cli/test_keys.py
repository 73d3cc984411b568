"""`sluice keys`: the verbs as an operator and a script use them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from backends.identity.keyfile import load_keys
from gateway.cli.keys import app
from policies.identity.api_keys import digest, looks_like_ours
from policies.identity.authenticator import Authenticator, records
from policies.identity.principal import AuthenticationError
from tests.policies.policy_files import SMALL, write


class Plan:
    models = None
    scopes = None


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.yaml"


def sluice_keys(path: Path, *words: str, code: int = 0) -> Result:
    place = () if {"--policy", "--store"} & set(words) else ("--file", str(path))
    result = CliRunner().invoke(app, [*words, *place])
    assert result.exit_code == code, result.output
    return result


def create(path: Path, *words: str) -> str:
    return sluice_keys(path, "create", "--tenant", "acme", "--plan", "free", *words).stdout


def works(path: Path, key: str, now: float = 0.0) -> bool:
    found, _ = records(load_keys(path), {"free": Plan()})
    try:
        Authenticator(found, None, lambda: now).authenticate(b"Bearer " + key.encode(), None)
    except AuthenticationError:
        return False
    return True


def test_create_makes_a_missing_file_and_prints_the_key_alone(path: Path) -> None:
    out = create(path)
    key = out.splitlines()[-1]
    assert out == key + "\n" and looks_like_ours(key)
    (entry,) = load_keys(path)
    assert (entry.tenant, entry.plan, entry.expires, entry.models) == ("acme", "free", None, None)
    assert entry.sha256 == digest(key)
    assert works(path, key)


def test_create_takes_a_lifetime_models_and_an_id(path: Path) -> None:
    create(path, "--expires", "90d", "--models", "qwen2-*", "--models", "llama", "--id", "k1")
    (entry,) = load_keys(path)
    assert (entry.id, entry.models) == ("k1", ("qwen2-*", "llama"))
    assert entry.expires == entry.created + 90 * 86400


def test_create_takes_rights_and_labels_and_list_shows_them(path: Path) -> None:
    words = ("--models", "qwen2-*", "--models", "bge", "--scopes", "chat", "--scopes", "embeddings")
    create(path, "--id", "k1", *words, "--label", "team=search", "--label", "forwards_user=true")
    (entry,) = load_keys(path)
    assert (entry.models, entry.scopes) == (("qwen2-*", "bge"), frozenset({"chat", "embeddings"}))
    assert entry.labels == {"team": "search", "forwards_user": "true"}
    out = sluice_keys(path, "list").output
    assert "qwen2-* bge" in out and "chat embeddings" in out and "team=search forwards_user=true" in out


def test_a_policy_says_where_the_keys_are(path: Path, tmp_path: Path) -> None:
    policy = write(tmp_path, SMALL + "auth: {api_keys: {file: sub/mine.yaml}}\nplans: {p: {}}\n")
    (tmp_path / "sub").mkdir()
    refused = sluice_keys(path, "create", "--tenant", "t", "--plan", "q", "--policy", str(policy), code=1)
    assert refused.stderr == f'no plan "q" in {policy} (known: p)\n' and not refused.stdout
    sluice_keys(path, "create", "--tenant", "t", "--plan", "p", "--id", "k1", "--policy", str(policy))
    assert [entry.id for entry in load_keys(tmp_path / "sub" / "mine.yaml")] == ["k1"]
    assert "k1" in sluice_keys(path, "list", "--policy", str(policy)).output
    sluice_keys(path, "revoke", "k1", "--policy", str(policy))
    off = write(tmp_path, SMALL + "auth: {api_keys: off, anonymous: free}\nplans: {free: {}}\n")
    assert "off" in sluice_keys(path, "list", "--policy", str(off), code=1).stderr


def test_a_key_must_live(path: Path) -> None:
    assert "longer lifetime" in sluice_keys(
        path, "create", "--tenant", "t", "--plan", "p", "--expires", "0", code=1
    ).stderr  # fmt: skip


def test_keys_are_not_in_memory(path: Path) -> None:
    assert "need a file" in sluice_keys(path, "list", "--store", "memory://", code=1).stderr
    assert "begins with" in sluice_keys(path, "list", "--store", "http://h", code=1).stderr
    both = CliRunner().invoke(app, ["list", "--store", "redis://h", "--file", str(path)])
    assert both.exit_code == 2 and "one of --file" in both.stderr


def test_list_shows_ids_and_states_and_never_a_hash_or_a_key(path: Path) -> None:
    keys = [create(path, "--id", name).strip() for name in ("k1", "k2")]
    create(path, "--id", "k3", "--expires", "1ms")
    sluice_keys(path, "revoke", "k2")
    out = sluice_keys(path, "list").output
    rows = [line.split() for line in out.splitlines()]
    assert [row[:4] for row in rows] == [
        ["ID", "TENANT", "PLAN", "STATE"],
        ["k1", "acme", "free", "active"],
        ["k2", "acme", "free", "revoked"],
        ["k3", "acme", "free", "expired"],
    ]
    for secret in (*keys, *(json.loads(line)["sha256"] for line in path.read_text().splitlines())):
        assert secret not in out and secret[-12:] not in out


def test_rotate_gives_a_new_key_and_lets_the_old_one_overlap(path: Path) -> None:
    old = create(path, "--id", "k1").strip()
    new = sluice_keys(path, "rotate", "k1", "--overlap", "1h").stdout.splitlines()[-1]
    first, second = load_keys(path)
    assert works(path, new, second.created + 1e9)
    assert works(path, old, second.created + 3599) and not works(path, old, second.created + 3600)
    assert first.id == second.id == "k1"


def test_rotate_tells_when_the_old_key_ends_also_where_it_would_have_anyway(path: Path) -> None:
    create(path, "--id", "k1", "--expires", "1h")
    told = sluice_keys(path, "rotate", "k1", "--overlap", "9d").stderr
    (old, _) = load_keys(path)
    assert old.expires is not None
    assert f"the old one ends {datetime.fromtimestamp(old.expires, UTC):%Y-%m-%d %H:%M}Z" in told


def test_rotate_overlaps_a_day_unless_told(path: Path) -> None:
    create(path, "--id", "k1")
    sluice_keys(path, "rotate", "k1")
    first, second = load_keys(path)
    assert first.expires == second.created + 86400


def test_revoke_ends_a_key_at_once(path: Path) -> None:
    key = create(path, "--id", "k1").strip()
    assert sluice_keys(path, "revoke", "k1").stdout == ""
    assert not works(path, key)


@pytest.mark.parametrize("verb", ["rotate", "revoke"])
def test_an_unknown_id_exits_1_with_the_known_ones(path: Path, verb: str) -> None:
    create(path, "--id", "k1")
    result = sluice_keys(path, verb, "k9", code=1)
    assert result.stderr == 'no key "k9" (known: k1)\n' and result.stdout == ""


@pytest.mark.parametrize("words", [("list",), ("rotate", "k1"), ("revoke", "k1")])
def test_a_missing_file_exits_1_and_is_not_made(path: Path, words: tuple[str, ...]) -> None:
    assert "is not there; make it: sluice keys create" in sluice_keys(path, *words, code=1).stderr
    assert not path.exists()


def test_a_broken_file_exits_1_with_the_line_and_stays(path: Path) -> None:
    path.write_text("{}\n")
    assert "keys.yaml:1: " in sluice_keys(path, "list", code=1).stderr
    sluice_keys(path, "create", "--tenant", "t", "--plan", "p", code=1)
    assert path.read_text() == "{}\n"


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("create", "--tenant", "t"), 2, "--plan"),
        (("create", "--tenant", "t", "--plan", "p", "--label", "x"), 2, "NAME=TEXT"),
        (("create", "--tenant", "t", "--plan", "p", "--scopes", "sing"), 1, "no scope"),
        (("create", "--tenant", "t", "--plan", "p", "--models", "a["), 1, "models: "),
        (("create", "--tenant", "t", "--plan", "p", "--expires", "soon"), 2, "duration such as"),
        (("create", "--tenant", "a b", "--plan", "p"), 1, "tenant must be"),
        (("create", "--tenant", "t", "--plan", "p", "--id", "k1"), 1, "k1 already"),
        (("rotate", "k1", "--overlap", "-1s"), 2, "duration"),
        (("rotate",), 2, "ID"),
    ],
)
def test_bad_input_is_told_and_changes_nothing(path: Path, words: tuple[str, ...], code: int, says: str) -> None:
    create(path, "--id", "k1")
    before = path.read_bytes()
    assert says in sluice_keys(path, *words, code=code).stderr
    assert path.read_bytes() == before
