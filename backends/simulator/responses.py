"""/v1/responses, in vLLM's bytes (without its store: GET and cancel know no id)."""

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
from policies.codec import encode

_FIELDS = {
    "input": "prompt",
    "instructions": "string",
    "max_output_tokens": "integer",
    "model": "string",
    "parallel_tool_calls": "boolean",
    "stream": "boolean",
    "temperature": "number",
    "tools": "list",
    "top_p": "number",
    "user": "string",
}


def respond(desk: AnswerContext) -> GenerationWork:
    """The work for a response; raises Refusal."""
    body = desk.body
    check(body, _FIELDS, ("input",))
    if body.get("previous_response_id") is not None:
        raise unknown(str(body["previous_response_id"]))
    wanted = asked(body | {"n": None, "stop": None, "stream_options": None}, "max_output_tokens")
    desk.model()
    turns = _turns(body)
    prompt, tokens = render(turns)
    check_context(tokens, wanted, desk.limits)
    tools, choice = _tools(body)
    last = turns[-1] if turns else {}
    tool = call_tool(text_of(last.get("content")), tools, choice, may=last.get("role") == "user")
    said = called(tool) if tool else generate(prompt, tokens, wanted, desk.limits)
    page = _ResponseAnswer(desk, prompt, tokens, said)
    return GenerationWork(
        tokens, said.tokens, 1, said.finish_reason, page.whole, page.steps() if wanted.stream else None
    )


def unknown(identity: str) -> Refusal:
    """Return vLLM's refusal of a response id that it does not hold."""
    return Refusal(404, f"Response with id '{identity}' not found.", "invalid_request_error", "response_id")


def _turns(body: Body) -> list[dict[str, Any]]:
    given = body["input"]
    items = (
        [{"role": "user", "content": given}]
        if isinstance(given, str)
        else [one for one in given if isinstance(one, dict)]
    )
    turns = [item if "role" in item else {"role": "tool", "content": item.get("output", "")} for item in items]
    instructions = body.get("instructions")
    return [{"role": "system", "content": instructions}, *turns] if instructions else turns


def _tools(body: Body) -> tuple[tuple[Tool, ...], Tool | str]:
    tools = tools_of(body.get("tools"), _tool)
    choice = body.get("tool_choice") or "auto"
    if isinstance(choice, str):
        return tools, choice
    for tool in tools:
        if isinstance(choice, dict) and tool.name == choice.get("name"):
            return tools, tool
    raise unknown_tool()


def _tool(given: Any) -> tuple[str, Any] | None:
    if not isinstance(given, dict) or not isinstance(given.get("name"), str):
        return None
    return given["name"], given.get("parameters")


