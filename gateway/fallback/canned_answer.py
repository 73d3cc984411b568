"""Canned answer: the operator's text as an answer in the dialect of the request's path (`message` of policy key
`routes[].fallback`). An SDK reads it as it reads an engine's answer, also as a stream, to its proper end.

    /v1/chat/completions     chat.completion; chunks and [DONE]
    /v1/completions          text_completion; chunks and [DONE]
    /v1/responses            response with one message; response.created ... response.completed
    /v1/messages             message; message_start ... message_stop
    everything else          an error in the path's shape: there is no text in an embedding

Its usage is no tokens, for none were used. Written without I/O; `gateway.fallback.chain` sends it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from gateway.errors import GatewayError
from policies import codec

JSON: Final = b"application/json"
EVENTS: Final = b"text/event-stream; charset=utf-8"


@dataclass(frozen=True, slots=True)
class CannedText:
    """Text of an answer, and the facts of the request that its dialect repeats.

    id: id of the request, for the ids of the dialects
    created: seconds since the epoch
    status: HTTP status of the answer, from 200 to 299
    usage: whether the client wants usage at the end of a stream of chunks
    """

    text: str
    model: str
    id: str
    created: int
    status: int = 200
    stream: bool = False
    usage: bool = False


@dataclass(frozen=True, slots=True)
class CannedAnswer:
    """Status, content type and body of an answer; `events` is the number of SSE events, 0 for a plain body."""

    status: int
    content_type: bytes
    body: bytes
    events: int = 0


class CannedMessage(GatewayError):
    """The operator's text as an error, on a path without answers of text."""

    def __init__(self, message: str, *, status: int, code: str, retry_after: int | None = None) -> None:
        """`code` is the code of the error that it replaces."""
        super().__init__(message, retry_after=retry_after)
        self.status, self.code = status, code


def answer(path: str, canned: CannedText) -> CannedAnswer | None:
    """The answer in the dialect of a path (`PathKind.path`); None where the path's answers hold no text."""
    found = _DIALECTS.get(path)
    if found is None:
        return None
    whole, stream = found
    if not canned.stream:
        return CannedAnswer(canned.status, JSON, codec.encode(whole(canned)))
    events = stream(canned)
    return CannedAnswer(canned.status, EVENTS, b"".join(events), len(events))


# -- OpenAI's chat and completions

_NO_USAGE: Final = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


def _chat(canned: CannedText) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": canned.text, "refusal": None, "tool_calls": []}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    return {**_chat_head(canned, "chat.completion"), "choices": [choice], "usage": _NO_USAGE}


def _chat_stream(canned: CannedText) -> list[bytes]:
    head = _chat_head(canned, "chat.completion.chunk")

    def chunk(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        return {**head, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}]}

    return _chunks(
        canned, head, [chunk({"role": "assistant", "content": ""}), chunk({"content": canned.text}), chunk({}, "stop")]
    )


