"""Requests and answers that most engines share: OpenAI's completions and the list of models."""

from __future__ import annotations

from backends.engines.engine import TokenRequest, Told, told_by_status
from policies import codec


def completions(model: str | None) -> TokenRequest | None:
    """One token of a completion: no chat template, so that base models can be asked too."""
    if model is None:
        return None
    # No `stream`: the whole answer is one event anyway, and its status then tells of failures that come before it.
    body = {"model": model, "prompt": "a", "max_tokens": 1, "temperature": 0}
    return TokenRequest("/v1/completions", codec.encode(body))


def chat(model: str | None) -> TokenRequest | None:
    """One token of a chat, for servers that have nothing else."""
    if model is None:
        return None
    body = {"model": model, "messages": [{"role": "user", "content": "a"}], "max_tokens": 1, "temperature": 0}
    return TokenRequest("/v1/chat/completions", codec.encode(body))


def read(status: int, body: bytes) -> Told:
    """Classify the answer to a `completions` or `chat` request for one token."""
    if status != 200:
        return told_by_status(status)
    answer = json_object(body)
    if answer.get("error"):
        return "failed"
    choices = answer.get("choices")
    if not isinstance(choices, list) or not choices:
        return "unaskable"
    # vLLM that is shutting down answers 200 and has aborted the request (ENGINES 2.2). An empty text is no such sign:
    # the one token may be the end of the text.
    cut = any(isinstance(choice, dict) and choice.get("finish_reason") == "abort" for choice in choices)
    return "failed" if cut else "token"


def first_model(body: bytes) -> str | None:
    """The first name of a list of models, or None."""
    data = json_object(body).get("data")
    first = data[0] if isinstance(data, list) and data else None
    name = first.get("id") if isinstance(first, dict) else None
    return name if isinstance(name, str) and name else None


def json_object(body: bytes) -> dict[str, object]:
    """A JSON object, or an empty one for what is none."""
    try:
        value = codec.decode(body)
    except codec.JSONError:
        return {}
    return value if isinstance(value, dict) else {}
