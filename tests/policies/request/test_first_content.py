"""When an answer begins (DESIGN rule 2), for every engine's way of beginning."""

import pytest

from policies.request.first_content import ContentEvent, FirstContent, error_status, is_content

ROLE = (
    b'data: {"id":"x","object":"chat.completion.chunk","choices":['
    b'{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}'
)
ROLE_NULL = b'data: {"choices":[{"finish_reason":null,"index":0,"delta":{"role":"assistant","content":null}}]}'
TOKEN = b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}'

NOT_CONTENT = [
    ROLE,
    ROLE_NULL,
    b": keep-alive",
    b"data:",
    b"data:    ",
    b'event: ping\ndata: {"type": "ping"}',
    b'event: message_start\ndata: {"type":"message_start","message":{"usage":{"input_tokens":3}}}',
    b'event: content_block_start\ndata: {"type":"content_block_start","index":0}',
    b'event: response.created\ndata: {"type":"response.created","response":{"error":null}}',
    b'data: {"type":"response.in_progress","response":{}}',
    b"event: response.queued\ndata: {}",
    b'data: {"choices":[{"index":0,"delta":{"role":"assistant"}},'
    b'{"index":1,"delta":{"role":"assistant","content":""}}]}',
]
CONTENT = [
    TOKEN,
    b"data: [DONE]",
    b"data:x",
    b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}',
    b'data: {"choices":[],"usage":{"prompt_tokens":1}}',
    b'data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0}]}}]}',
    b'data: {"choices":[{"index":0,"text":""}]}',
    b'event: content_block_delta\ndata: {"type":"content_block_delta"}',
    b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta"}',
    b'data: {"model_name":"m","text_output":"a"}',
    b"data: not json",
    b'data: ["list"]',
]


@pytest.mark.parametrize("block", NOT_CONTENT)
def test_what_only_opens_a_stream_is_not_content(block: bytes) -> None:
    assert not is_content(ContentEvent.parse(block))
    assert not FirstContent().feed(block + b"\n\n")


@pytest.mark.parametrize("block", CONTENT)
def test_anything_else_with_data_is_content(block: bytes) -> None:
    assert is_content(ContentEvent.parse(block))
    first = FirstContent()
    assert first.feed(block + b"\r\n\r\n")
    assert first.error is None


@pytest.mark.parametrize(
    ("block", "status"),
    [
        (b'data: {"error":{"message":"x","type":"ServiceUnavailableError","param":null,"code":503}}', 503),
        (b'data: {"error":{"message":"x","type":"BadRequestError"}}', 400),
        (b'data: {"error":"text"}', 500),
        (b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"x"}}', 503),
        (b"event: error\ndata: boom", 500),
        (b'data: {"error":{"message":"x","code":"context_length_exceeded"}}', 500),
    ],
)
def test_an_error_event_stands_for_a_status(block: bytes, status: int) -> None:
    assert error_status(ContentEvent.parse(block)) == status
    first = FirstContent()
    assert first.feed(b": ping\n\n" + block + b"\n\n")
    assert first.error == status


@pytest.mark.parametrize(
    "block", [b'data: {"error":null,"choices":[]}', TOKEN, b'data: {"choices":[{"delta":{"content":"\\"error\\""}}]}']
)
def test_a_null_error_or_a_quoted_one_is_none(block: bytes) -> None:
    assert error_status(ContentEvent.parse(block)) is None


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_every_cut_finds_the_same_first_content(end: bytes) -> None:
    """The stream may be cut anywhere: inside CRLF, inside UTF-8, inside a field."""
    blocks = [b": p\xc3\xa4ng", ROLE, TOKEN]
    stream = b"".join(block + end + end for block in blocks)
    token_at = len(stream) - len(TOKEN + end + end)
    for cut in range(1, len(stream)):
        first = FirstContent()
        early = first.feed(stream[:cut])
        assert not early or cut > token_at + len(TOKEN)
        assert early or first.feed(stream[cut:])
        assert first.error is None


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("BadRequestError", 400), ("invalid_request_error", 400), ("authentication_error", 401),
        ("permission_error", 403), ("NotFoundError", 404), ("not_found_error", 404), ("rate_limit_error", 429),
        ("NotImplementedError", 501), ("ServiceUnavailableError", 503), ("overloaded_error", 503),
        ("unavailable_error", 503), ("another", 500),
    ],
)  # fmt: skip
def test_the_type_of_an_error_event_stands_for_a_status(kind: str, status: int) -> None:
    block = b'data: {"error": {"type": "%b", "message": "m"}}' % kind.encode()
    assert error_status(ContentEvent.parse(block)) == status


@pytest.mark.parametrize(("code", "status"), [(399, 500), (400, 400), (599, 599), (600, 500)])
def test_a_code_is_a_status_only_in_its_range(code: int, status: int) -> None:
    assert error_status(ContentEvent.parse(b'data: {"error": {"code": %d}}' % code)) == status
