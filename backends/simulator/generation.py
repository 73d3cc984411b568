"""The answer to a request before it has a dialect: how many tokens, which ones, why it ends, which tool it calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from backends.simulator import words
from backends.simulator.call import SimulatedCall
from backends.simulator.refusals import Refusal, value
from policies.codec import encode


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool that may be called."""

    name: str
    schema: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool that is called: its arguments are made from the schema and the prompt."""

    name: str
    arguments: str
    forced: bool
    """By name; vLLM then ends with `stop` instead of `tool_calls`."""

    @property
    def parts(self) -> list[str]:
        """The arguments as a stream yields them, a part a token."""
        return [self.arguments[at : at + 8] for at in range(0, len(self.arguments), 8)]


@dataclass(frozen=True, slots=True)
class Choice:
    """One answer. `texts` has one entry a token; of a tool call there are none and `tool` has its parts."""

    texts: list[str]
    tokens: int
    finish_reason: str
    stop: str | None = None
    """The stop string that was met."""
    tool: ToolCall | None = None

    @property
    def text(self) -> str:
        return "".join(self.texts)


@dataclass(frozen=True, slots=True)
class GenerationLimits:
    """Bounds of an answer: the settings' natural length and the context."""

    natural: int
    context: int


def check_context(prompt_tokens: int, asked: SimulatedCall, limits: GenerationLimits) -> None:
    """Raises vLLM's refusals of an over-long prompt and of a max_tokens that can't be."""
    if asked.limit is not None:
        if asked.limit < 1:
            raise value(f"max_tokens must be at least 1, got {asked.limit}.", "max_tokens", asked.limit)
        if asked.limit > limits.context:
            text = f"max_tokens={asked.limit} cannot be greater than max_model_len={limits.context}."
            text += " Please request fewer output tokens."
            raise value(text, "max_tokens", asked.limit)
    if prompt_tokens > limits.context:
        text = (
            f"This model's maximum context length is {limits.context} tokens. However, your prompt contains at least "
            f"{limits.context + 1} input tokens, which exceeds this limit even without any output tokens. "
            "Please reduce the length of the input prompt."
        )
        raise value(text, "input_tokens", limits.context + 1)


def generate(prompt: str, prompt_tokens: int, asked: SimulatedCall, limits: GenerationLimits, index: int = 0) -> Choice:
    """The `index`-th answer to a prompt: as long as the settings say, unless the request says otherwise."""
    room = max(1, limits.context - prompt_tokens)
    limit = room if asked.limit is None else min(asked.limit, room)
    length = limit if asked.ignore_eos else min(limit, max(limits.natural, asked.min_tokens))
    cut = length == limit and (asked.ignore_eos or limit < limits.natural)
    texts = [words.PIECES[at] for at in words.pieces(words.hashed(prompt, asked.seed * 31 + index + 1), length)]
    texts[0] = texts[0].strip() or texts[0]
    met = _stopped(texts, asked)
    if met is not None:
        return met
    return Choice(texts, length, "length" if cut else "stop")


def _stopped(texts: list[str], asked: SimulatedCall) -> Choice | None:
    """The answer cut before the first stop string, which is not part of it."""
    if not asked.stop:
        return None
    whole = "".join(texts)
    found = min(((at, stop) for stop in asked.stop if (at := whole.find(stop)) >= 0), default=None)
    if found is None:
        return None
    at, stop = found
    kept, used, size = [], 0, 0
    for text in texts:
        used += 1
        if size < at:
            kept.append(text[: at - size])
        size += len(text)
        if size >= at + len(stop):
            break
    # The token that completes the stop string was generated too: usage counts it, and the stream has an event for it.
    return Choice(kept + [""] * (used - len(kept)), used, "stop", stop)


def call_tool(prompt: str, tools: Sequence[Tool], choice: object, *, may: bool) -> ToolCall | None:
    """The call that `choice` asks for: none | auto | required | the name of a tool (as a Tool).

    With auto the pretended model calls the first tool whose name stands in the prompt's last message (`may`), and else
    writes text.
    """
    if not tools or choice == "none":
        return None
    if isinstance(choice, Tool):
        return _call(prompt, choice, forced=True)
    if choice == "required":
        return _call(prompt, tools[words.hashed(prompt) % len(tools)], forced=False)
    named = next((tool for tool in tools if tool.name in prompt), None) if may else None
    return None if named is None else _call(prompt, named, forced=False)


def called(tool: ToolCall) -> Choice:
    """The choice that is a tool call."""
    return Choice([], len(tool.parts) + 1, "stop" if tool.forced else "tool_calls", tool=tool)


def _call(prompt: str, tool: Tool, *, forced: bool) -> ToolCall:
    return ToolCall(tool.name, encode(_sample(tool.schema, words.hashed(prompt), 0)).decode(), forced)


def _sample(schema: object, seed: int, depth: int) -> Any:
    """A value that a JSON schema allows, as far as types, enum, const and properties go."""
    if not isinstance(schema, dict) or depth > 8:
        return {} if depth == 0 else None
    if "const" in schema:
        return schema["const"]
    if isinstance(schema.get("enum"), list) and schema["enum"]:
        return schema["enum"][seed % len(schema["enum"])]
    kind = schema.get("type", "object" if depth == 0 or "properties" in schema else "string")
    if kind == "object" or depth == 0:
        properties = schema.get("properties")
        rows = properties.items() if isinstance(properties, dict) else ()
        return {name: _sample(inner, words.hashed(name, seed), depth + 1) for name, inner in rows}
    if kind == "array":
        return [_sample(schema.get("items"), seed, depth + 1)]
    plain: dict[object, Any] = {"integer": seed % 100, "number": seed % 100 / 4, "boolean": seed % 2 == 0, "null": None}
    return plain.get(kind if isinstance(kind, str) else None, words.PIECES[seed & 63].strip() or "word")


def tools_of(given: object, read: Any) -> tuple[Tool, ...]:
    """The tools of a request; `read` takes one entry to (name, schema) or None."""
    found = [read(one) for one in given] if isinstance(given, list) else []
    return tuple(Tool(name, schema if isinstance(schema, dict) else {}) for name, schema in filter(None, found))


def unknown_tool() -> Refusal:
    text = "The tool specified in `tool_choice` does not match any of the specified `tools` (parameter=tool_choice)"
    return Refusal(400, text, param="tool_choice")