class _ResponseAnswer:
    """One response, whole or in events."""

    def __init__(self, desk: AnswerContext, prompt: str, tokens: int, said: Choice) -> None:
        self._body = desk.body
        self._id = f"resp_{desk.base_id(prompt)}"
        self._created = desk.created()
        self._model = desk.model()
        self._room = max(1, desk.limits.context - tokens)
        self._tokens = tokens
        self._said = said
        self._item_id = f"{'msg' if said.tool is None else 'fc'}_{desk.sub_id(prompt, 0)}"
        self._call_id = f"chatcmpl-tool-{desk.sub_id(prompt, 1)}"
        self._number = 0

    def whole(self) -> bytes:
        return encode(self._response(done=True))

    def steps(self) -> Iterator[list[bytes]]:
        """Yield the events of each token; the opening ones come with the first token, the closing ones with the
        last."""
        response = self._response(done=False)
        events = [self._event(kind, {"response": response}) for kind in ("response.created", "response.in_progress")]
        events.append(self._event("response.output_item.added", {"item": self._item("in_progress"), "output_index": 0}))
        deltas = self._text_deltas() if self._said.tool is None else self._call_deltas()
        for at, delta in enumerate(deltas):
            events += delta
            if at < self._said.tokens - 1:
                yield events
                events = []
        item = {"item": self._item("completed"), "output_index": 0}
        events.append(self._event("response.output_item.done", item))
        events.append(self._event("response.completed", {"response": self._response(done=True)}))
        yield events

    def _text_deltas(self) -> Iterator[list[bytes]]:
        place = {"content_index": 0, "item_id": self._item_id, "output_index": 0}
        part = {"annotations": [], "text": "", "type": "output_text", "logprobs": []}
        events = [self._event("response.content_part.added", place | {"part": part})]
        last = self._said.tokens - 1
        for at, text in enumerate(self._said.texts):
            if text:
                events.append(self._delta(text))
            if at == last:
                whole = {"content_index": 0, "item_id": self._item_id, "logprobs": [], "output_index": 0}
                events.append(self._event("response.output_text.done", whole, {"text": self._said.text}))
                events.append(self._event("response.content_part.done", place | {"part": self._part()}))
            yield events
            events = []

    def _call_deltas(self) -> Iterator[list[bytes]]:
        tool = self._said.tool
        assert tool is not None
        place = {"item_id": self._item_id, "output_index": 0}
        yield []
        for at, part in enumerate(tool.parts):
            events = [self._event("response.function_call_arguments.delta", {"delta": part} | place)]
            if at == len(tool.parts) - 1:
                done = {"arguments": tool.arguments} | place
                kind = "response.function_call_arguments.done"
                number = self._take_number()
                events.append(_line(kind, done | {"sequence_number": number, "type": kind, "name": tool.name}))
            yield events

    def _delta(self, text: str) -> bytes:
        """The event of every token, written without building an object."""
        row = (encode(text), encode(self._item_id), self._take_number())
        return (
            b'event: response.output_text.delta\ndata: {"content_index":0,"delta":%b,"item_id":%b,"logprobs":[],'
            b'"output_index":0,"sequence_number":%d,"type":"response.output_text.delta"}\n\n' % row
        )

    def _event(self, kind: str, fields: dict[str, Any], after: dict[str, Any] | None = None) -> bytes:
        return _line(kind, {**fields, "sequence_number": self._take_number(), **(after or {}), "type": kind})

    def _take_number(self) -> int:
        self._number += 1
        return self._number - 1

    def _part(self) -> dict[str, Any]:
        return {"annotations": [], "text": self._said.text, "type": "output_text", "logprobs": None}

    def _item(self, status: str) -> dict[str, Any]:
        finished = status == "completed"
        tool = self._said.tool
        if tool is None:
            content = [self._part()] if finished else []
            return {
                "id": self._item_id,
                "content": content,
                "role": "assistant",
                "status": status,
                "type": "message",
                "phase": None,
            }
        call = {
            "arguments": tool.arguments if finished else "",
            "call_id": self._call_id,
            "name": tool.name,
            "type": "function_call",
        }
        return call | {"id": self._item_id, "async": None, "caller": None, "namespace": None, "status": status}

    def _response(self, *, done: bool) -> dict[str, Any]:
        body = self._body
        cut = done and self._said.finish_reason == "length"
        tools = [_shown(tool) for tool in body.get("tools") or () if isinstance(tool, dict)]
        return {
            "id": self._id,
            "created_at": self._created,
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "instructions": body.get("instructions"),
            "metadata": body.get("metadata"),
            "model": self._model,
            "object": "response",
            "output": [self._item("completed")] if done else [],
            "parallel_tool_calls": body.get("parallel_tool_calls") is not False,
            "temperature": _either(body.get("temperature"), 1.0),
            "tool_choice": body.get("tool_choice") or ("auto" if tools else "none"),
            "tools": tools,
            "top_p": _either(body.get("top_p"), 1.0),
            "background": False,
            "max_output_tokens": _either(body.get("max_output_tokens"), self._room),
            "max_tool_calls": None,
            "previous_response_id": None,
            "prompt": None,
            "reasoning": None,
            "service_tier": "auto",
            "status": ("incomplete" if cut else "completed") if done else "in_progress",
            "text": None,
            "top_logprobs": None,
            "truncation": "disabled",
            "usage": self._usage() if done else None,
            "user": body.get("user"),
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "kv_transfer_params": None,
            "ec_transfer_params": None,
            "input_messages": None,
            "output_messages": None,
        }

    def _usage(self) -> dict[str, Any]:
        made = self._said.tokens
        cached = {
            "cached_tokens": 0,
            "cache_write_tokens": 0,
            "input_tokens_per_turn": [],
            "cached_tokens_per_turn": [],
        }
        thought = {
            "reasoning_tokens": 0,
            "tool_output_tokens": 0,
            "output_tokens_per_turn": [],
            "tool_output_tokens_per_turn": [],
        }
        return {
            "input_tokens": self._tokens,
            "input_tokens_details": cached,
            "output_tokens": made,
            "output_tokens_details": thought,
            "total_tokens": self._tokens + made,
        }


def _line(kind: str, fields: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), encode(fields))


def _either(given: object, otherwise: object) -> object:
    return otherwise if given is None else given


def _shown(tool: dict[str, Any]) -> dict[str, Any]:
    """A tool as vLLM gives it back: every field of its type, in its order."""
    named = {name: tool.get(name) for name in ("name", "parameters", "strict")}
    rest = ("allowed_callers", "async", "defer_loading", "description", "output_schema")
    return named | {"type": tool.get("type", "function")} | {name: tool.get(name) for name in rest}
