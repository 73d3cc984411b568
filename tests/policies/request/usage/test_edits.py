"""The edited body says what the original said plus the edit, and every other byte is as it came."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.request.describe import RefusedBody, describe
from policies.request.usage.dialects import (
    ASKED_OF,
    CHAT,
    COMPLETIONS,
    DIALECTS,
    GENERATE,
    MESSAGES,
    RESPONSES,
    TokenDialect,
)
from policies.request.usage.edits import ask_usage, cap_output, may_ask

SPACE = st.sampled_from(["", "", " ", "\n\t", "  \r\n"])
VALUES: dict[str, st.SearchStrategy[str]] = {
    "model": st.sampled_from(['"m"', '"\\u006d"', '"é"']),
    "messages": st.sampled_from(["[]", '[{"role" : "user","content":"{\\"max_tokens\\": 5}"}]', '"\\ud83d\\ude00"']),
    "x": st.sampled_from(["1e3", "-0.0", "{}", '{"stream_options":{"include_usage":1},"max_tokens":9}', "[1 , 2]"]),
    "max_tokens": st.sampled_from(["null", "1", "99", "100", "101", "2147483647"]),
    "max_completion_tokens": st.sampled_from(["null", "1", "100", "101"]),
    "max_output_tokens": st.sampled_from(["null", "1", "101"]),
    "n_predict": st.sampled_from(["null", "5", "5000"]),
    "inputs": st.just('"hello"'),
    "text": st.just('["hello"]'),
}


@st.composite
def spelled(draw: st.DrawFn, pairs: list[tuple[str, str]]) -> str:
    """An object as somebody might write it: spaces anywhere, names escaped."""

    def name(text: str) -> str:
        return '"' + (f"\\u{ord(text[0]):04x}" + text[1:] if draw(st.integers(0, 5)) == 0 else text) + '"'

    gap = [draw(SPACE) for _ in range(4)]
    inner = ",".join(f"{gap[0]}{name(key)}{gap[1]}:{gap[2]}{value}{gap[3]}" for key, value in pairs)
    return "{" + (inner or gap[0]) + "}"


@st.composite
def nested(draw: st.DrawFn, /, **values: st.SearchStrategy[str]) -> str:
    names = draw(st.lists(st.sampled_from(sorted(values)), unique=True))
    return draw(spelled([(name, draw(values[name])) for name in names]))


OPTIONS = st.just("null") | nested(
    include_usage=st.sampled_from(["true", "false", "null"]),
    continuous_usage_stats=st.sampled_from(["true", "false", "null"]),
    include_obfuscation=st.just("false"),
)
INSIDE = st.just("null") | nested(
    max_new_tokens=st.sampled_from(["null", "5", "100", "101"]), temperature=st.just("0.5"), best_of=st.just("2")
)
ALL = VALUES | {"stream_options": OPTIONS, "parameters": INSIDE, "sampling_params": INSIDE}


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    names = ["model", *draw(st.lists(st.sampled_from(sorted(set(ALL) - {"model"})), unique=True))]
    pairs = [(name, draw(ALL[name])) for name in draw(st.permutations(names))]
    return (draw(SPACE) + draw(spelled(pairs)) + draw(SPACE)).encode()


def is_spliced(before: bytes, after: bytes, *pieces: bytes) -> bool:
    """Whether `after` is `before` with at most one stretch replaced for each piece, which is what stands there now."""
    start = 0
    while start < min(len(before), len(after)) and before[start] == after[start]:
        start += 1
    if before[start:] == after[start:]:
        return True
    for piece in pieces:
        # The piece may begin with what stood there before.
        for at in range(max(0, start - len(piece)), start + 1):
            if after[at : at + len(piece)] != piece:
                continue
            rest = pieces[: pieces.index(piece)] + pieces[pieces.index(piece) + 1 :]
            for gone in range(len(before) - at + 1):
                if is_spliced(before[at + gone :], after[at + len(piece) :], *rest):
                    return True
    return False


@given(bodies())
def test_usage_is_asked_for_and_nothing_else_changes(body: bytes) -> None:
    before = json.loads(body)
    edited = ask_usage(body)
    options = before.get("stream_options")
    if options is not None and (options.get("include_usage") or options.get("continuous_usage_stats")):
        assert edited is None
        return
    assert edited is not None
    assert json.loads(edited) == before | {"stream_options": (options or {}) | {"include_usage": True}}
    written = (
        b'"stream_options":{"include_usage":true},',
        b'{"include_usage":true}',
        b'"include_usage":true,',
        b'"include_usage":true',
        b"true",
    )
    assert any(is_spliced(body, edited, piece) for piece in written)
    assert describe(edited).include_usage


def capped(found: dict[str, Any], names: tuple[str, ...], most: int) -> dict[str, Any]:
    """What a capped object must say, by the standard library."""
    said = {name: found[name] for name in names if found.get(name) is not None}
    if not said:
        return found | {names[0]: most}
    return found | {name: min(value, most) for name, value in said.items()}


@pytest.mark.parametrize("dialect", [CHAT, COMPLETIONS, RESPONSES, MESSAGES])
@given(body=bodies())
def test_an_answer_is_capped_and_nothing_else_changes(dialect: TokenDialect, body: bytes) -> None:
    before = json.loads(body)
    edited = cap_output(body, dialect, 100)
    assert json.loads(edited) == capped(before, dialect.limits, 100)
    assert is_spliced(body, edited, b'"%b":100,' % dialect.limits[0].encode(), b"100") or is_spliced(
        body, edited, *[b"100"] * 3
    )
    assert cap_output(edited, dialect, 100) is edited
    call = describe(edited, counts=dialect)
    assert call.max_tokens is not None and call.max_tokens <= 100


@given(body=bodies())
def test_so_is_one_whose_bound_stands_inside(body: bytes) -> None:
    before = json.loads(body)
    edited = cap_output(body, GENERATE, 100)
    wanted = {"parameters"} if "inputs" in before or "text" not in before else set()
    wanted |= {"sampling_params"} if "text" in before else set()
    expected = dict(before)
    for name in ("parameters", "sampling_params"):
        if before.get(name) is not None or name in wanted:
            expected[name] = capped(before.get(name) or {}, ("max_new_tokens",), 100)
    assert json.loads(edited) == expected
    assert cap_output(edited, GENERATE, 100) is edited


def test_bytes_by_hand() -> None:
    body = b' {\n"model" : "m", "max_tokens"\t:\t5000 ,"messages":[]}\n'
    assert cap_output(body, CHAT, 64) == b' {\n"model" : "m", "max_tokens"\t:\t64 ,"messages":[]}\n'
    assert cap_output(b'{"model":"m"}', CHAT, 64) == b'{"max_tokens":64,"model":"m"}'
    assert cap_output(b'{"model":"m"}', CHAT, 64, "openai") == b'{"max_completion_tokens":64,"model":"m"}'
    assert cap_output(b'{"model":"m"}', RESPONSES, 64) == b'{"max_output_tokens":64,"model":"m"}'
    assert cap_output(b"{}", GENERATE, 64) == b'{"parameters":{"max_new_tokens":64}}'
    assert cap_output(b'{"text":"x"}', GENERATE, 64) == b'{"sampling_params":{"max_new_tokens":64},"text":"x"}'
    assert ask_usage(b'{"model":"m"}') == b'{"stream_options":{"include_usage":true},"model":"m"}'
    assert ask_usage(b'{"stream_options": { } }') == b'{"stream_options": {"include_usage":true } }'


@pytest.mark.parametrize("most", [1, 64])
def test_an_echo_without_an_answer_stays_one(most: int) -> None:
    body = b'{"model":"m","prompt":"x","max_tokens":0,"echo":true}'
    assert cap_output(body, COMPLETIONS, most) is body


def test_what_has_no_answer_is_not_capped() -> None:
    body = b'{"model":"m","input":"x"}'
    assert cap_output(body, DIALECTS["/v1/embeddings"], 1) is body


def test_options_that_say_it_twice_are_refused() -> None:
    with pytest.raises(RefusedBody) as caught:
        ask_usage(b'{"stream_options":{"include_usage":false,"include_us\\u0061ge":true}}')
    assert (caught.value.code, caught.value.param) == ("invalid_request", "stream_options")


def test_when_usage_may_be_asked_for() -> None:
    def may(dialect: TokenDialect | None = CHAT, engine: str = "vllm", stream: bool = True, answers: int = 1) -> bool:
        return may_ask(dialect, engine, stream=stream, include_usage=False, answers=answers)

    assert all(may(dialect, engine) for dialect in (CHAT, COMPLETIONS) for engine in ASKED_OF)
    assert not any(may(engine=engine) for engine in ("llama_cpp", "tgi", "openai", "http", "tensorrt_llm", "triton"))
    assert not any(may(dialect) for dialect in (None, RESPONSES, MESSAGES, GENERATE))
    assert not may(stream=False) and not may(answers=2) and not may(answers=0)
    assert not may_ask(CHAT, "vllm", stream=True, include_usage=True, answers=1)
