"""Tokens reserved before and settled after: nobody takes what was not reserved, and nothing is kept that was not
used."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.config.settings.auth import PlanSettings
from policies.request.describe import DescribedRequest, RefusedBody, describe
from policies.request.usage.dialects import CHAT, COMPLETIONS, DIALECTS, GENERATE, MESSAGES
from policies.request.usage.estimate import LEAST, MOST, START, UNSAID, TokenEstimates, counted, real


def call_of(prompt_bytes: int = 400, max_tokens: int | None = None, answers: int = 1) -> DescribedRequest:
    return DescribedRequest("m", prompt_bytes=prompt_bytes, max_tokens=max_tokens, answers=answers)


def test_a_model_nobody_knows_has_4_bytes_a_token() -> None:
    estimates = TokenEstimates()
    assert estimates.bytes_per_token("m") == START == 4.0
    assert estimates.prompt_tokens(call_of(401), "m") == 101
    assert estimates.prompt_tokens(call_of(1), "m") == 1
    assert estimates.prompt_tokens(call_of(0), "m") == 0


@pytest.mark.parametrize("ratio", [1.5, 3.0, 6.0])
def test_it_learns_what_a_token_takes_and_learns_anew(ratio: float) -> None:
    estimates = TokenEstimates()
    for _ in range(100):
        estimates.learn("m", round(1000 * ratio), 1000)
    assert estimates.bytes_per_token("m") == pytest.approx(ratio, rel=0.02)
    assert estimates.bytes_per_token("other") == START
    for _ in range(200):
        estimates.learn("m", 5000, 1000)
    assert estimates.bytes_per_token("m") == pytest.approx(5.0, rel=0.05)


@given(st.lists(st.tuples(st.integers(-1, 10**9), st.integers(-1, 10**9)), max_size=20))
def test_it_stays_within_reason(seen: list[tuple[int, int]]) -> None:
    estimates = TokenEstimates()
    for size, tokens in seen:
        estimates.learn("m", size, tokens)
    assert LEAST <= estimates.bytes_per_token("m") <= MOST


def test_one_request_is_not_believed_too_much() -> None:
    estimates = TokenEstimates()
    for _ in range(100):
        estimates.learn("m", 4000, 1000)
    estimates.learn("m", 10**9, 10**6)
    assert estimates.bytes_per_token("m") < 8


def test_models_are_bounded() -> None:
    estimates = TokenEstimates(models=3)
    for name in ("a", "b", "c", "a", "d"):
        estimates.learn(name, 20_000, 10_000)
    assert [estimates.bytes_per_token(name) == START for name in "abcd"] == [False, True, False, False]


@pytest.mark.parametrize(
    ("call", "plan", "output"),
    [
        (call_of(max_tokens=64), PlanSettings(), 64),
        (call_of(max_tokens=64, answers=3), PlanSettings(), 192),
        (call_of(max_tokens=64), PlanSettings(max_output_tokens=16), 16),
        (call_of(max_tokens=8, answers=2), PlanSettings(max_output_tokens=16), 16),
        (call_of(), PlanSettings(max_output_tokens=16), 16),
        (call_of(), PlanSettings(), UNSAID),
        (call_of(answers=2), PlanSettings(), 2 * UNSAID),
        (call_of(max_tokens=0), PlanSettings(), 0),
        (call_of(answers=0), PlanSettings(max_output_tokens=16), 0),
    ],
)
def test_what_is_reserved(call: DescribedRequest, plan: PlanSettings, output: int) -> None:
    assert TokenEstimates().reserve(call, plan, "m") == (100, output)


def test_an_answer_nobody_bounds_fits_into_a_small_bucket() -> None:
    estimates, plan = TokenEstimates(), PlanSettings()
    assert estimates.reserve(call_of(), plan, "m", room=300) == (100, 200)
    assert estimates.reserve(call_of(), plan, "m", room=50) == (100, 1)
    assert estimates.reserve(call_of(max_tokens=900), plan, "m", room=300) == (100, 900)


def test_a_plan_whose_cap_is_over_its_own_limit_refuses_only_who_asks_for_that_much() -> None:
    estimates, plan = TokenEstimates(), PlanSettings(max_output_tokens=5000)
    assert estimates.reserve(call_of(), plan, "m", room=1000) == (100, 900)
    assert estimates.reserve(call_of(max_tokens=200), plan, "m", room=1000) == (100, 200)
    assert estimates.reserve(call_of(max_tokens=9000), plan, "m", room=1000) == (100, 5000)


def test_a_prompt_longer_than_the_plan_allows_is_refused() -> None:
    plan = PlanSettings(max_input_tokens=100)
    assert TokenEstimates().reserve(call_of(400), plan, "m")[0] == 100
    with pytest.raises(RefusedBody) as caught:
        TokenEstimates().reserve(call_of(401), plan, "m")
    assert caught.value.code == "context_length_exceeded"
    assert "101" in caught.value.message and "100" in caught.value.message


@pytest.mark.parametrize(
    ("usage", "count", "whole", "taken"),
    [
        ((None, None), None, True, (0, 0)),
        ((7, 5), 9, True, (7, 5)),
        ((7, None), 9, True, (7, 9)),
        ((None, 5), 9, True, (100, 5)),
        ((None, None), 9, False, (100, 9)),
        ((7, 5), 9, False, (7, 9)),
        ((7, 12), 9, False, (7, 12)),
        ((7, None), 0, True, (7, 0)),
    ],
)
def test_what_is_settled(
    usage: tuple[int | None, int | None], count: int | None, whole: bool, taken: tuple[int, int]
) -> None:
    assert real(usage, count, (100, 50), whole=whole) == taken


@pytest.mark.parametrize(
    ("fields", "dialect", "seen", "tokens"),
    [
        # role, 3 tokens, [DONE]
        ({}, CHAT, {"events": 5, "stream": True, "whole": True}, 3),
        ({}, CHAT, {"events": 4, "stream": True, "whole": False}, 3),
        ({"n": 2}, CHAT, {"events": 9, "stream": True, "whole": True}, 6),
        ({}, COMPLETIONS, {"events": 4, "stream": True, "whole": True}, 3),
        ({"max_tokens": 2}, CHAT, {"events": 40, "stream": True, "whole": False}, 2),
        ({}, CHAT, {"events": 0, "stream": True, "whole": False}, 0),
        ({}, MESSAGES, {"events": 5, "stream": True, "whole": False}, 3),
        ({}, GENERATE, {"events": 5, "stream": True, "whole": True}, 5),
        ({}, GENERATE, {"size": 401, "stream": False, "whole": True}, 100),
        ({}, DIALECTS["/v1/embeddings"], {"size": 400, "stream": False, "whole": True}, 0),
    ],
)
def test_what_is_counted(fields: dict[str, Any], dialect: Any, seen: dict[str, Any], tokens: int) -> None:
    call = describe(json.dumps({"model": "m", **fields}).encode(), counts=dialect)
    assert counted(call, dialect, **({"events": 0, "size": 0} | seen)) == tokens


def test_what_has_no_dialect_has_no_tokens() -> None:
    assert counted(DescribedRequest("m"), None, events=9, size=9, stream=True, whole=True) == 0
