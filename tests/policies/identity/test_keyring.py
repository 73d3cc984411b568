"""The life of a key: what making, rotating and revoking do to the entries of a keys file."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from policies.identity.api_keys import KeyEntry, digest
from policies.identity.keyring import DEMO_LABEL, KeyringError, check_names, created, revoked, rotated

OLD = KeyEntry("k1", digest("old"), "acme", "free", created=0.0, expires=100.0, models=("m",), labels={"a": "b"})
OTHER = KeyEntry("k2", digest("other"), "acme", "free", created=0.0)
NEW = digest("new")


def test_a_created_key_joins_the_others() -> None:
    assert created([OTHER], OLD) == [OTHER, OLD]


def test_an_id_is_used_once() -> None:
    with pytest.raises(KeyringError, match="k1 already"):
        created([OLD], replace(OLD, sha256=NEW))


@pytest.mark.parametrize("name", ["", "a b", "a/b", "-a", "x" * 64, "é", "a\n", '"'])
@pytest.mark.parametrize("field", ["id", "tenant", "plan"])
def test_names_are_fit_for_logs_and_labels(field: str, name: str) -> None:
    changed = {"id": replace(OLD, id=name), "tenant": replace(OLD, tenant=name), "plan": replace(OLD, plan=name)}
    with pytest.raises(KeyringError, match=field):
        check_names(changed[field])


def test_no_key_and_no_tenant_is_called_anonymous() -> None:
    """Else it would be counted with those who have no key."""
    with pytest.raises(KeyringError, match='id "anonymous"'):
        created([], replace(OLD, id="anonymous"))
    with pytest.raises(KeyringError, match='tenant "anonymous"'):
        created([], replace(OLD, tenant="anonymous"))


@pytest.mark.parametrize(
    ("over", "says"),
    [
        ({"models": ("qwen[",)}, "models: a \\["),
        ({"models": ("",)}, "models: "),
        ({"scopes": frozenset({"chat", "sing"})}, 'no scope "sing"'),
        ({"labels": {"a b": "x"}}, "label's name"),
        ({"labels": {"a": "x\n"}}, "label a must be"),
        ({"labels": {"a": "x" * 257}}, "label a must be"),
        ({"labels": {"forwards_user": "yes"}}, "true or false"),
        ({"labels": {"demo_key": "x"}}, "demo_key"),
        ({"labels": {f"l{n}": "" for n in range(33)}}, "at most 32"),
    ],
)
def test_what_nobody_could_have_meant_makes_no_key(over: dict[str, Any], says: str) -> None:
    with pytest.raises(KeyringError, match=says):
        created([], replace(OLD, **over))


def test_a_rotated_key_keeps_all_but_its_secret_and_lives_as_long_again() -> None:
    old, other, fresh = rotated([OLD, OTHER], "k1", NEW, now=50.0, overlap=10.0)
    assert other is OTHER
    assert old == replace(OLD, expires=60.0)
    assert fresh == replace(OLD, sha256=NEW, created=50.0, expires=150.0)


def test_an_overlap_never_makes_the_old_secret_live_longer() -> None:
    old, _ = rotated([OLD], "k1", NEW, now=50.0, overlap=1000.0)
    assert old.expires == 100.0


def test_a_second_rotation_ends_every_older_secret() -> None:
    entries = rotated(rotated([OTHER], "k2", NEW, now=10.0, overlap=90.0), "k2", digest("newer"), now=20.0, overlap=5.0)
    assert [entry.expires for entry in entries] == [25.0, 25.0, None]


def test_a_rotated_demo_key_is_no_public_key_any_more() -> None:
    _, fresh = rotated([replace(OLD, labels={DEMO_LABEL: "old", "a": "b"})], "k1", NEW, now=1.0, overlap=1.0)
    assert fresh.labels == {"a": "b"}


def test_revoking_ends_every_secret_of_an_id_and_keeps_the_first_time() -> None:
    entries = [replace(OLD, revoked=1.0), replace(OLD, sha256=NEW), OTHER]
    assert [entry.revoked for entry in revoked(entries, "k1", now=5.0)] == [1.0, 5.0, None]


def test_a_revoked_key_is_not_rotated() -> None:
    with pytest.raises(KeyringError, match="revoked"):
        rotated(revoked([OLD], "k1", now=5.0), "k1", NEW, now=6.0, overlap=1.0)


def test_an_unknown_id_is_answered_with_the_known_ones() -> None:
    with pytest.raises(KeyringError, match=r'no key "k9" \(known: k1, k2\)'):
        revoked([OLD, OLD, OTHER], "k9", now=1.0)
    with pytest.raises(KeyringError, match="known: none"):
        rotated([], "k9", NEW, now=1.0, overlap=1.0)
    with pytest.raises(KeyringError, match="and 5 more"):
        revoked([replace(OLD, id=f"k{i}") for i in range(25)], "x", now=1.0)
