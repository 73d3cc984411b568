"""Requests for the engines: good ones of every kind that clients send, and such as vLLM itself refuses."""

from typing import Any

from tests.engines.clients import Request
from tests.engines.vllm import CONTEXT, MODEL

CHAT, COMPLETIONS, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"

_TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a place",
        "parameters": {"type": "object", "properties": {"place": {"type": "boolean"}}, "required": ["place"]},
    },
}
_CLAUDE_TOOL = {"name": "weather", "input_schema": _TOOL["function"]["parameters"]}  # type: ignore[index]
_SHORT = {"max_tokens": 12}
_STREAM = {"stream": True}

# Name of the case -> path and what is asked for beside the model and the prompt.
GOOD: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": (CHAT, _SHORT),
    "chat-stream": (CHAT, _SHORT | _STREAM),
    "chat-stream-usage": (CHAT, _SHORT | _STREAM | {"stream_options": {"include_usage": True}}),
    "chat-stream-two": (CHAT, _SHORT | _STREAM | {"n": 2, "temperature": 1.0}),
    "chat-tools": (CHAT, _SHORT | {"tools": [_TOOL], "tool_choice": "auto"}),
    "chat-stream-tools": (CHAT, {"max_tokens": 40, "tools": [_TOOL], "tool_choice": "required"} | _STREAM),
    "chat-logprobs": (CHAT, _SHORT | {"logprobs": True, "top_logprobs": 3}),
    "chat-stream-logprobs": (CHAT, _SHORT | _STREAM | {"logprobs": True, "top_logprobs": 3}),
    "completions": (COMPLETIONS, _SHORT),
    "completions-stream-usage": (COMPLETIONS, _SHORT | _STREAM | {"stream_options": {"include_usage": True}}),
    "responses": (RESPONSES, {"max_output_tokens": 12}),
    "responses-stream": (RESPONSES, {"max_output_tokens": 12} | _STREAM),
    "messages": (MESSAGES, _SHORT),
    "messages-stream": (MESSAGES, _SHORT | _STREAM),
    "messages-stream-tools": (MESSAGES, {"max_tokens": 40, "tools": [_CLAUDE_TOOL]} | _STREAM),
}

# vLLM's own refusals; a prompt of None is one that does not fit.
REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "chat-too-long": (CHAT, _SHORT | {"prompt": None}),
    "chat-stream-too-long": (CHAT, _SHORT | _STREAM | {"prompt": None}),
    "chat-wrong-type": (CHAT, {"max_tokens": "many"}),
    "chat-stream-wrong-value": (CHAT, _SHORT | _STREAM | {"temperature": -1}),
    "completions-wrong-type": (COMPLETIONS, _SHORT | {"n": "two"}),
    "messages-too-long": (MESSAGES, _SHORT | {"prompt": None}),
    "messages-wrong-type": (MESSAGES, {"max_tokens": "many"}),
}

LONG_TEXT = "The quick brown fox jumps over the lazy dog. "
# The lazy dog takes 20 tokens of the tiny tokenizer.
TOO_LONG = LONG_TEXT * (CONTEXT // 10)


def ask(path: str, mark: str, extra: dict[str, Any], model: str = MODEL) -> Request:
    """A request whose prompt begins with `mark`, so that its capture can be found."""
    extra = dict(extra)
    text = f"{mark} {TOO_LONG if 'prompt' in extra else 'Say something, please: äöü, 漢字, 😀.'}"
    extra.pop("prompt", None)
    if path == COMPLETIONS:
        prompt: dict[str, Any] = {"prompt": text}
    elif path == RESPONSES:
        prompt = {"input": text}
    else:
        prompt = {"messages": [{"role": "user", "content": text}]}
    return Request(path, {"model": model, **prompt, **extra})
