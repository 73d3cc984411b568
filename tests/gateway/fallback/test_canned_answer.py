"""A text of the operator's in every dialect: what our own reading of streams makes of it, whatever the text is."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import error_body
from gateway.fallback.canned_answer import EVENTS, JSON, CannedMessage, CannedText, answer
from gateway.relay.stream_tap import StreamTap
from policies.request.first_content import EVENT_END, ContentEvent, FirstContent

PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages")
SAID = CannedText("busy", "m", "0" * 32, 1_763_650_057)

texts = st.text(st.characters(codec="utf-8"), min_size=1)


def events(body: bytes) -> list[ContentEvent]:
    blocks = EVENT_END.split(body)
    assert blocks.pop() == b"", "the last event is ended"
    return [ContentEvent.parse(block) for block in blocks]


def text_of(path: str, body: bytes) -> str:
    """What a client puts together."""
    found = [json.loads(event.data) for event in events(body) if event.data != b"[DONE]"]
    if path == "/v1/chat/completions":
        return "".join(choice["delta"].get("content", "") for one in found for choice in one["choices"])
    if path == "/v1/completions":
        return "".join(choice["text"] for one in found for choice in one["choices"])
    if path == "/v1/responses":
        return "".join(one["delta"] for one in found if one["type"] == "response.output_text.delta")
    return "".join(one["delta"]["text"] for one in found if one["type"] == "content_block_delta")


def plain_text(path: str, body: bytes) -> str:
    whole: Any = json.loads(body)
    if path == "/v1/chat/completions":
        return str(whole["choices"][0]["message"]["content"])
    if path == "/v1/completions":
        return str(whole["choices"][0]["text"])
    if path == "/v1/responses":
        return str(whole["output"][0]["content"][0]["text"])
    return str(whole["content"][0]["text"])


@pytest.mark.parametrize("path", PATHS)
@given(text=texts, usage=st.booleans())
def test_any_text_arrives_whole_as_a_stream_and_as_a_body(path: str, text: str, usage: bool) -> None:
    stream = answer(path, replace(SAID, text=text, stream=True, usage=usage))
    plain = answer(path, replace(SAID, text=text))
    assert stream is not None and plain is not None
    assert (stream.content_type, plain.content_type) == (EVENTS, JSON)
    assert text_of(path, stream.body) == plain_text(path, plain.body) == text
    assert stream.events == len(events(stream.body)) and plain.events == 0


@pytest.mark.parametrize("path", PATHS)
def test_its_streams_are_what_we_expect_of_engines(path: str) -> None:
    found = answer(path, replace(SAID, stream=True, usage=True))
    assert found is not None
    first, tap = FirstContent(), StreamTap(stream=True)
    assert first.feed(found.body) and first.error is None
    tap.begin(found.body)
    assert tap.end_seen and tap.between_events and tap.error is None
    assert tap.events == found.events
    assert tap.usage() in ((0, 0), (None, 0), (None, None))


@pytest.mark.parametrize("path", PATHS)
def test_a_status_of_success_is_the_operators(path: str) -> None:
    found = answer(path, replace(SAID, status=203))
    assert found is not None and found.status == 203


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/messages/count_tokens", "/generate", "/v2", "/predict/*"])
def test_paths_whose_answers_hold_no_text_have_none(path: str) -> None:
    assert answer(path, SAID) is None


@pytest.mark.parametrize(
    ("status", "kind"), [(429, "rate_limit_error"), (503, "api_error"), (422, "invalid_request_error")]
)
def test_as_an_error_it_has_the_shape_of_one(status: int, kind: str) -> None:
    error = CannedMessage("busy", status=status, code="queue_full", retry_after=3)
    assert json.loads(error_body(error, "openai"))["error"] == {
        "message": "busy",
        "type": kind,
        "param": None,
        "code": "queue_full",
    }
    assert (error.status, error.retry_after) == (status, 3)
