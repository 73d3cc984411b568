"""What each path means: everything listed is served, nothing that could be read as another path is."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.identity.principal import SCOPES
from policies.request.paths import (
    CONTROL,
    UNKNOWN,
    MethodRefused,
    PathKind,
    classify,
    family_of,
    is_plain,
    unknown,
    with_model,
)

BY_BODY = [
    ("/v1/chat/completions", "chat", "openai"),
    ("/v1/completions", "completions", "openai"),
    ("/v1/embeddings", "embeddings", "openai"),
    ("/v1/responses", "chat", "openai"),
    ("/v1/messages", "chat", "anthropic"),
    ("/v1/messages/count_tokens", "chat", "anthropic"),
    ("/v1/rerank", "rerank", "openai"),
    ("/rerank", "rerank", "openai"),
    ("/v2/rerank", "rerank", "openai"),
    ("/v1/score", "rerank", "openai"),
    ("/score", "rerank", "openai"),
    ("/pooling", "embeddings", "openai"),
    ("/classify", "predict", "openai"),
    ("/tokenize", "chat", "openai"),
    ("/detokenize", "chat", "openai"),
]


def kind_of(path: str, method: str = "POST") -> PathKind:
    kind = classify(path.encode(), method)
    assert kind is not None
    return kind


@pytest.mark.parametrize(("path", "scope", "family"), BY_BODY)
def test_a_listed_path_has_its_model_in_the_body(path: str, scope: str, family: str) -> None:
    kind = kind_of(path)
    assert (kind.path, kind.scope, kind.family, kind.model_in) == (path, scope, family, "body")
    assert scope in SCOPES


@pytest.mark.parametrize("path", ["/v1/audio/transcriptions", "/v1/audio/translations"])
def test_audio_has_its_model_in_a_form(path: str) -> None:
    assert (kind_of(path).model_in, kind_of(path).scope) == ("form", "audio")


@pytest.mark.parametrize(("path", "streams"), [("/generate", False), ("/generate_stream", True)])
def test_tgis_paths_may_leave_the_model_out(path: str, streams: bool) -> None:
    kind = kind_of(path)
    assert (kind.model_in, kind.family, kind.streams, kind.raw_path) == ("body_optional", "tgi", streams, path)


@pytest.mark.parametrize(
    ("path", "method", "pattern", "streams"),
    [
        ("/v2/models/m", "GET", "/v2/models/{m}", False),
        ("/v2/models/m/ready", "GET", "/v2/models/{m}/ready", False),
        ("/v2/models/m/infer", "POST", "/v2/models/{m}/infer", False),
        ("/v2/models/m/versions/1", "GET", "/v2/models/{m}", False),
        ("/v2/models/m/versions/1.2/infer", "POST", "/v2/models/{m}/infer", False),
        ("/v2/models/m/generate", "POST", "/v2/models/{m}/generate", False),
        ("/v2/models/m/versions/a/generate_stream", "POST", "/v2/models/{m}/generate_stream", True),
    ],
)
def test_kserve_has_its_model_in_the_path(path: str, method: str, pattern: str, streams: bool) -> None:
    kind = kind_of(path, method)
    assert (kind.path, kind.model, kind.streams) == (pattern, "m", streams)
    assert (kind.model_in, kind.family, kind.scope) == ("path", "triton", "predict")


@pytest.mark.parametrize(
    ("segment", "name"),
    [
        ("resnet-50.v2", "resnet-50.v2"),
        ("caf%C3%A9", "café"),
        ("a%20b", None),
        ("qwen%3A7b", "qwen:7b"),
        ("a%2bb", "a+b"),
    ],
)
def test_a_models_name_in_a_path_is_decoded_once(segment: str, name: str | None) -> None:
    kind = classify(f"/v2/models/{segment}/infer".encode(), "POST")
    assert (kind.model if kind else None) == name


@pytest.mark.parametrize(
    "segment",
    [".", "..", "%2e%2e", "%2E", "a%2Fb", "a%5cb", "a%00", "%252e", "a%", "a%zz", "%ff", "a;b", "a\\b", "a%0d%0a", ""],
)
def test_a_name_that_could_be_read_in_two_ways_is_no_path(segment: str) -> None:
    assert classify(f"/v2/models/{segment}/infer".encode("latin-1"), "POST") is None


@pytest.mark.parametrize("path", ["/v2", "/v2/health/live", "/v2/health/ready"])
def test_kserves_own_paths_name_no_model(path: str) -> None:
    kind = kind_of(path, "GET")
    assert (kind.model_in, kind.model, kind.raw_path, kind.family) == ("none", None, path, "triton")


@pytest.mark.parametrize(
    ("path", "method"), [("/v1/responses/resp_1-a", "GET"), ("/v1/responses/resp_1/cancel", "POST")]
)
def test_a_response_is_asked_for_by_its_id(path: str, method: str) -> None:
    kind = kind_of(path, method)
    assert (kind.model_in, kind.scope, kind.raw_path) == ("none", "chat", path)
    assert "{id}" in kind.path


@pytest.mark.parametrize("path", ["/health", "/ready", "/v1/models", "/v1/models/qwen2", "/v1/models/org/name"])
def test_our_own_paths_are_ours(path: str) -> None:
    assert classify(path.encode(), "GET") is CONTROL
    assert classify(path.encode(), "HEAD") is CONTROL


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "*",
        "/v1",
        "/v1/models/",
        "/v1/chat/completions/",
        "//v1/chat/completions",
        "/v1//chat/completions",
        "/v1/./chat/completions",
        "/v1/x/../chat/completions",
        "/v1/%63hat/completions",
        "/V1/chat/completions",
        "/v1/chat/completions%00",
        "/v1/chat/completions;x",
        "/v1/chat/completions/batch",
        "/metrics",
        "/invocations",
        "/v1/load_lora_adapter",
        "/v1/responses/",
        "/v1/responses/a/b",
        "/v1/responses/..",
        "/v1/responses/../metrics",
        "/v2/models",
        "/v2/models/m/config",
        "/v2/models/m/infer/",
        "/v2/models/m/versions/1/2/infer",
        "/v2/repository/index",
        "/v2/health",
    ],
)
def test_what_is_not_listed_is_not_served(path: str) -> None:
    for method in ("GET", "POST"):
        assert classify(path.encode(), method) is None


@pytest.mark.parametrize(
    ("path", "method", "allow"),
    [
        ("/v1/chat/completions", "GET", "POST"),
        ("/v1/messages", "DELETE", "POST"),
        ("/v2/models/m/ready", "POST", "GET, HEAD"),
        ("/v1/responses/r1/cancel", "GET", "POST"),
        ("/v1/models", "POST", "GET, HEAD"),
        ("/v1/chat/completions", "OPTIONS", "POST"),
        ("/v1/chat/completions", "post", "POST"),
    ],
)
def test_another_method_is_refused_with_those_allowed(path: str, method: str, allow: str) -> None:
    with pytest.raises(MethodRefused) as caught:
        classify(path.encode(), method)
    assert caught.value.allow == allow
    assert caught.value.kind.family == family_of(path)


@pytest.mark.parametrize(
    ("path", "family"),
    [
        ("/x", "openai"),
        ("/v1/messages/batches", "anthropic"),
        ("/v1/messagesx", "openai"),
        ("/v2/x", "triton"),
        ("/v2", "triton"),
    ],
)
def test_an_unknown_path_is_refused_in_its_familys_shape(path: str, family: str) -> None:
    assert unknown(path.encode()).family == family
    assert unknown(path.encode()).path == UNKNOWN.path


def test_streams_with_named_events_are_known() -> None:
    assert kind_of("/v1/messages").named_events and kind_of("/v1/responses").named_events
    assert not kind_of("/v1/chat/completions").named_events


@pytest.mark.parametrize("path", ["/predict/x", "/a", "/a/b.c/d~e", "/a/...x", "/caf%C3%A9", "/a%20b"])
def test_a_plain_path_can_be_served_by_a_path_route(path: str) -> None:
    assert is_plain(path.encode()) is ("%20" not in path)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "a",
        "*",
        "//a",
        "/a//b",
        "/a/../b",
        "/..",
        "/a/.",
        "/a/%2e%2e/b",
        "/a%2fb",
        "/a%5Cb",
        "/a\\b",
        "/a;x/b",
        "/%00",
        "/a%",
        "/a%2",
        "/a b",
        "/é",
        "/%25",
    ],
)
def test_a_path_that_could_be_read_as_another_is_not_plain(path: str) -> None:
    assert not is_plain(path.encode())


@given(st.text(st.sampled_from(string.ascii_letters + "._-:/é %"), min_size=1, max_size=20))
def test_another_models_name_is_written_into_the_path(name: str) -> None:
    changed = with_model(b"/v2/models/m%3A1/versions/2/infer", name)
    assert changed.startswith(b"/v2/models/") and changed.endswith(b"/versions/2/infer")
    assert changed.count(b"/") == 6
    if not set(name) & set("./ %"):
        assert kind_of(changed.decode()).model == name
