"""/v1/chat/completions, in vLLM's bytes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from backends.simulator import logprobs
from backends.simulator.call import SAMPLING, SimulatedCall, asked, text_of
from backends.simulator.desk import DONE, FINGERPRINT, AnswerContext, GenerationWork
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
from backends.simulator.words import count
from policies.codec import encode

_FIELDS = {
    "messages": "messages",
    "model": "string",
    "logprobs": "boolean",
    "top_logprobs": "integer",
    "max_tokens": "integer",
    "max_completion_tokens": "integer",
    **SAMPLING,
    "tools": "list",
    "parallel_tool_calls": "boolean",
}


def chat(desk: AnswerContext) -> GenerationWork:
    """The work for a chat completion; raises Refusal."""
    body = desk.body
    check(body, _FIELDS, ("messages",))
    wanted = asked(body, "max_completion_tokens", "max_tokens")
    tools, choice = _tools(body)
    top = _top_logprobs(body)
    desk.model()
    if not body["messages"]:
        raise Refusal(400, "Cannot apply chat template to an empty conversation. Provide at least one message.")
    prompt, tokens = render(body["messages"])
    check_context(tokens, wanted, desk.limits)
    last = body["messages"][-1]
    tool = call_tool(text_of(last.get("content")), tools, choice, may=last.get("role") == "user")
    choices = [
        called(tool) if tool else generate(prompt, tokens, wanted, desk.limits, index) for index in range(wanted.n)
    ]
    page = _ChatAnswer(desk, prompt, tokens, wanted, choices, top)
    length = max(one.tokens for one in choices)
    steps = page.steps() if wanted.stream else None
    return GenerationWork(tokens, length, wanted.n, choices[0].finish_reason, page.whole, steps)


def render(messages: list[Any]) -> tuple[str, int]:
    """The prompt that a chat template would make, and its tokens: those of the texts, four a message, three for the
    answer's turn.
    """
    lines = [f"{message.get('role')}: {text_of(message.get('content'))}" for message in messages]
    return "\n".join(lines), sum(map(count, lines)) + 4 * len(lines) + 3


def _tools(body: Body) -> tuple[tuple[Tool, ...], Tool | str]:
    tools = tools_of(body.get("tools"), _tool)
    choice = body.get("tool_choice") or ("auto" if tools else "none")
    if choice != "none" and not tools:
        raise Refusal(
            400, "When using `tool_choice`, `tools` must be set. (parameter=tool_choice)", param="tool_choice"
        )
    if isinstance(choice, str):
        return tools, choice
    function = choice.get("function") if isinstance(choice, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    for tool in tools:
        if tool.name == name:
            return tools, tool
    raise unknown_tool()


def _tool(given: Any) -> tuple[str, Any] | None:
    function = given.get("function") if isinstance(given, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        return None
    return function["name"], function.get("parameters")


def _top_logprobs(body: Body) -> int | None:
    """Return the number of alternatives beside the chosen token; None: no logprobs."""
    top = body.get("top_logprobs")
    if body.get("logprobs"):
        return top or 0
    if top:
        text = "when using `top_logprobs`, `logprobs` must be set to true. (parameter=top_logprobs)"
        raise Refusal(400, text, param="top_logprobs")
    return None


class _ChatAnswer:
    """One chat answer, whole or in events."""

    def __init__(
        self,
        desk: AnswerContext,
        prompt: str,
        tokens: int,
        wanted: SimulatedCall,
        choices: list[Choice],
        top: int | None,
    ) -> None:
        self._id = f"chatcmpl-{desk.base_id(prompt)}"
        self._created = desk.created()
        self._model = desk.model()
        self._tokens = tokens
        self._wanted = wanted
        self._choices = choices
        self._top = top
        self._tool_ids = [f"chatcmpl-tool-{desk.sub_id(prompt, index)}" for index in range(len(choices))]
        self._start = b'data: {"id":%b,"object":"chat.completion.chunk","created":%d,"model":%b,"choices":[' % (
            encode(self._id),
            self._created,
            encode(self._model),
        )

    def whole(self) -> bytes:
        completion = sum(choice.tokens for choice in self._choices)
        return encode(
            {
                "id": self._id,
                "object": "chat.completion",
                "created": self._created,
                "model": self._model,
                "choices": [self._choice(index, choice) for index, choice in enumerate(self._choices)],
                "service_tier": None,
                "system_fingerprint": FINGERPRINT,
                "usage": usage(self._tokens, completion),
                "prompt_logprobs": None,
                "prompt_token_ids": None,
                "prompt_text": None,
                "kv_transfer_params": None,
                "ec_transfer_params": None,
                "metrics": None,
            }
        )

    def steps(self) -> Iterator[list[bytes]]:
        """A list of events for each token; the role chunks come with the first, usage and [DONE] with the last."""
        streams = [self._chunks(index, choice) for index, choice in enumerate(self._choices)]
        events = [self._role(index) for index in range(len(streams))]
        for _ in range(max(choice.tokens for choice in self._choices) - 1):
            for stream in streams:
                events += next(stream, ())
            yield events
            events = []
        for stream in streams:
            events += next(stream, ())
        if self._wanted.include_usage:
            completion = sum(choice.tokens for choice in self._choices)
            events.append(
                b'%b],"usage":{"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":%d},"system_fingerprint":"%b"}\n\n'
                % (self._start, self._tokens, self._tokens + completion, completion, FINGERPRINT.encode())
            )
        yield [*events, DONE]

    def _choice(self, index: int, choice: Choice) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": choice.text}
        message |= {"refusal": None, "annotations": None, "audio": None, "function_call": None}
        if choice.tool is not None:
            function = {"name": choice.tool.name, "arguments": choice.tool.arguments}
            message["tool_calls"] = [{"id": self._tool_ids[index], "type": "function", "function": function}]
        message["reasoning"] = None
        return {
            "index": index,
            "message": message,
            "logprobs": None if self._top is None else {"content": logprobs.chat(choice.texts, self._top)},
            "finish_reason": choice.finish_reason,
            "stop_reason": choice.stop,
            "token_ids": None,
            "routed_experts": None,
        }

    def _role(self, index: int) -> bytes:
        delta = b'{"index":%d,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]' % index
        return b'%b%b%b,"prompt_token_ids":null,"prompt_text":null}\n\n' % (self._start, delta, self._usage(0))

    def _chunks(self, index: int, choice: Choice) -> Iterator[list[bytes]]:
        """For each token of one choice its events, but for the role."""
        start = b'%b{"index":%d,"delta":' % (self._start, index)
        after = b',"finish_reason":null,"token_ids":null}]'
        plain = self._top is None and not self._wanted.continuous_usage
        end = b',"logprobs":null' + after + b"}\n\n"
        last = choice.tokens - 1
        for at, deltas in enumerate(self._deltas(index, choice)):
            if plain and at < last:
                yield [b"%b%b%b" % (start, delta, end) for delta in deltas]
                continue
            tail = b',"logprobs":%b%b%b' % (self._logprobs(choice, at), after, self._usage(at + 1)) + b"}\n\n"
            events = [b"%b%b%b" % (start, delta, tail) for delta in deltas]
            if at == last:
                events[-1] = start + deltas[-1] + self._finish(choice, at)
            yield events

    def _deltas(self, index: int, choice: Choice) -> Iterator[list[bytes]]:
        if choice.tool is None:
            for text in choice.texts:
                yield [b'{"content":%b}' % encode(text)]
            return
        name, identity = encode(choice.tool.name), encode(self._tool_ids[index])
        call = b'{"content":null,"tool_calls":[{%b}]}'
        yield [call % (b'"id":%b,"type":"function","index":0,"function":{"name":%b}' % (identity, name))]
        parts = [call % (b'"index":0,"function":{"arguments":%b}' % encode(part)) for part in choice.tool.parts]
        for part in parts[:-1]:
            yield [part]
        yield [parts[-1], b"{}"]

    def _finish(self, choice: Choice, at: int) -> bytes:
        words = (self._logprobs(choice, at), encode(choice.finish_reason), encode(choice.stop), self._usage(at + 1))
        stamp = b"" if self._wanted.include_usage else b',"system_fingerprint":"%b"' % FINGERPRINT.encode()
        return b',"logprobs":%b,"finish_reason":%b,"stop_reason":%b,"token_ids":null}]%b' % words + stamp + b"}\n\n"

    def _logprobs(self, choice: Choice, at: int) -> bytes:
        if self._top is None or choice.tool is not None:
            return b"null"
        return b'{"content":%b}' % encode(logprobs.chat(choice.texts[at : at + 1], self._top))

    def _usage(self, completion: int) -> bytes:
        if not self._wanted.continuous_usage:
            return b""
        numbers = (self._tokens, self._tokens + completion, completion)
        return (
            b',"usage":{"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":%d,"completion_tokens_details":null}'
            % numbers
        )


def usage(prompt: int, completion: int) -> dict[str, Any]:
    """The usage of an answer in one piece."""
    return {
        "prompt_tokens": prompt,
        "total_tokens": prompt + completion,
        "completion_tokens": completion,
        "prompt_tokens_details": None,
        "completion_tokens_details": None,
    }
