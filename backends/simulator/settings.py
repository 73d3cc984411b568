"""Settings of a simulator, and the form of durations."""

from __future__ import annotations

import re
from dataclasses import dataclass

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(us|ms|s|m|h)?")
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, None: 1.0}


def duration(text: str) -> float:
    """Seconds of `50ms`, `1.5s`, `2m`, `0` (no unit: seconds); raises ValueError with a sentence that can be shown."""
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is not a duration (like 50ms, 1.5s, 2m)")
    return float(found[1]) * _SECONDS[found[2]]


@dataclass(frozen=True, slots=True)
class SimulatorSettings:
    """Behaviour of one simulator. Times are seconds; without a word it answers at once, which is what most tests
    want.
    """

    host: str = "127.0.0.1"
    port: int = 0
    """0: any free port."""
    models: tuple[str, ...] = ("simulator",)
    """The served name first, then its aliases, as vLLM's --served-model-name."""
    tokens: int = 16
    """Length of an answer unless the request's max_tokens, stop, ignore_eos or min_tokens set another; tokens."""
    first_byte: float = 0.0
    """From the start of a request in its slot to its first token (prefill)."""
    prompt_token: float = 0.0
    """Added to the first byte for each token of the prompt."""
    gap: float = 0.0
    """Between two tokens (decode)."""
    jitter: float = 0.0
    """Each of these times is stretched or shrunk by up to this share, from `seed`."""
    seed: int = 0
    max_num_seqs: int = 256
    """Sequences that run at once; further ones wait."""
    max_num_queued_reqs: int | None = None
    """Running and waiting sequences beyond which the answer is 503, as vLLM's option of that name (which counts
    both).
    """
    max_model_len: int = 32768
    api_keys: tuple[str, ...] = ()
    """Any of these as a bearer token; none: no key is asked for."""
    keep_alive: float = 5.0
    """Seconds for which an idle connection is kept; vLLM's uvicorn has 5 s."""
    fixed_ids: bool = False
    """Ids and `created` from the prompt alone, so that two answers are equal byte for byte; else as vLLM makes them."""
    ping: bool = False
    """An Anthropic stream has a `ping` after `message_start` (Anthropic's has, vLLM's has not)."""
    comment_every: float | None = None
    """A `: keep-alive` comment on silent chat and completion streams, as vLLM's --sse-keep-alive-interval."""
    dimensions: int = 16
    """Length of an embedding."""

    def __post_init__(self) -> None:
        for name in ("tokens", "max_num_seqs", "max_model_len", "dimensions"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("first_byte", "prompt_token", "gap"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative")
        if not 0 <= self.jitter <= 1:
            raise ValueError(f"jitter must be between 0 and 1, not {self.jitter}")
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port must be between 0 and 65535, not {self.port}")
        if not self.models:
            raise ValueError("at least one model name is needed")
        if self.max_num_queued_reqs is not None and self.max_num_queued_reqs < 1:
            raise ValueError(f"max_num_queued_reqs must be at least 1, not {self.max_num_queued_reqs}")
        if self.comment_every is not None and self.comment_every <= 0:
            raise ValueError("comment_every must be more than 0")
