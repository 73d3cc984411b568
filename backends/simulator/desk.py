"""Context that every dialect needs to write an answer (names, ids, limits), and the work that it returns to the
engine to do."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from backends.simulator import words
from backends.simulator.fields import Body
from backends.simulator.generation import GenerationLimits
from backends.simulator.jobs import Steps
from backends.simulator.refusals import Refusal
from backends.simulator.settings import SimulatorSettings

FINGERPRINT = "simulator-vllm-0.32.0"
VERSION = "0.32.0+simulator"
OWNER = "sluice-simulator"
DONE = b"data: [DONE]\n\n"
_EPOCH = 1_750_000_000
"""`created` where ids are fixed."""


@dataclass(frozen=True, slots=True)
class GenerationWork:
    """Work of the engine for one request: a stream's `steps`, or `build` at the end. Counts are tokens; `weight`
    sequences.
    """

    prompt: int
    length: int
    weight: int
    reason: str
    build: Callable[[], bytes]
    steps: Steps | None = None


@dataclass(frozen=True, slots=True)
class AnswerContext:
    """One request's desk."""

    settings: SimulatorSettings
    body: Body
    headers: dict[str, str]

    @property
    def limits(self) -> GenerationLimits:
        return GenerationLimits(self.settings.tokens, self.settings.max_model_len)

    def model(self) -> str:
        """The served name, whatever alias was asked for; raises vLLM's 404 for a model that is not served (none
        given: ours).
        """
        asked = self.body.get("model")
        if asked and asked not in self.settings.models:
            aliases = ", ".join(self.settings.models)
            text = f"The model `{asked}` does not exist. Valid aliases: {aliases}."
            raise Refusal(404, text, "NotFoundError", "model")
        return self.settings.models[0]

    def base_id(self, prompt: str) -> str:
        """Return the base id as vLLM does: the x-request-id, else the body's request_id, else a random one. Fixed
        ids come from the prompt alone."""
        if self.settings.fixed_ids:
            return f"{words.hashed(prompt):08x}{words.hashed(prompt, 1):08x}"
        given = self.headers.get("x-request-id") or self.body.get("request_id")
        return given if isinstance(given, str) and given else os.urandom(8).hex()

    def sub_id(self, prompt: str, salt: int) -> str:
        """An id inside the answer (a tool call, an output item)."""
        if self.settings.fixed_ids:
            return f"{words.hashed(prompt, salt + 2):08x}{words.hashed(prompt, salt + 3):08x}"
        return os.urandom(8).hex()

    def created(self) -> int:
        if self.settings.fixed_ids:
            return _EPOCH
        return int(time.time())  # noqa: TID251 - `created` is wall time in OpenAI's API
