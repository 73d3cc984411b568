"""The tap reads along and changes nothing: usage, events, in-stream errors, the last event's end."""

import pytest

from gateway.relay.stream_tap import StreamTap

CHUNK = b'data: {"choices":[{"index":0,"delta":{"content":"hi \\"usage\\": {} \\"error\\""}}]}\n\n'
USAGE = (
    b'data: {"choices":[],"usage":{"prompt_tokens":7,"total_tokens":12,"completion_tokens":5,'
    b'"prompt_tokens_details":{"cached_tokens":1}}}\n\n'
)
ERROR = b'data: {"error":{"message":"engine died","type":"InternalServerError","code":500}}\n\n'
DONE = b"data: [DONE]\n\n"


def _fed(body: bytes, cut: int, *, stream: bool = True) -> StreamTap:
    tap = StreamTap(stream=stream)
    for start in range(0, len(body), cut):
        tap.feed([body[start : start + cut]])
    return tap


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\r\r"])
@pytest.mark.parametrize("cut", [1, 2, 3, 7, 64, 10_000])
def test_an_error_after_content_is_seen_however_the_stream_is_cut(cut: int, end: bytes) -> None:
    body = (CHUNK * 3 + ERROR + DONE).replace(b"\n\n", end)
    tap = _fed(body, cut)
    assert tap.error == 500
    assert tap.size == len(body)
    assert tap.between_events


def test_done_after_an_error_is_not_success() -> None:
    assert _fed(ERROR + DONE, 10_000).error == 500


def test_a_model_that_writes_about_errors_is_not_one() -> None:
    tap = _fed(CHUNK * 2 + DONE, 10_000)
    assert tap.error is None
    assert tap.events == 3
    assert tap.usage() == (None, None)


def test_usage_is_read_from_the_end_of_a_stream() -> None:
    assert _fed(CHUNK + USAGE + DONE, len(CHUNK)).usage() == (7, 5)


def test_usage_that_was_taken_out_is_read_where_it_was_put() -> None:
    tap = _fed(CHUNK + USAGE[:20], 3)
    assert tap.usage() == (None, None)
    assert tap.usage(USAGE) == (7, 5)


def test_anthropic_usage_stands_at_both_ends() -> None:
    tap = StreamTap(stream=True)
    tap.begin(
        b'event: message_start\ndata: {"type":"message_start","message":{'
        b'"usage":{"input_tokens":3,"output_tokens":0}}}\n\n'
    )
    for _ in range(5):
        tap.feed([b'event: content_block_delta\ndata: {"type":"content_block_delta"}\n\n'])
    tap.feed([b'event: message_delta\ndata: {"type":"message_delta","usage":{"output_tokens":5}}\n\n'])
    tap.feed([b'event: message_stop\ndata: {"type":"message_stop"}\n\n'])
    assert tap.usage() == (3, 5)


def test_usage_of_a_plain_answer() -> None:
    body = b'{"id":"x","choices":[],"usage":{"prompt_tokens": 7,"completion_tokens": 5},"prompt_logprobs":null}'
    assert _fed(body, 50, stream=False).usage() == (7, 5)


def test_an_open_event_is_known_for_open() -> None:
    tap = _fed(CHUNK + b'data: {"cho', 10_000)
    assert not tap.between_events
    assert tap.events == 1


def test_a_long_open_event_is_not_kept_whole() -> None:
    tap = StreamTap(stream=True)
    for _ in range(100):
        tap.feed([b"x" * 60_000])
    assert len(tap._open) <= 64 * 1024
    tap.feed([b"\n\n"])
    assert tap.between_events
