"""What is read of a body: exactly what the engine will read, or the request is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.request.describe import (
    ENGINE_FIELDS,
    DescribedRequest,
    ModelIn,
    RefusedBody,
    describe,
    refuse_engine_fields,
    rewrite_model,
)
from policies.request.fields import MAX_NAME


def body_of(**fields: Any) -> bytes:
    return json.dumps({"model": "m", **fields}).encode()


def refusal(body: bytes) -> RefusedBody:
    with pytest.raises(RefusedBody) as caught:
        describe(body)
    return caught.value


def test_a_plain_request_names_its_model_and_nothing_more() -> None:
    assert describe(b'{"model":"qwen2","messages":[]}') == DescribedRequest("qwen2", False, False, frozenset(), None)


def test_all_that_is_read_is_read() -> None:
    body = body_of(
        stream=True, stream_options={"include_usage": True, "continuous_usage_stats": True}, user="u1", priority=1
    )
    assert describe(body) == DescribedRequest("m", True, True, frozenset({"priority"}), "u1")


@pytest.mark.parametrize("spelling", [b'{"mod\\u0065l":"m"}', b'{"model":"\\u006d"}', b' {\n"model"\t:\r"m" } '])
def test_spelling_changes_nothing(spelling: bytes) -> None:
    assert describe(spelling).model == "m"


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"a","model":"b"}',
        b'{"model":"a","mod\\u0065l":"b"}',
        b'{"stream":false,"model":"a","str\\u0065am":true}',
        b'{"model": "a", "messages": [], "model": "a"}',
        b'{"model":"a","x":1,"x":1}',
    ],
)
def test_two_fields_of_one_name_are_refused_in_any_spelling(body: bytes) -> None:
    assert refusal(body).code == "invalid_request"
    with pytest.raises(RefusedBody):
        rewrite_model(body, "c")


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("", "empty"),
        (1, "must be a string"),
        (["m"], "must be a string"),
        (True, "must be a string"),
        ("m" * (MAX_NAME + 1), "longer than 256"),
        ("m" * 100_000, "longer than 256"),
        ("a\r\nx-evil: 1", "can not be printed"),
        ("a\0", "can not be printed"),
    ],
)
def test_a_model_is_a_printable_string_of_at_most_256_characters(model: Any, says: str) -> None:
    caught = refusal(body_of(model=model))
    assert says in caught.message
    assert (caught.code, caught.param) == ("invalid_request", "model")


@pytest.mark.parametrize("model", ["m" * MAX_NAME, "😀" * MAX_NAME, "org/name:tag@1 x"])
def test_a_model_of_256_characters_passes(model: str) -> None:
    assert describe(body_of(model=model)).model == model


@pytest.mark.parametrize("body", [b"{}", b'{"model":null}', b'{"messages":[]}'])
def test_a_missing_model_is_refused_save_where_the_path_may_leave_it_out(body: bytes) -> None:
    assert (refusal(body).code, refusal(body).param) == ("invalid_request", "model")
    assert describe(body, "body_optional").model is None


@pytest.mark.parametrize(("value", "means"), [(True, True), (False, False), (None, False)])
def test_stream_is_a_boolean(value: bool | None, means: bool) -> None:
    assert describe(body_of(stream=value)).stream is means


@pytest.mark.parametrize("value", [1, 0, "true", "", [], {}, 1.0, "x" * 10_000])
def test_a_stream_that_an_engine_might_read_otherwise_is_refused(value: Any) -> None:
    caught = refusal(body_of(stream=value))
    assert (caught.code, caught.param) == ("invalid_request", "stream")


@pytest.mark.parametrize(
    ("value", "means"),
    [(None, False), ({}, False), ({"include_usage": None}, False), ({"include_usage": False, "x": 1}, False)],
)
def test_usage_is_asked_for_only_by_true(value: Any, means: bool) -> None:
    assert describe(body_of(stream_options=value)).include_usage is means


@pytest.mark.parametrize("value", [1, [], "x", {"include_usage": 1}, {"include_usage": "true"}])
def test_wrong_stream_options_are_refused(value: Any) -> None:
    assert refusal(body_of(stream_options=value)).param == "stream_options"


@pytest.mark.parametrize(("value", "means"), [("u", "u"), ("", None), (None, None), (1, None), ([], None)])
def test_a_user_is_told_only_by_a_string(value: Any, means: str | None) -> None:
    assert describe(body_of(user=value)).user == means


@pytest.mark.parametrize("length", [MAX_NAME + 1, 100_000])
def test_a_user_too_long_to_keep_is_refused(length: int) -> None:
    assert refusal(body_of(user="u" * length)).param == "user"


@pytest.mark.parametrize("name", sorted(ENGINE_FIELDS))
def test_a_field_that_tenants_share_needs_its_scope(name: str) -> None:
    call = describe(body_of(**{name: None}))
    with pytest.raises(RefusedBody) as caught:
        refuse_engine_fields(call, frozenset({"chat"}))
    assert (caught.value.code, caught.value.param) == ("field_not_allowed", name)
    refuse_engine_fields(call, frozenset({"chat", "engine_fields"}))


def test_nested_fields_of_such_names_are_nobodys_business() -> None:
    refuse_engine_fields(describe(body_of(metadata={"priority": 1, "model": 2})), frozenset())


def test_an_escaped_engine_field_is_seen() -> None:
    assert describe(b'{"model":"m","pri\\u006frity":1}').fields == {"priority"}


def test_bad_utf8_is_refused_only_where_it_is_read() -> None:
    assert describe(b'{"model":"m","messages":[{"content":"\xff\xfe"}]}').model == "m"
    assert refusal(b'{"model":"\xff"}').code == "invalid_json"


@pytest.mark.parametrize("body", [b"", b"\xef\xbb\xbf{}", b'{"model":"m","a":NaN}', b"[]", b"{"])
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    assert refusal(body).code in ("invalid_json", "invalid_request")


def test_a_body_of_another_kind_is_not_read() -> None:
    assert describe(b"\xff\0\xff", "path", model="resnet") == DescribedRequest("resnet")
    assert describe(b"", "none") == DescribedRequest(None)
    assert describe(b"", "path", model="m", streams=True).stream
    assert describe(b"{}", "body_optional", streams=True).stream
    with pytest.raises(RefusedBody):
        describe(b"", "path", model="a\nb")


def test_another_model_is_written_over_the_first_ones_bytes_alone() -> None:
    body = b'{ "x" : {"model":"m"},"model" :  "m\\u0041" ,\n"y":"\xff" }'
    assert rewrite_model(body, 'new "é"') == b'{ "x" : {"model":"m"},"model" :  "new \\"\xc3\xa9\\"" ,\n"y":"\xff" }'


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_whatever_comes_is_described_or_refused(body: bytes) -> None:
    try:
        describe(body)
    except RefusedBody as refused:
        assert refused.message.endswith(".")


@pytest.mark.parametrize("model_in", ["path", "none"])
def test_a_body_without_a_model_is_left_as_it_is(model_in: ModelIn) -> None:
    assert rewrite_model(b'{"model":"x"}\xff', "y", model_in) == b'{"model":"x"}\xff'
