"""The top level of a JSON object: no name twice, exactly; values where they stand; hostile bodies in bounded time."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from policies.json_object import MAX_MEMBERS, RefusedBody, members, replace
from tests.pace import cpu, slowdown

# Few names, so that two are often the same, some of them prefixes of others or longer in bytes than in characters.
NAMES = st.sampled_from(["", "a", "b", "model", "mode", "modelé", "é", 'q"', "back\\slash", "😀", "stream"])
SCALARS = st.sampled_from(["0", "1", "12", "1.5e3", '""', '"a"', '"model"', "true", "null", '"\\"model\\":1"'])
SPACE = st.sampled_from(["", "", "", " ", "\n", "\t ", "\r\n  "])
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: "[" + ",".join(items) + "]")
        | st.lists(st.tuples(NAMES, inner), max_size=3).map(
            lambda pairs: "{" + ", ".join(json.dumps(name) + ": " + value for name, value in pairs) + "}"
        )
    ),
    max_leaves=5,
)


@st.composite
def spelled(draw: st.DrawFn, name: str) -> str:
    """A name as JSON may write it: any character escaped or not."""

    def one(character: str) -> str:
        if draw(st.booleans()) and draw(st.booleans()):
            units = character.encode("utf-16-be")
            return "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2))
        return json.dumps(character, ensure_ascii=False)[1:-1]

    return '"' + "".join(one(character) for character in name) + '"'


@st.composite
def objects(draw: st.DrawFn) -> bytes:
    pairs = draw(st.lists(st.tuples(NAMES, VALUES), max_size=6))
    spaces = st.just("") if draw(st.booleans()) else SPACE
    if draw(st.booleans()):
        written = ", ".join(draw(spelled(name)) + ": " + value for name, value in pairs)
        return ("{" + written + "}").encode()
    written = ",".join(
        draw(spaces) + draw(spelled(name)) + draw(spaces) + ":" + draw(spaces) + value + draw(spaces)
        for name, value in pairs
    )
    return (draw(spaces) + "{" + (written or draw(spaces)) + "}" + draw(spaces)).encode()


def pairs_of(body: bytes) -> list[tuple[str, Any]]:
    """The exact reference: every top-level pair, as the standard library reads them."""

    class Pairs(list[tuple[str, Any]]):
        pass

    decoded = json.JSONDecoder(object_pairs_hook=Pairs).decode(body.decode())
    return list(decoded)


@given(objects())
@example(b'{"a":1,"a":12}')
@example(b'{"a":12,"a":1}')
@example(b'{"a":1, "\\u0061":1}')
@example(b'{"":0,"":0}')
@example(b'{"a": 1, "b": 2}')
@example(b"{}")
@example(b" { } ")
def test_a_name_used_twice_is_refused_and_nothing_else_is(body: bytes) -> None:
    names = [name for name, _ in pairs_of(body)]
    if len(set(names)) < len(names):
        with pytest.raises(RefusedBody) as caught:
            members(body)
        assert caught.value.code == "invalid_request"
        assert names.count(str(caught.value.param)) > 1
    else:
        found = members(body)
        assert list(found) == names
        assert [json.loads(bytes(value)) for value in found.values()] == [
            json.loads(json.dumps(v)) for v in _plain(body)
        ]


def _plain(body: bytes) -> list[Any]:
    return list(json.loads(body).values())


@given(objects(), st.sampled_from(["x", "é\n", 'a"b', "longer-than-before" * 5]))
def test_replacing_a_value_changes_its_bytes_and_no_others(body: bytes, new: str) -> None:
    pairs = pairs_of(body)
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        return
    for name in names:
        changed = replace(body, name, new)
        before, after = json.loads(body), json.loads(changed)
        assert after == {**before, name: new} and list(after) == list(before)
        old = bytes(members(body)[name])
        written = json.dumps(new, ensure_ascii=False).encode()
        assert len(changed) == len(body) - len(old) + len(written)
        start = next(i for i in range(len(changed) + 1) if body[:i] + written + body[i + len(old) :] == changed)
        assert body[start : start + len(old)] == old
    with pytest.raises(KeyError):
        replace(body, "no such name", new)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "empty"),
        (b" \r\n", "empty"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": -Infinity}', "Infinity"),
        (b'{"a": Infinity}', "Infinity"),
        (b'{"a": 1', "not valid JSON"),
        (b'{"a": 1,}', "not valid JSON"),
        (b"{'a': 1}", "not valid JSON"),
        (b'{"a": 1} {"a": 2}', "not valid JSON"),
        (b'{"a": "\x00"}', "not valid JSON"),
        (b'{"\xff": 1}', "UTF-8"),
        (b"\xff\xfe{\x00}\x00", "not valid JSON"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
    ],
)
def test_what_is_no_json_is_refused_with_its_cause(body: bytes, says: str) -> None:
    with pytest.raises(RefusedBody, match=says) as caught:
        members(body)
    assert caught.value.code == "invalid_json"


@pytest.mark.parametrize("body", [b"[]", b"1", b'"model"', b"null", b"[{}]"])
def test_what_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(RefusedBody, match="must be a JSON object") as caught:
        members(body)
    assert caught.value.code == "invalid_request"


def test_bad_utf8_in_a_value_is_not_ours_to_refuse() -> None:
    assert bytes(members(b'{"a":"\xff", "b":1}')["a"]) == b'"\xff"'


@pytest.mark.parametrize("space", [b"", b" "])
def test_a_body_has_at_most_1024_members(space: bytes) -> None:
    def body(count: int) -> bytes:
        return b"{" + b",".join(b'"%d":%b1' % (i, space) for i in range(count)) + b"}"

    assert len(members(body(MAX_MEMBERS))) == MAX_MEMBERS
    with pytest.raises(RefusedBody, match="1024"):
        members(body(MAX_MEMBERS + 1))


@pytest.mark.parametrize("pad", [b"", b"x" * 70_000])
def test_crowds_are_counted_alike_in_short_and_in_long_bodies(pad: bytes) -> None:
    nested = b'"m":[' + b",".join([b'{"a":{"b":1},"c":[]}'] * 5000) + b"]"
    rest = b",".join(b'"%d":%d' % (i, i) for i in range(MAX_MEMBERS - 2))
    body = b'{"pad":"' + pad + b'", ' + nested + b" , " + rest + b"}"
    assert len(members(body)) == MAX_MEMBERS
    with pytest.raises(RefusedBody, match="1024"):
        members(body[:-1] + b',"one":1}')
    with pytest.raises(RefusedBody, match="twice"):
        members(body.replace(b'"1000":', b'"10\\u00300":').replace(b'"999":', b'"1000":'))


HOSTILE = {
    "10^5 names": b"{" + b",".join(b'"%x":1' % i for i in range(100_000)) + b"}",
    "10^5 names after a nest": b'{"a":['
    + b"[]," * 1000
    + b"1],"
    + b",".join(b'"%x" :1' % i for i in range(90_000))
    + b"}",
    "depth 10^5": b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "depth open": b'{"a":' * 200_000,
    "one string": b'{"a" : "' + b"x" * 1_048_000 + b'"}',
    "escapes in a value": b'{"a" : "' + b"\\u0041" * 174_000 + b'"}',
    "escapes in a name": b'{"' + b'\\"' * 520_000 + b'" : 1 , "b":2}',
    "escapes in a name twice": b'{"' + b"\\u0041" * 85_000 + b'" : 1, "' + b"\\u0041" * 85_000 + b'":2}',
    "huge integer": b'{"a" : ' + b"9" * 1_048_000 + b"}",
    "huge exponent": b'{"a" : 1e' + b"9" * 1_048_000 + b"}",
    "white space": b"{" + b" " * 1_048_000 + b'"a":1}',
    "empty lists": b'{ "a":[' + b"[]," * 340_000 + b"1]}",
    "nested names": b'{ "a":{' + b",".join(b'"%x":1' % i for i in range(100_000)) + b"} }",
    "unended name": b'{"' + b"a" * 1_048_000,
    "unended escapes": b'{"' + b'a\\"' * 349_000,
    "many colons in text": b'{ "a":"' + b":" * 1_000_000 + b'"}',
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_body_of_1_mib_takes_at_most_15_ms(name: str) -> None:
    body = HOSTILE[name]
    assert len(body) <= 1 << 20

    def read() -> None:
        try:
            members(body)
        except RefusedBody as refused:
            assert len(refused.message) < 300 and len(refused.param or "") < 100

    assert cpu(read, 10) <= 0.015 * slowdown()
