"""Token dialects of the paths: fields of the prompt, fields that bound the answer, and how the streams
are framed.

    chat, completions       max_tokens, max_completion_tokens, llama.cpp's n_predict (which it prefers), each times
                            n or best_of and times the prompts of a batch; a stream says its usage when it is asked to
    responses               max_output_tokens; a stream always says its usage
    messages                max_tokens; a stream always says its usage
    /generate[_stream]      TGI's parameters.max_new_tokens, SGLang's sampling_params.max_new_tokens, times best_of or
                            n; a stream has an event for each token and says no usage in OpenAI's words
    embeddings, pooling,    no answer in tokens; the plain answer says how many were read
    classify, rerank, score

Tokenizing, forms (audio) and KServe's paths use no tokens that anybody counts: they have no dialect.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class TokenDialect:
    """One path's way of saying it.

    prompt: fields that hold the prompt
    batch: fields of which a list is several prompts, each with answers of its own
    limits: fields that bound one answer, in tokens; the first is written where none is there
    inside: objects that hold `limits` and `multiples`, by the prompt's field that goes with each; empty: the top level
    multiples: fields that say how many answers are generated for a prompt
    zero: whether a bound of 0 is a bound (completions: only the echo). Elsewhere engines refuse it or take it for none.
    asks: whether a stream says its usage only when asked
    before: events of a stream before its first token, one answer
    after: events that stand behind the last token in a stream that came to its end
    """

    prompt: tuple[str, ...]
    batch: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    inside: tuple[tuple[str, tuple[str, ...]], ...] = ()
    multiples: tuple[str, ...] = ()
    zero: bool = False
    asks: bool = False
    before: int = 0
    after: int = 0


_OPENAI: Final = ("max_tokens", "max_completion_tokens", "n_predict")
_MANY: Final = ("n", "best_of")

CHAT: Final = TokenDialect(("messages", "tools", "functions"), (), _OPENAI, (), _MANY, asks=True, before=1, after=1)
COMPLETIONS: Final = TokenDialect(
    ("prompt", "suffix"), ("prompt",), _OPENAI, (), _MANY, zero=True, asks=True, before=0, after=1
)
RESPONSES: Final = TokenDialect(("input", "instructions", "tools"), (), ("max_output_tokens",), before=4, after=4)
MESSAGES: Final = TokenDialect(("messages", "system", "tools"), (), ("max_tokens",), before=2, after=3)
GENERATE: Final = TokenDialect(
    ("inputs", "text", "input_ids"),
    ("text", "input_ids"),
    ("max_new_tokens",),
    (("parameters", ("inputs",)), ("sampling_params", ("text", "input_ids", "input_embeds"))),
    _MANY,
)
_READ: Final = TokenDialect(
    ("input", "messages", "query", "queries", "documents", "items", "text_1", "text_2", "data_1", "data_2")
)

DIALECTS: Final[Mapping[str, TokenDialect]] = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": COMPLETIONS,
    "/v1/responses": RESPONSES,
    "/v1/messages": MESSAGES,
    "/generate": GENERATE,
    "/generate_stream": GENERATE,
    "/v1/embeddings": _READ,
    "/pooling": _READ,
    "/classify": _READ,
    "/v1/rerank": _READ,
    "/rerank": _READ,
    "/v2/rerank": _READ,
    "/v1/score": _READ,
    "/score": _READ,
}
"""By `PathKind.path`; a path that is not here uses no tokens that are counted."""

ASKED_OF: Final = frozenset({"vllm", "sglang", "simulator"})
"""Engines that send the usage that was asked for in an event of its own, so that `strip` can take it out again and
leave the rest as it would have been. vLLM 0.32 and the simulator are tested for it (tests/engines/test_usage.py); of
SGLang 0.5 its source was read: started with `--stream-response-default-include-usage` it sends that event to everybody,
and then our clients miss it. llama.cpp, TGI and others: their events are counted."""
