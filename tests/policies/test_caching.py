"""What may be answered from the cache, and under which key."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.caching import CANONICAL, CacheableRequest, age_of, cache_key, shareable, wanted, whole
from policies.config.settings.routes import CacheSettings
from policies.request.paths import SERVED, PathKind

CHAT = next(kind for kind in SERVED if kind.path == "/v1/chat/completions")
ALWAYS, FIXED = CacheSettings(mode="always"), CacheSettings()

ASKED = CacheableRequest(CHAT, "POST", b"/v1/chat/completions", b"application/json", b"{}", "acme", "pool", "1", "m")


def key(body: Any, settings: CacheSettings = ALWAYS, **changes: Any) -> bytes | None:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return cache_key(replace(ASKED, body=data, **changes), settings)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
BODIES = st.dictionaries(st.text().filter(lambda name: name not in ("background", "conversation")), VALUES, max_size=6)


def shuffled(value: Any, chance: random.Random) -> Any:
    if isinstance(value, dict):
        names = list(value)
        chance.shuffle(names)
        return {name: shuffled(value[name], chance) for name in names}
    return [shuffled(one, chance) for one in value] if isinstance(value, list) else value


@given(BODIES, st.randoms(use_true_random=False), st.booleans(), st.sampled_from([None, 0, 3]))
def test_another_order_other_blanks_and_other_escapes_are_the_same_request(
    body: dict[str, Any], chance: random.Random, ascii_only: bool, indent: int | None
) -> None:
    written = json.dumps(shuffled(body, chance), ensure_ascii=ascii_only, indent=indent).encode()
    assert key(written) == key(body) is not None


@given(BODIES, BODIES)
def test_what_differs_has_another_key(one: dict[str, Any], other: dict[str, Any]) -> None:
    if json.dumps(one, sort_keys=True) != json.dumps(other, sort_keys=True):
        assert key(one) != key(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b'{"a":1}', b'{"a":1.0}'),
        (b'{"a":0.7}', b'{"a":0.70}'),
        (b'{"a":"1"}', b'{"a":1}'),
        (b'{"a":null}', b"{}"),
        (b'{"a":{"b":1,"b":2}}', b'{"a":{"b":2}}'),
        (b'{"a":{"b":1,"b":2}}', b'{"a":{"b":2,"b":1}}'),
        (b'{"a":10000000000000000000001}', b'{"a":10000000000000000000000}'),
    ],
)
def test_numbers_stand_as_they_are_and_names_that_come_twice_have_no_form(one: bytes, other: bytes) -> None:
    assert None not in (key(one), key(other))
    assert key(one) != key(other)


@pytest.mark.parametrize(
    "change",
    [
        {"tenant": "other"}, {"tenant": None}, {"tenant": ""}, {"pool": "other"}, {"version": "2"}, {"model": "other"},
        {"model": None}, {"target": b"/v1/chat/completions?a=1"}, {"strips": True},
    ],
)  # fmt: skip
def test_whatever_decides_an_answer_is_in_its_key(change: dict[str, Any]) -> None:
    assert key({"a": 1}, **change) not in (None, key({"a": 1}))


def test_parts_of_a_key_do_not_run_into_each_other() -> None:
    assert key({}, tenant="ab", pool="c") != key({}, tenant="a", pool="bc")


def test_a_long_body_matches_byte_for_byte() -> None:
    text = "x" * CANONICAL
    assert key({"a": text, "b": 1}) == key({"a": text, "b": 1})
    assert key({"a": text, "b": 1}) != key({"b": 1, "a": text})


@pytest.mark.parametrize(
    ("body", "kept"),
    [
        ({}, False), ({"temperature": 0}, True), ({"temperature": 0.0}, True), ({"temperature": 0.1}, False),
        ({"temperature": None}, False), ({"temperature": "0"}, False), ({"temperature": False}, False),
        ({"seed": 7}, True), ({"seed": 0}, True), ({"seed": None}, False), ({"seed": -1}, False),
        ({"temperature": 1, "seed": 7}, True), ({"temperature": 0, "background": True}, False),
        ({"temperature": 0, "background": False}, True), ({"temperature": 0, "conversation": "c"}, False),
    ],
)  # fmt: skip
def test_deterministic_says_temperature_0_or_a_seed(body: dict[str, Any], kept: bool) -> None:
    assert (key(body, FIXED) is not None) is kept


def test_generate_says_it_inside() -> None:
    kind = next(kind for kind in SERVED if kind.path == "/generate")
    assert key({"inputs": "a", "parameters": {"temperature": 0}}, FIXED, kind=kind) is not None
    assert key({"inputs": "a", "parameters": {"temperature": 1}}, FIXED, kind=kind) is None
    assert key({"inputs": "a", "parameters": 5}, FIXED, kind=kind) is None


@pytest.mark.parametrize("kind", SERVED, ids=lambda kind: kind.path)
def test_what_is_only_read_is_deterministic(kind: PathKind) -> None:
    reads = {"/v1/embeddings", "/pooling", "/classify", "/v1/rerank", "/rerank", "/v2/rerank", "/v1/score", "/score",
             "/tokenize", "/detokenize", "/v1/messages/count_tokens"}  # fmt: skip
    assert (key({"input": "a"}, FIXED, kind=kind) is not None) == (kind.path in reads)


def test_a_path_route_is_kept_only_where_always_is_said_and_whatever_its_body_is() -> None:
    kind = PathKind("/predict/*", model_in="none")
    assert key(b"\x00\x01", FIXED, kind=kind) is None
    assert key(b"\x00\x01", ALWAYS, kind=kind) not in (None, key(b"\x00\x02", ALWAYS, kind=kind))
    assert key(b"\x00\x01", ALWAYS, kind=kind) != key(b"\x00\x01", ALWAYS, kind=kind, content_type=b"image/png")


def test_forms_and_reads_of_other_methods_are_never_kept() -> None:
    form = next(kind for kind in SERVED if kind.model_in == "form")
    assert key({"seed": 1}, ALWAYS, kind=form) is None
    assert key({"seed": 1}, ALWAYS, method="GET") is None


def test_an_answer_is_fresh_then_stale_then_nothing() -> None:
    settings = CacheSettings(ttl=10, stale=100)
    ages = [age_of(1000, now, settings) for now in (900, 1000, 1009.9, 1010, 1109.9, 1110)]
    assert ages == ["fresh", "fresh", "fresh", "stale", "stale", None]


@pytest.mark.parametrize(
    ("header", "says"),
    [(b"", (True, True)), (b"max-age=0", (True, True)), (b"No-Cache", (False, True)), (b"a, no-store", (False, False))],
)
def test_a_client_may_want_a_new_answer(header: bytes, says: tuple[bool, bool]) -> None:
    assert wanted(header) == says


def test_only_a_plain_200_goes_to_others() -> None:
    assert shareable(200, [(b"content-type", b"a"), (b"content-encoding", b"identity")])
    assert not shareable(500, [])
    assert not shareable(200, [(b"content-encoding", b"gzip")])
    assert not shareable(200, [(b"cache-control", b"private, No-Store")])


@pytest.mark.parametrize(
    ("body", "good"),
    [
        (b'{"choices":[{"message":{"content":"an \\"error\\": it says"}}]}', True),
        (b'{"error":null,"choices":[]}', True), (b'{"error":{"message":"x"}}', False), (b'{"error":"x"}', False),
        (b'"error"', True), (b'{"choices":[{"finish_reason":"abort"}]}', False),
        (b'{"choices":[{"finish_reason":"stop"}]}', True),
    ],
)  # fmt: skip
def test_an_error_under_200_is_no_answer(body: bytes, good: bool) -> None:
    assert whole(body, stream=False) is good
