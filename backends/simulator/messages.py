"""/v1/messages and its count_tokens: Anthropic's API as vLLM speaks it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from backends.simulator.call import asked, text_of
from backends.simulator.chat import render
from backends.simulator.desk import AnswerContext, GenerationWork
from backends.simulator.fields import Body, check
from backends.simulator.generation import (
    Choice,
    Tool,
    call_tool,
    called,
    check_context,
    generate,
    tools_of,
    unknown_tool,
)
from backends.simulator.refusals import Refusal
from policies.codec import decode, encode

_FIELDS = {
    "model": "string",
    "messages": "turns",
    "max_tokens": "integer",
    "stop_sequences": "list",
    "stream": "boolean",
    "temperature": "number",
    "tool_choice": "object",
    "tools": "list",
    "top_k": "integer",
    "top_p": "number",
}
_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}


def messages(desk: AnswerContext) -> GenerationWork:
    """The work for a message; raises Refusal."""
    body = desk.body
    check(body, _FIELDS, ("model", "messages", "max_tokens"))
    wanted = asked(body | {"stop": body.get("stop_sequences"), "stream_options": None, "n": None}, "max_tokens")
    desk.model()
    prompt, tokens = _render(body)
    check_context(tokens, wanted, desk.limits)
    tools, choice = _tools(body)
    last = body["messages"][-1] if body["messages"] else {}
    tool = call_tool(text_of(last.get("content")), tools, choice, may=last.get("role") == "user")
    said = called(tool) if tool else generate(prompt, tokens, wanted, desk.limits)
    page = _MessageAnswer(desk, prompt, tokens, said)
    steps = page.steps(desk.settings.ping) if wanted.stream else None
    return GenerationWork(tokens, said.tokens, 1, said.finish_reason, page.whole, steps)


def count_tokens(desk: AnswerContext) -> GenerationWork:
    """Count the tokens of the messages."""
    body = desk.body
    check(body, _FIELDS, ("model", "messages"))
    desk.model()
    _, tokens = _render(body)
    found = encode({"input_tokens": tokens, "context_management": {"original_input_tokens": tokens}})
    return GenerationWork(tokens, 0, 1, "stop", lambda: found)


def _render(body: Body) -> tuple[str, int]:
    system = body.get("system")
    turns = [{"role": "system", "content": system}, *body["messages"]] if system else body["messages"]
    if not turns:
        raise Refusal(400, "Cannot apply chat template to an empty conversation. Provide at least one message.")
    return render(turns)


def _tools(body: Body) -> tuple[tuple[Tool, ...], Tool | str]:
    tools = tools_of(body.get("tools"), _tool)
    given = body.get("tool_choice") or {}
    kind = given.get("type", "auto")
    if kind != "tool":
        return tools, "required" if kind == "any" else str(kind)
    for tool in tools:
        if tool.name == given.get("name"):
            return tools, tool
    raise unknown_tool()


def _tool(given: Any) -> tuple[str, Any] | None:
    if not isinstance(given, dict) or not isinstance(given.get("name"), str):
        return None
    return given["name"], given.get("input_schema")


class _MessageAnswer:
    """One message, whole or in events."""

    def __init__(self, desk: AnswerContext, prompt: str, tokens: int, said: Choice) -> None:
        self._id = f"chatcmpl-{desk.base_id(prompt)}"
        self._model = desk.model()
        self._tokens = tokens
        self._said = said
        self._tool_id = f"chatcmpl-tool-{desk.sub_id(prompt, 0)}"

    @property
    def _reason(self) -> str:
        if self._said.tool is not None:
            return "tool_use"
        return "stop_sequence" if self._said.stop is not None else _REASONS[self._said.finish_reason]

    def whole(self) -> bytes:
        stop = {} if self._said.stop is None else {"stop_sequence": self._said.stop}
        return encode(
            {
                "id": self._id,
                "type": "message",
                "role": "assistant",
                "content": [self._block()],
                "model": self._model,
                "stop_reason": self._reason,
                **stop,
                "usage": self._usage(self._said.tokens),
            }
        )

    def steps(self, ping: bool) -> Iterator[list[bytes]]:
        """message_start and content_block_start come with the first token, the three events of the end with the
        last.
        """
        start: dict[str, Any] = {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "content": [],
            "model": self._model,
        }
        start |= {"stop_reason": None, "stop_sequence": None, "usage": self._usage(0)}
        events = [_event("message_start", {"message": start})]
        if ping:
            events.append(_event("ping", {}))
        events.append(_event("content_block_start", {"content_block": self._opening(), "index": 0}))
        deltas = self._deltas()
        for delta in deltas[:-1]:
            yield events + delta
            events = []
        end = {
            "delta": {"stop_reason": self._reason, "stop_sequence": self._said.stop},
            "usage": self._usage(self._said.tokens),
        }
        closing = [_event("content_block_stop", {"index": 0}), _event("message_delta", end), _event("message_stop", {})]
        yield events + deltas[-1] + closing

    def _deltas(self) -> list[list[bytes]]:
        """For each token its events: none for a token without text, nor for the one that is a tool's name."""
        if self._said.tool is None:
            return [[_delta("text_delta", "text", text)] if text else [] for text in self._said.texts]
        return [[], *([_delta("input_json_delta", "partial_json", part)] for part in self._said.tool.parts)]

    def _opening(self) -> dict[str, Any]:
        if self._said.tool is None:
            return {"type": "text", "text": ""}
        return {"type": "tool_use", "id": self._tool_id, "name": self._said.tool.name, "input": {}}

    def _block(self) -> dict[str, Any]:
        if self._said.tool is None:
            return {"type": "text", "text": self._said.text}
        return self._opening() | {"input": decode(self._said.tool.arguments)}

    def _usage(self, completion: int) -> dict[str, int]:
        return {"input_tokens": self._tokens, "output_tokens": completion}


def _event(kind: str, fields: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), encode({"type": kind, **fields}))


def _delta(kind: str, name: str, text: str) -> bytes:
    row = b'{"type":"content_block_delta","delta":{"type":"%b","%b":%b},"index":0}' % (
        kind.encode(),
        name.encode(),
        encode(text),
    )
    return b"event: content_block_delta\ndata: %b\n\n" % row
