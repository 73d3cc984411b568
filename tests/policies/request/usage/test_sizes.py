"""What counts for tokens is read only when asked, exactly, or the request is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from policies.request.describe import DescribedRequest, RefusedBody, describe
from policies.request.usage.dialects import CHAT, COMPLETIONS, DIALECTS, GENERATE, MESSAGES, RESPONSES, TokenDialect
from tests.pace import cpu, slowdown

MESSAGE = [{"role": "user", "content": "hi"}]


def asked(dialect: TokenDialect, **fields: Any) -> DescribedRequest:
    return describe(json.dumps({"model": "m", **fields}).encode(), counts=dialect)


def test_nothing_is_read_unasked() -> None:
    call = describe(b'{"model":"m","messages":[1,2,3],"max_tokens":"x","n":-1}')
    assert (call.prompt_bytes, call.max_tokens, call.answers) == (0, None, 0)


def test_the_prompt_is_measured_as_it_stands() -> None:
    raw = b'{"model":"m","tools":[ ],"messages":[ {"role":"user","content":"\xc3\xa9\\u00e9"} ],"x":"yyyyyy"}'
    assert describe(raw, counts=CHAT).prompt_bytes == len(b"[ ]") + len(
        b'[ {"role":"user","content":"\xc3\xa9\\u00e9"} ]'
    )


@pytest.mark.parametrize(
    ("dialect", "fields", "most", "answers"),
    [
        (CHAT, {}, None, 1),
        (CHAT, {"max_tokens": None, "n": None}, None, 1),
        (CHAT, {"max_tokens": 7}, 7, 1),
        (CHAT, {"max_tokens": 7, "max_completion_tokens": 9, "n": 3}, 9, 3),
        (CHAT, {"max_tokens": 7, "n_predict": 9}, 9, 1),
        (CHAT, {"n": 2, "best_of": 4}, None, 4),
        (COMPLETIONS, {"prompt": "x", "max_tokens": 0}, 0, 1),
        (COMPLETIONS, {"prompt": ["x", "y"], "n": 3}, None, 6),
        (COMPLETIONS, {"prompt": [1, 2, 3]}, None, 1),
        (COMPLETIONS, {"prompt": [[1], [2, 3]]}, None, 2),
        (COMPLETIONS, {"prompt": []}, None, 1),
        (RESPONSES, {"max_output_tokens": 5, "n": 9}, 5, 1),
        (MESSAGES, {"max_tokens": 5}, 5, 1),
        (GENERATE, {"inputs": "x", "parameters": {"max_new_tokens": 5, "best_of": 2}}, 5, 2),
        (GENERATE, {"inputs": "x", "parameters": None}, None, 1),
        (GENERATE, {"text": ["x", "y"], "sampling_params": {"max_new_tokens": 5, "n": 2}}, 5, 4),
        (
            GENERATE,
            {"inputs": "x", "parameters": {"max_new_tokens": 5}, "sampling_params": {"max_new_tokens": 6}},
            6,
            1,
        ),
        (DIALECTS["/v1/embeddings"], {"input": "x", "max_tokens": "odd"}, None, 0),
    ],
)
def test_bounds_and_answers(dialect: TokenDialect, fields: dict[str, Any], most: int | None, answers: int) -> None:
    call = asked(dialect, **fields)
    assert (call.max_tokens, call.answers) == (most, answers)


@pytest.mark.parametrize("value", ["7", 7.0, -1, 0, True, [7], {}, 10**15])
def test_a_bound_that_an_engine_might_read_otherwise_is_refused(value: Any) -> None:
    for name in ("max_tokens", "max_completion_tokens", "n", "best_of", "n_predict"):
        with pytest.raises(RefusedBody) as caught:
            asked(CHAT, **{name: value})
        assert (caught.value.code, caught.value.param) == ("invalid_request", name)


@pytest.mark.parametrize("number", [b"7e0", b"07", b"+7", b"7_0"])
def test_so_is_an_odd_way_to_write_one(number: bytes) -> None:
    with pytest.raises(RefusedBody):
        describe(b'{"model":"m","max_tokens":%b}' % number, counts=CHAT)


def test_an_escaped_name_is_read_and_one_twice_is_refused() -> None:
    assert describe(b'{"model":"m","max_t\\u006fkens":7}', counts=CHAT).max_tokens == 7
    for body in (
        b'{"model":"m","max_tokens":7,"max_t\\u006fkens":8}',
        b'{"model":"m","parameters":{"max_new_tokens":7,"max_new_tokens":8}}',
        b'{"model":"m","parameters":[]}',
        b'{"model":"m","sampling_params":[{"max_new_tokens":8}]}',
    ):
        with pytest.raises(RefusedBody) as caught:
            describe(body, counts=GENERATE)
        assert caught.value.code == "invalid_request"


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 300_000 + "=="}},
        {"type": "input_audio", "input_audio": {"data": "Zm9v" * 80_000, "format": "wav"}},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "_-Az" * 80_000}},
    ],
)
def test_a_picture_is_no_text(part: dict[str, Any]) -> None:
    text = {"type": "text", "text": "word " * 2000}
    plain = asked(CHAT, messages=[{"role": "user", "content": [text]}]).prompt_bytes
    assert 1000 <= asked(CHAT, messages=[{"role": "user", "content": [text, part, part]}]).prompt_bytes - plain < 2400


def test_short_data_and_its_mark_in_a_text_cost_nothing_of_the_text() -> None:
    text = 'about ;base64, and "data": ' * 500
    body = json.dumps({"model": "m", "messages": text}).encode()
    assert describe(body, counts=CHAT).prompt_bytes == len(json.dumps(text))


def test_marks_without_end_take_no_time() -> None:
    body = json.dumps({"model": "m", "messages": ';base64,"data":' * 60_000}).encode()
    assert 0 < describe(body, counts=CHAT).prompt_bytes <= len(body)
    assert cpu(lambda: describe(body, counts=CHAT)) < 0.1 * slowdown()


def test_every_path_that_counts_is_served() -> None:
    from policies.request.paths import SERVED

    assert set(DIALECTS) <= {kind.path for kind in SERVED}
