"""Text Generation Inference (3.3.7): /health is 503 `unhealthy` when generation fails. It serves one model, whose name
is not asked for. 424 is a failed generation, 429 its fullness, 422 an input that it does not take."""

from __future__ import annotations

from backends.engines.dialect import json_object
from backends.engines.engine import Engine, HealthEndpoint, TokenRequest, Told, told_by_status
from policies import codec


def ask(_model: str | None) -> TokenRequest:
    return TokenRequest("/generate", codec.encode({"inputs": "a", "parameters": {"max_new_tokens": 1}}))


def read(status: int, body: bytes) -> Told:
    if status == 424:
        return "failed"
    if status != 200:
        return told_by_status(status)
    answer = json_object(body)
    if answer.get("error"):
        return "failed"
    return "token" if "generated_text" in answer else "unaskable"


ENGINE = Engine(HealthEndpoint(), ask, read)
