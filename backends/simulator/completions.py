"""/v1/completions, in vLLM's bytes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from backends.simulator import logprobs, words
from backends.simulator.call import SAMPLING, SimulatedCall, asked
from backends.simulator.chat import usage
from backends.simulator.desk import DONE, FINGERPRINT, AnswerContext, GenerationWork
from backends.simulator.fields import check
from backends.simulator.generation import Choice, check_context, generate
from backends.simulator.refusals import Refusal
from policies.codec import encode

_FIELDS = {
    "model": "string",
    "prompt": "prompt",
    "echo": "boolean",
    "logprobs": "integer",
    "max_tokens": "integer",
    **SAMPLING,
}
_DEFAULT_LIMIT = 16
"""vLLM's max_tokens on this path, and OpenAI's."""


@dataclass(frozen=True, slots=True)
class _Prompt:
    text: str
    tokens: int


def complete(desk: AnswerContext) -> GenerationWork:
    """The work for a completion; raises Refusal."""
    body = desk.body
    check(body, _FIELDS)
    prompts = _prompts(body.get("prompt"))
    wanted = asked(body, "max_tokens")
    if wanted.limit is None:
        wanted.limit = min(_DEFAULT_LIMIT, desk.limits.context)
    desk.model()
    for prompt in prompts:
        check_context(prompt.tokens, wanted, desk.limits)
    echo = body.get("echo") is True
    rows = [
        (prompt, generate(prompt.text, prompt.tokens, wanted, desk.limits, index))
        for prompt in prompts
        for index in range(wanted.n)
    ]
    page = _CompletionAnswer(desk, wanted, prompts, rows, body.get("logprobs"), echo)
    steps = page.steps() if wanted.stream else None
    tokens = sum(prompt.tokens for prompt in prompts)
    return GenerationWork(tokens, page.length, len(rows), rows[0][1].finish_reason, page.whole, steps)


def _prompts(given: object) -> list[_Prompt]:
    if not given:
        text = "Either prompt or prompt_embeds must be provided and non-empty. (parameter=prompt)"
        raise Refusal(400, text, param="prompt")
    if isinstance(given, list) and all(isinstance(token, int) for token in given):
        return [_Prompt(words.detokenize(given), len(given))]
    many = given if isinstance(given, list) else [given]
    return [_one(prompt) for prompt in many]


def _one(prompt: object) -> _Prompt:
    if isinstance(prompt, list) and all(isinstance(token, int) for token in prompt):
        return _Prompt(words.detokenize(prompt), max(1, len(prompt)))
    if isinstance(prompt, str):
        return _Prompt(prompt, words.count(prompt))
    raise Refusal(400, "A prompt must be a text or a list of token ids. (parameter=prompt)", param="prompt")


class _CompletionAnswer:
    """One completion answer, whole or in events."""

    def __init__(
        self,
        desk: AnswerContext,
        wanted: SimulatedCall,
        prompts: list[_Prompt],
        rows: list[tuple[_Prompt, Choice]],
        top: int | None,
        echo: bool,
    ) -> None:
        self._id = f"cmpl-{desk.base_id(prompts[0].text)}"
        self._created = desk.created()
        self._model = desk.model()
        self._wanted = wanted
        self._rows = rows
        self._top = top
        self._echo = echo
        self._tokens = sum(prompt.tokens for prompt in prompts)
        self._completion = sum(choice.tokens for _, choice in rows)
        self.length = max(choice.tokens for _, choice in rows)
        self._start = b'data: {"id":%b,"object":"text_completion","created":%d,"model":%b,"choices":[' % (
            encode(self._id),
            self._created,
            encode(self._model),
        )

    def whole(self) -> bytes:
        return encode(
            {
                "id": self._id,
                "object": "text_completion",
                "created": self._created,
                "model": self._model,
                "choices": [self._choice(index, *row) for index, row in enumerate(self._rows)],
                "service_tier": None,
                "system_fingerprint": FINGERPRINT,
                "usage": usage(self._tokens, self._completion),
                "kv_transfer_params": None,
                "ec_transfer_params": None,
                "metrics": None,
            }
        )

    def steps(self) -> Iterator[list[bytes]]:
        streams = [self._chunks(index, *row) for index, row in enumerate(self._rows)]
        for _ in range(self.length - 1):
            yield [event for stream in streams for event in next(stream, ())]
        events = [event for stream in streams for event in next(stream, ())]
        if self._wanted.include_usage:
            events.append(
                b'%b],"usage":{"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":%d},"system_fingerprint":"%b"}\n\n'
                % (self._start, self._tokens, self._tokens + self._completion, self._completion, FINGERPRINT.encode())
            )
        yield [*events, DONE]

    def _choice(self, index: int, prompt: _Prompt, choice: Choice) -> dict[str, Any]:
        return {
            "index": index,
            "text": (prompt.text if self._echo else "") + choice.text,
            "logprobs": None if self._top is None else logprobs.completions(choice.texts, self._top),
            "finish_reason": choice.finish_reason,
            "stop_reason": choice.stop,
            "token_ids": None,
            "prompt_logprobs": None,
            "prompt_token_ids": None,
            "routed_experts": None,
        }

    def _chunks(self, index: int, prompt: _Prompt, choice: Choice) -> Iterator[list[bytes]]:
        start = b'%b{"index":%d,"text":' % (self._start, index)
        tail = b',"finish_reason":null,"stop_reason":null,"prompt_token_ids":%b,"token_ids":null}]'
        offset, last = 0, choice.tokens - 1
        for at, text in enumerate(choice.texts):
            echoed = self._echo and at == 0
            said = prompt.text + text if echoed else text
            scores = b"null" if self._top is None else encode(logprobs.completions([text], self._top, offset))
            offset += len(text)
            rest = tail % (encode(words.tokenize(prompt.text)) if echoed else b"null")
            if at == last:
                ends = (encode(choice.finish_reason), encode(choice.stop))
                rest = rest.replace(b'null,"stop_reason":null', b'%b,"stop_reason":%b' % ends, 1)
            row = b'%b%b,"logprobs":%b%b%b' % (start, encode(said), scores, rest, self._usage(prompt, at + 1))
            stamped = at == last and not self._wanted.include_usage
            yield [row + (b',"system_fingerprint":"%b"}\n\n' % FINGERPRINT.encode() if stamped else b"}\n\n")]

    def _usage(self, prompt: _Prompt, completion: int) -> bytes:
        if not self._wanted.continuous_usage:
            return b""
        numbers = (prompt.tokens, prompt.tokens + completion, completion)
        return b',"usage":{"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":%d}' % numbers
