"""Tokens before they are known: estimated from bytes, reserved, and settled by what is known in the end.

Bytes per token are learnt per model from the usage that engines return: both sums decay, so that the last few thousand
tokens count most and a long prompt counts more than a short one, of which the chat template makes up half. A model that
nobody has used begins at 4.0; every model stays within 1.0 and 16.0.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, Protocol

from policies.json_object import RefusedBody
from policies.request.usage.dialects import TokenDialect

START: Final = 4.0
LEAST: Final = 1.0
MOST: Final = 16.0
UNSAID: Final = 512
"""Tokens of an answer that are reserved where nobody bounds it."""

# What the first guess weighs, and what one request may weigh at most, in tokens.
_GUESS: Final = 256
_HEAVIEST: Final = 8192
# What a request leaves of those before it: half after 34.
_DECAY: Final = 0.98


class MeasuredRequest(Protocol):
    """Sizes of a request (`policies.request.describe.DescribedRequest`): bytes of the prompt, bound and number of
    answers."""

    prompt_bytes: int
    max_tokens: int | None
    answers: int


class TokenPlan(Protocol):
    """Plan, as far as the estimate reads it (`policies.config.settings.PlanSettings`)."""

    @property
    def max_input_tokens(self) -> int | None: ...
    @property
    def max_output_tokens(self) -> int | None: ...


class TokenEstimates:
    """Bytes per token by model: one a process. The least recently used of more than `models` is forgotten."""

    def __init__(self, models: int = 1024) -> None:
        self._models = models
        self._sums: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def bytes_per_token(self, model: str) -> float:
        """Return the estimated bytes per prompt token of this model."""
        sums = self._sums.get(model)
        return START if sums is None else min(MOST, max(LEAST, sums[0] / sums[1]))

    def learn(self, model: str, prompt_bytes: int, prompt_tokens: int) -> None:
        """Update the estimate from a request whose usage the engine returned; a request without a prompt changes
        nothing."""
        if prompt_bytes <= 0 or prompt_tokens <= 0:
            return
        if prompt_tokens > _HEAVIEST:
            prompt_bytes, prompt_tokens = round(prompt_bytes * _HEAVIEST / prompt_tokens), _HEAVIEST
        # One that is beyond all measure (a picture, a prompt that the engine remembers) moves it by little.
        within: float = prompt_bytes
        if not LEAST * prompt_tokens <= prompt_bytes <= MOST * prompt_tokens:
            within = min(MOST * prompt_tokens, max(LEAST * prompt_tokens, prompt_bytes))
        size, tokens = self._sums.get(model, (START * _GUESS, float(_GUESS)))
        self._sums[model] = (size * _DECAY + within, tokens * _DECAY + prompt_tokens)
        self._sums.move_to_end(model)
        if len(self._sums) > self._models:
            self._sums.popitem(last=False)

    def prompt_tokens(self, call: MeasuredRequest, model: str) -> int:
        """Return the estimated prompt tokens of a described call; 0 without a prompt, else at least 1."""
        return -int(-call.prompt_bytes // self.bytes_per_token(model)) if call.prompt_bytes else 0

    def reserve(self, call: MeasuredRequest, plan: TokenPlan, model: str, room: int | None = None) -> tuple[int, int]:
        """(prompt tokens, output tokens) that the call may take.

        room: the least burst of the plan's token rules. An answer that the client does not bound is reserved with no
            more than that leaves, or a small bucket would refuse it for ever; one that it bounds is taken at its word.

        `RefusedBody` (context_length_exceeded) where the prompt is longer than the plan allows.
        """
        prompt = self.prompt_tokens(call, model)
        if plan.max_input_tokens is not None and prompt > plan.max_input_tokens:
            raise RefusedBody(
                "context_length_exceeded",
                f"The prompt has about {prompt} tokens; this key's plan allows {plan.max_input_tokens}. Shorten it.",
            )
        if not call.answers:
            return prompt, 0
        capped = plan.max_output_tokens
        if call.max_tokens is not None:
            return prompt, (call.max_tokens if capped is None else min(call.max_tokens, capped)) * call.answers
        output = (UNSAID if capped is None else capped) * call.answers
        return prompt, output if room is None else max(1, min(output, room - prompt))


def real(
    usage: tuple[int | None, int | None], counted: int | None, reserved: tuple[int, int], *, whole: bool = True
) -> tuple[int, int]:
    """(prompt tokens, output tokens) that a request took.

    usage: as the engine said it (`Tap.usage`)
    counted: the answer's tokens as `counted` has them; None where no answer came: then nothing was taken
    whole: whether the answer came to its end. Usage from the middle of a stream may be of one answer of several, or of
        the beginning (messages): it is not believed below what was counted.
    """
    if counted is None:
        return 0, 0
    prompt, output = usage
    if output is None:
        output = counted
    elif not whole:
        output = max(output, counted)
    return reserved[0] if prompt is None else prompt, output


def counted(
    call: MeasuredRequest, dialect: TokenDialect | None, *, events: int, size: int, stream: bool, whole: bool
) -> int:
    """The tokens of an answer without usage, from what of it went to the client: of a stream one an event, without what
    frames it; of a plain answer by its bytes. Never more than the request's own bound.

    An engine that writes several tokens in one event (speculative decoding, a slow reader) is counted too low.
    """
    if not call.answers or dialect is None:
        return 0
    if stream:
        found = events - dialect.before * call.answers - (dialect.after if whole else 0)
    else:
        found = size // int(START)
    if call.max_tokens is not None:
        found = min(found, call.max_tokens * call.answers)
    return max(0, found)
