"""The msgspec door: what passes, what is refused, and that only our own exceptions come out."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.codec import Decoder, JSONDepthError, JSONError, JSONShapeError, Raw, Struct, decode, encode, end_of_value


class Point(Struct):
    x: int
    y: int = 0


def test_a_typed_value_comes_back() -> None:
    assert decode(b'{"x": 1}', Point) == Point(1, 0)
    assert Decoder(Point).decode(b'{"x": 1, "y": 2, "z": 3}') == Point(1, 2)
    assert Decoder().decode(b"[1, null]") == [1, None]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" ",
        b"\xef\xbb\xbf{}",
        b"NaN",
        b'{"a": Infinity}',
        b"{} {}",
        b"{",
        b'"\\ud800"',
        b"01",
        b"1.",
        b'"\x01"',
        b'{"\xff": 1}',
    ],
)
def test_what_is_not_json_is_our_error(data: bytes) -> None:
    for attempt in (lambda: decode(data), lambda: Decoder().decode(data), lambda: Decoder(dict[str, Raw]).decode(data)):
        with pytest.raises(JSONError):
            attempt()


def test_the_wrong_shape_is_told_apart_from_bad_json() -> None:
    with pytest.raises(JSONShapeError, match=r"\$\.x"):
        decode(b'{"x": "1"}', Point)
    with pytest.raises(JSONShapeError):
        Decoder(dict[str, Raw]).decode(b"[]")


@pytest.mark.parametrize("data", [b"[" * 100_000 + b"]" * 100_000, b'{"a":' * 100_000])
def test_nesting_past_the_limit_is_an_error_and_not_a_crash(data: bytes) -> None:
    for attempt in (lambda: decode(data), lambda: Decoder(Raw).decode(data)):
        with pytest.raises(JSONDepthError):
            attempt()


def test_bad_utf8_passes_where_nobody_reads() -> None:
    assert bytes(Decoder(dict[str, Raw]).decode(b'{"a": "\xff"}')["a"]) == b'"\xff"'


@pytest.mark.parametrize("value", [object(), {1j: 2}, "\ud800"])
def test_what_json_cannot_say_is_our_error(value: object) -> None:
    with pytest.raises(JSONError):
        encode(value)


def test_encoding_is_compact_and_keeps_the_order() -> None:
    assert encode({"b": 1, "a": ["é", None, 1.5]}) == '{"b":1,"a":["é",null,1.5]}'.encode()


def test_an_error_never_quotes_the_data() -> None:
    with pytest.raises(JSONError) as caught:
        decode(b'{"key": "sk-sluice-secret\xff"}')
    assert "sk-sluice" not in str(caught.value)
    assert caught.value.__cause__ is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(json_values)
def test_what_is_written_reads_back(value: Any) -> None:
    assert decode(encode(value)) == value


@given(
    json_values,
    st.binary(max_size=5),
    st.sampled_from([b"", b" ", b"\t\n\r "]),
    st.sampled_from([b",", b"}", b"]", b":", b"x"]),
)
def test_the_end_of_a_value_is_the_next_byte_that_is_no_white_space(
    value: Any, head: bytes, space: bytes, after: bytes
) -> None:
    written = encode(value)
    if written[-1:].isdigit() and after == b"x" and not space:
        return
    data = head + written + space + after
    assert end_of_value(data, len(head)) == len(data) - 1
    assert end_of_value(head + written + space, len(head)) == len(head + written + space)


@pytest.mark.parametrize("data", [b"", b"nul", b"[1,", b'"abc', b"[" * 100_000])
def test_the_end_of_what_is_no_value_is_unknown(data: bytes) -> None:
    assert end_of_value(data, 0) is None
