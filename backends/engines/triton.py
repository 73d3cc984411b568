"""Triton (KServe v2). A model may be anything: asked as TensorRT-LLM's and vLLM's backends are, another one refuses
the inputs. With a model's process killed /v2/health/ready stays 200 while inference gives 500."""

from __future__ import annotations

from urllib.parse import quote

from backends.engines.dialect import json_object
from backends.engines.engine import Engine, HealthEndpoint, TokenRequest, Told
from policies import codec


def ask(model: str | None) -> TokenRequest | None:
    if model is None:
        return None
    return TokenRequest(
        f"/v2/models/{quote(model, safe='')}/generate", codec.encode({"text_input": "a", "max_tokens": 1})
    )


def read(status: int, body: bytes) -> Told:
    """A failure says nothing of the server: 500 is what it gives for inputs too, and a model that yields several
    answers says so with an error under 200."""
    if status in (429, 503):
        return "full"
    return "token" if status == 200 and "text_output" in json_object(body) else "unaskable"


ENGINE = Engine(HealthEndpoint("/v2/health/ready"), ask, read)
