"""A text of the operator's as a proper answer, in the dialect of the path that was asked (policy key `fallback`'s
`message`): a client's SDK reads it as it reads an engine's, also as a stream, to its proper end.

    /v1/chat/completions     chat.completion; chunks and [DONE]
    /v1/completions          text_completion; chunks and [DONE]
    /v1/responses            response with one message; response.created ... response.completed
    /v1/messages             message; message_start ... message_stop
    everything else          an error in the path's shape: there is no text in an embedding

It says that no tokens were used, for none were. Written without I/O; `gateway.fallback.chain` sends it.
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
    """What is said, and to whom.

    id: of the request, for the ids that the dialects want
    created: seconds since the epoch
    status: of the answer, from 200 to 299
    usage: whether a stream of chunks was asked to say its usage
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
    """Its status, its content type, its body, and how many events that is."""

    status: int
    content_type: bytes
    body: bytes
    events: int = 0


class CannedMessage(GatewayError):
    """The same where it can only be an error."""

    def __init__(self, message: str, *, status: int, code: str, retry_after: int | None = None) -> None:
        """`code` is that of the error in whose place it stands."""
        super().__init__(message, retry_after=retry_after)
        self.status, self.code = status, code


def answer(path: str, said: CannedText) -> CannedAnswer | None:
    """The answer in the dialect of a path (`PathKind.path`); None where the path's answers hold no text."""
    found = _DIALECTS.get(path)
    if found is None:
        return None
    whole, stream = found
    if not said.stream:
        return CannedAnswer(said.status, JSON, codec.encode(whole(said)))
    events = stream(said)
    return CannedAnswer(said.status, EVENTS, b"".join(events), len(events))


# -- OpenAI's chat and completions

_NO_USAGE: Final = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


def _chat(said: CannedText) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": said.text, "refusal": None, "tool_calls": []}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    return {**_chat_head(said, "chat.completion"), "choices": [choice], "usage": _NO_USAGE}


def _chat_stream(said: CannedText) -> list[bytes]:
    head = _chat_head(said, "chat.completion.chunk")

    def chunk(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        return {**head, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}]}

    return _chunks(
        said, head, [chunk({"role": "assistant", "content": ""}), chunk({"content": said.text}), chunk({}, "stop")]
    )


def _chat_head(said: CannedText, kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{said.id}", "object": kind, "created": said.created, "model": said.model}


def _completion(said: CannedText) -> dict[str, Any]:
    choice = {"index": 0, "text": said.text, "logprobs": None, "finish_reason": "stop"}
    return {**_completion_head(said), "choices": [choice], "usage": _NO_USAGE}


def _completion_stream(said: CannedText) -> list[bytes]:
    head = _completion_head(said)

    def chunk(text: str, reason: str | None = None) -> dict[str, Any]:
        return {**head, "choices": [{"index": 0, "text": text, "logprobs": None, "finish_reason": reason}]}

    return _chunks(said, head, [chunk(said.text), chunk("", "stop")])


def _completion_head(said: CannedText) -> dict[str, Any]:
    return {"id": f"cmpl-{said.id}", "object": "text_completion", "created": said.created, "model": said.model}


def _chunks(said: CannedText, head: dict[str, Any], chunks: list[dict[str, Any]]) -> list[bytes]:
    if said.usage:
        chunks.append({**head, "choices": [], "usage": _NO_USAGE})
    return [*(b"data: %b\n\n" % codec.encode(one) for one in chunks), b"data: [DONE]\n\n"]


# -- OpenAI's responses


def _response(said: CannedText) -> dict[str, Any]:
    usage = {
        "input_tokens": 0, "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": 0, "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 0,
    }  # fmt: skip
    return {**_response_head(said, "completed"), "output": [_item(said, "completed")], "usage": usage}


def _response_head(said: CannedText, status: str) -> dict[str, Any]:
    return {
        "id": f"resp_{said.id}", "object": "response", "created_at": said.created, "status": status,
        "model": said.model, "error": None, "incomplete_details": None, "instructions": None, "metadata": {},
        "output": [], "parallel_tool_calls": True, "temperature": None, "tool_choice": "auto", "tools": [],
        "top_p": None, "usage": None,
    }  # fmt: skip


def _item(said: CannedText, status: str) -> dict[str, Any]:
    content = [_part(said.text)] if status == "completed" else []
    return {"id": f"msg_{said.id}", "type": "message", "role": "assistant", "status": status, "content": content}


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _response_stream(said: CannedText) -> list[bytes]:
    begun = {"response": _response_head(said, "in_progress")}
    of_item: dict[str, Any] = {"output_index": 0}
    of_part: dict[str, Any] = {"item_id": f"msg_{said.id}", "output_index": 0, "content_index": 0}
    events: list[tuple[str, dict[str, Any]]] = [
        ("response.created", begun),
        ("response.in_progress", begun),
        ("response.output_item.added", {**of_item, "item": _item(said, "in_progress")}),
        ("response.content_part.added", {**of_part, "part": _part("")}),
        ("response.output_text.delta", {**of_part, "delta": said.text, "logprobs": []}),
        ("response.output_text.done", {**of_part, "text": said.text, "logprobs": []}),
        ("response.content_part.done", {**of_part, "part": _part(said.text)}),
        ("response.output_item.done", {**of_item, "item": _item(said, "completed")}),
        ("response.completed", {"response": _response(said)}),
    ]
    return [_named(name, {"sequence_number": number, **fields}) for number, (name, fields) in enumerate(events)]


# -- Anthropic's messages


def _message(said: CannedText) -> dict[str, Any]:
    content = [{"type": "text", "text": said.text}]
    return {**_message_head(said), "content": content, "stop_reason": "end_turn"}


def _message_head(said: CannedText) -> dict[str, Any]:
    return {
        "id": f"msg_{said.id}", "type": "message", "role": "assistant", "model": said.model, "content": [],
        "stop_reason": None, "stop_sequence": None, "usage": {"input_tokens": 0, "output_tokens": 0},
    }  # fmt: skip


def _message_stream(said: CannedText) -> list[bytes]:
    events: list[tuple[str, dict[str, Any]]] = [
        ("message_start", {"message": _message_head(said)}),
        ("content_block_start", {"index": 0, "content_block": {"type": "text", "text": ""}}),
        ("content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": said.text}}),
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
