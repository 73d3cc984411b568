"""What a principal may use."""

from __future__ import annotations

import pytest

from policies.config.settings import PlanSettings
from policies.identity.principal import SCOPES, Principal, principal_for, read_scopes


def test_each_set_of_globs_must_allow_one_of_the_names_of_a_model() -> None:
    principal = Principal("k", "t", "p", models=(("qwen2-*",), None, ("gpt-4o-mini",)))
    assert principal.may_use("gpt-4o-mini", "qwen2-7b")
    assert not principal.may_use("gpt-4o-mini")
    assert not principal.may_use("qwen2-7b")
    assert Principal("k", "t", "p").may_use("anything")
    assert not Principal("k", "t", "p", models=((),)).may_use("anything")


def test_engine_fields_is_never_a_default_scope() -> None:
    assert "engine_fields" not in principal_for(PlanSettings(), plan_name="full").scopes
    assert "engine_fields" in principal_for(PlanSettings(scopes=("chat", "engine_fields")), plan_name="x").scopes


def test_scopes_are_read_by_name() -> None:
    assert read_scopes(SCOPES) == SCOPES and read_scopes(()) == frozenset()
    with pytest.raises(ValueError, match=r'no scope "chats" \(known: audio, chat, completions'):
        read_scopes(["chat", "chats"])
