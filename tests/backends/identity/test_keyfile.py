"""The keys file: what is written reads back, whatever is odd is an error with its line, and no change is ever half
done."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from backends.identity.keyfile import KeyFileError, change_keys, load_keys
from policies.identity.api_keys import KeyEntry, digest, new_key
from tests.pace import cpu, slowdown

ENTRY = KeyEntry("k1", digest("secret"), "acme", "free", created=1_800_000_000.0)
FULL = replace(
    ENTRY,
    id="k2",
    sha256=digest("demo"),
    expires=1_900_000_000.0,
    revoked=1_850_000_000.0,
    models=("qwen2-*", "é"),
    scopes=frozenset({"chat", "audio"}),
    labels={"demo_key": "demo", "forwards_user": "true"},
)

GOOD = {"id": "k1", "sha256": "0" * 64, "tenant": "t", "plan": "p", "created": "2026-11-20T15:00:00Z"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.yaml"


def test_what_is_written_reads_back(path: Path) -> None:
    change_keys(path, lambda entries: [*entries, ENTRY])
    change_keys(path, lambda entries: [*entries, FULL])
    assert load_keys(path) == [ENTRY, FULL]


def test_a_new_file_is_for_its_owner_alone_and_has_no_key_in_it(path: Path) -> None:
    key = new_key()
    change_keys(path, lambda entries: [replace(ENTRY, sha256=digest(key))])
    assert path.stat().st_mode & 0o777 == 0o600
    assert key not in path.read_text() and key[10:] not in path.read_text()
    assert json.loads(path.read_text())["sha256"] == digest(key).hex()


def test_a_change_keeps_the_files_mode(path: Path) -> None:
    path.touch()
    path.chmod(0o640)
    change_keys(path, lambda entries: [ENTRY])
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_change_goes_through_a_link_and_leaves_nothing_beside(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "real" / "keys.yaml"
    target.parent.mkdir()
    path.symlink_to(target)
    change_keys(path, lambda entries: [ENTRY])
    assert path.is_symlink() and load_keys(target) == [ENTRY]
    assert os.listdir(target.parent) == ["keys.yaml"]


def test_a_change_that_fails_leaves_the_file_as_it_was(path: Path) -> None:
    change_keys(path, lambda entries: [ENTRY])
    before = path.read_bytes()

    def fails(entries: Sequence[KeyEntry]) -> Sequence[KeyEntry]:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        change_keys(path, fails)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["keys.yaml"]


def test_writers_at_one_time_lose_no_key_and_readers_see_no_half_file(path: Path) -> None:
    change_keys(path, lambda entries: [])
    done = threading.Event()
    odd: list[BaseException] = []

    def write(worker: int) -> None:
        for i in range(10):
            entry = replace(ENTRY, id=f"k{worker}-{i}", sha256=digest(f"{worker}-{i}"))
            change_keys(path, lambda entries, entry=entry: [*entries, entry])  # type: ignore[misc]

    def read() -> None:
        while not done.is_set():
            try:
                load_keys(path)
            except KeyFileError as error:
                odd.append(error)

    reader = threading.Thread(target=read)
    writers = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join(30)
    done.set()
    reader.join(30)
    assert odd == []
    assert len(load_keys(path)) == 40


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "truncated"),
        ("[]", "object"),
        ("keys:", "malformed"),
        (json.dumps(GOOD | {"sha256": "0" * 63}), "sha256"),
        (json.dumps(GOOD | {"sha256": "A" * 64}), "sha256"),
        (json.dumps(GOOD | {"sha256": " 0" * 32}), "sha256"),
        (json.dumps(GOOD | {"plan": 1}), "plan"),
        (json.dumps(GOOD | {"plan": "a b"}), "plan"),
        (json.dumps(GOOD | {"id": "anonymous"}), "anonymous"),
        (json.dumps(GOOD | {"created": "yesterday"}), "time"),
        (json.dumps(GOOD | {"created": "2026-11-20T15:00:00"}), "time"),
        (json.dumps(GOOD | {"expires": "2026-13-01T00:00:00Z"}), "time"),
        (json.dumps(GOOD | {"expires": None}), "expires"),
        (json.dumps(GOOD | {"scopes": ["chat", "all"]}), 'no scope "all"'),
        (json.dumps(GOOD | {"models": "qwen"}), "models"),
        (json.dumps(GOOD | {"labels": {"a": 1}}), "labels"),
        (json.dumps(GOOD | {"labels": {"demo_key": "other"}}), "demo_key"),
        (json.dumps(GOOD | {"key": "sk-sluice-x"}), "unknown field `key`"),
        (json.dumps({name: text for name, text in GOOD.items() if name != "tenant"}), "tenant"),
        (json.dumps(GOOD | {"id": "k0", "sha256": digest("secret").hex()}), "the same key as in line 1"),
    ],
)
def test_whatever_is_odd_is_an_error_with_its_line(path: Path, line: str, says: str) -> None:
    change_keys(path, lambda entries: [ENTRY])
    with path.open("a") as file:
        file.write(f"\n{line}\n")
    with pytest.raises(KeyFileError, match=r"keys\.yaml:3: ") as caught:
        load_keys(path)
    assert says in str(caught.value)
    with pytest.raises(KeyFileError, match=r"keys\.yaml:3: "):
        change_keys(path, lambda entries: [])


def test_a_file_that_was_cut_off_is_refused(path: Path) -> None:
    change_keys(path, lambda entries: [ENTRY, FULL])
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(KeyFileError, match=r":2: the last line has no end"):
        load_keys(path)


def test_a_file_that_is_not_there_or_not_readable_is_an_error(path: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match=r"keys\.yaml: No such file"):
        load_keys(path)
    with pytest.raises(KeyFileError, match="directory"):
        load_keys(tmp_path)
    with pytest.raises(KeyFileError, match="No such file"):
        change_keys(tmp_path / "none" / "keys.yaml", lambda entries: [])


def test_an_empty_file_has_no_keys(path: Path) -> None:
    path.write_text("\n \n")
    assert load_keys(path) == []


def test_ten_thousand_keys_load_in_well_under_200_ms(path: Path) -> None:
    change_keys(path, lambda _: [replace(FULL, labels={}, id=f"k{i}", sha256=digest(str(i))) for i in range(10_000)])
    assert len(load_keys(path)) == 10_000
    assert cpu(lambda: load_keys(path)) < 0.2 * slowdown()