def _chat_head(canned: CannedText, kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{canned.id}", "object": kind, "created": canned.created, "model": canned.model}


def _completion(canned: CannedText) -> dict[str, Any]:
    choice = {"index": 0, "text": canned.text, "logprobs": None, "finish_reason": "stop"}
    return {**_completion_head(canned), "choices": [choice], "usage": _NO_USAGE}


def _completion_stream(canned: CannedText) -> list[bytes]:
    head = _completion_head(canned)

    def chunk(text: str, reason: str | None = None) -> dict[str, Any]:
        return {**head, "choices": [{"index": 0, "text": text, "logprobs": None, "finish_reason": reason}]}

    return _chunks(canned, head, [chunk(canned.text), chunk("", "stop")])


def _completion_head(canned: CannedText) -> dict[str, Any]:
    return {"id": f"cmpl-{canned.id}", "object": "text_completion", "created": canned.created, "model": canned.model}


def _chunks(canned: CannedText, head: dict[str, Any], chunks: list[dict[str, Any]]) -> list[bytes]:
    if canned.usage:
        chunks.append({**head, "choices": [], "usage": _NO_USAGE})
    return [*(b"data: %b\n\n" % codec.encode(one) for one in chunks), b"data: [DONE]\n\n"]


# -- OpenAI's responses


def _response(canned: CannedText) -> dict[str, Any]:
    usage = {
        "input_tokens": 0, "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": 0, "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 0,
    }  # fmt: skip
    return {**_response_head(canned, "completed"), "output": [_item(canned, "completed")], "usage": usage}


def _response_head(canned: CannedText, status: str) -> dict[str, Any]:
    return {
        "id": f"resp_{canned.id}", "object": "response", "created_at": canned.created, "status": status,
        "model": canned.model, "error": None, "incomplete_details": None, "instructions": None, "metadata": {},
        "output": [], "parallel_tool_calls": True, "temperature": None, "tool_choice": "auto", "tools": [],
        "top_p": None, "usage": None,
    }  # fmt: skip


def _item(canned: CannedText, status: str) -> dict[str, Any]:
    content = [_part(canned.text)] if status == "completed" else []
    return {"id": f"msg_{canned.id}", "type": "message", "role": "assistant", "status": status, "content": content}


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _response_stream(canned: CannedText) -> list[bytes]:
    begun = {"response": _response_head(canned, "in_progress")}
    of_item: dict[str, Any] = {"output_index": 0}
    of_part: dict[str, Any] = {"item_id": f"msg_{canned.id}", "output_index": 0, "content_index": 0}
    events: list[tuple[str, dict[str, Any]]] = [
        ("response.created", begun),
        ("response.in_progress", begun),
        ("response.output_item.added", {**of_item, "item": _item(canned, "in_progress")}),
        ("response.content_part.added", {**of_part, "part": _part("")}),
        ("response.output_text.delta", {**of_part, "delta": canned.text, "logprobs": []}),
        ("response.output_text.done", {**of_part, "text": canned.text, "logprobs": []}),
        ("response.content_part.done", {**of_part, "part": _part(canned.text)}),
        ("response.output_item.done", {**of_item, "item": _item(canned, "completed")}),
        ("response.completed", {"response": _response(canned)}),
    ]
    return [_named(name, {"sequence_number": number, **fields}) for number, (name, fields) in enumerate(events)]


# -- Anthropic's messages


def _message(canned: CannedText) -> dict[str, Any]:
    content = [{"type": "text", "text": canned.text}]
    return {**_message_head(canned), "content": content, "stop_reason": "end_turn"}


def _message_head(canned: CannedText) -> dict[str, Any]:
    return {
        "id": f"msg_{canned.id}", "type": "message", "role": "assistant", "model": canned.model, "content": [],
        "stop_reason": None, "stop_sequence": None, "usage": {"input_tokens": 0, "output_tokens": 0},
    }  # fmt: skip


def _message_stream(canned: CannedText) -> list[bytes]:
    events: list[tuple[str, dict[str, Any]]] = [
        ("message_start", {"message": _message_head(canned)}),
        ("content_block_start", {"index": 0, "content_block": {"type": "text", "text": ""}}),
        ("content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": canned.text}}),
        ("content_block_stop", {"index": 0}),
        ("message_delta", {"delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": {"output_tokens": 0}}),
        ("message_stop", {}),
    ]
    return [_named(name, fields) for name, fields in events]


def _named(name: str, fields: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), codec.encode({"type": name, **fields}))


_Whole = Callable[[CannedText], dict[str, Any]]
_Stream = Callable[[CannedText], list[bytes]]
_DIALECTS: Final[Mapping[str, tuple[_Whole, _Stream]]] = {
    "/v1/chat/completions": (_chat, _chat_stream),
    "/v1/completions": (_completion, _completion_stream),
    "/v1/responses": (_response, _response_stream),
    "/v1/messages": (_message, _message_stream),
}
