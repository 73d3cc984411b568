"""The form of a key of ours."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.identity.api_keys import PREFIX, looks_like_ours, new_key

# Fixed, not new: every process of a parallel run must collect the same tests.
KEY = "sk-sluice-FE0fbOY6TkOrFLFdmkgIKMOY8o6iyCYFc3gawXh"


def test_a_new_key_has_the_prefix_196_random_bits_and_a_checksum() -> None:
    key = new_key()
    assert key.startswith(PREFIX)
    assert len(key) == 49
    assert set(key[10:]) <= set(string.ascii_letters + string.digits)
    assert 62**33 > 2**196
    assert len({new_key() for _ in range(100)}) == 100


@given(st.integers(0, 48), st.characters(codec="ascii", exclude_characters="\0"))
def test_a_key_with_one_wrong_character_still_looks_like_ours(place: int, wrong: str) -> None:
    assert looks_like_ours(KEY[:place] + wrong + KEY[place + 1 :])


@pytest.mark.parametrize(
    "token", [KEY, KEY[1:], KEY[:-1], KEY[10:], KEY.upper(), "sk-sluice", "sk-sluice-", "SK-SLUICE-x", "sk-sluice_x"]
)
def test_a_near_miss_of_a_key_looks_like_ours(token: str) -> None:
    assert looks_like_ours(token)


@pytest.mark.parametrize("token", ["", "dummy", "not-needed", "sk-proj-abc", "sk-ant-api03-x", "sk-slui", "x" * 49])
def test_a_foreign_token_does_not_look_like_ours(token: str) -> None:
    assert not looks_like_ours(token)
