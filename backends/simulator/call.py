"""Parser of a request, as vLLM parses it: the same fields accepted, the same errors in the same order."""

from __future__ import annotations

import math
from dataclasses import dataclass

from backends.simulator.fields import Body, error
from backends.simulator.refusals import Refusal, value
from policies.codec import JSONError, decode


def parse(body: bytes, content_type: str | None) -> Body:
    """The body as an object; raises vLLM's 400 for another content type, what is no JSON, and what is no object."""
    media_type = (content_type or "").partition(";")[0].strip().lower()
    given = _decode(body) if media_type in ("application/json", "") else None
    if media_type != "application/json":
        text = "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed"
        raise Refusal(400, text, "Bad Request")
    if given is None:
        raise Refusal.invalid([error("missing", "body", "Field required", None)])
    if not isinstance(given, dict):
        text = "Input should be a valid dictionary or object to extract fields from"
        raise Refusal.invalid([error("model_attributes_type", "body", text, given)])
    return given


def _decode(body: bytes) -> object:
    if not body:
        return None
    try:
        return decode(body)
    except JSONError:
        # vLLM reads with the standard library: NaN and a byte order mark pass there, and its words stand in the answer.
        import json

        try:
            return json.loads(body)
        except json.JSONDecodeError as bad:
            row = error("json_invalid", f"body.{bad.pos}", "JSON decode error", {}) | {"ctx": {"error": bad.msg}}
            raise Refusal.invalid([row]) from None
        except (UnicodeDecodeError, RecursionError):
            raise Refusal(400, "", body=b'{"detail":"There was an error parsing the body"}') from None


SAMPLING = {
    "frequency_penalty": "number",
    "n": "integer",
    "presence_penalty": "number",
    "seed": "integer",
    "stop": "strings",
    "stream": "boolean",
    "stream_options": "object",
    "temperature": "number",
    "top_p": "number",
    "user": "string",
    "ignore_eos": "boolean",
    "min_tokens": "integer",
}


@dataclass(slots=True)
class SimulatedCall:
    """The part of a request that is the same in all dialects."""

    limit: int | None
    """max_tokens, if any."""
    limit_name: str = "max_tokens"
    n: int = 1
    stop: tuple[str, ...] = ()
    stream: bool = False
    include_usage: bool = False
    continuous_usage: bool = False
    ignore_eos: bool = False
    min_tokens: int = 0
    seed: int = 0


def asked(body: Body, *limits: str) -> SimulatedCall:
    """The sampling fields of chat and completions, checked as vLLM checks them; `limits`: names of the field for
    max_tokens.
    """
    name = next((name for name in limits if body.get(name) is not None), limits[-1])
    stop = body.get("stop") or ()
    options = body.get("stream_options")
    stream = body.get("stream") is True
    if options is not None and not stream:
        text = "Stream options can only be defined when `stream=True`. (parameter=stream_options)"
        raise Refusal(400, text, param="stream_options")
    _ranges(body)
    options = options or {}
    include = options.get("include_usage") is True
    return SimulatedCall(
        limit=body.get(name),
        limit_name=name,
        n=1 if body.get("n") is None else body["n"],
        stop=(stop,) if isinstance(stop, str) else tuple(one for one in stop if one),
        stream=stream,
        include_usage=include,
        continuous_usage=include and options.get("continuous_usage_stats") is True,
        ignore_eos=body.get("ignore_eos") is True,
        min_tokens=body.get("min_tokens") or 0,
        seed=body.get("seed") or 0,
    )


def _ranges(body: Body) -> None:
    n = body.get("n")
    if n is not None and n < 1:
        raise Refusal(400, f"n must be at least 1, got {n}.")
    for name in ("presence_penalty", "frequency_penalty"):
        number = body.get(name)
        if number is not None and not -2 <= number <= 2:
            raise Refusal(400, f"{name} must be in [-2, 2], got {number}.")
    temperature = body.get("temperature")
    if temperature is not None:
        if not math.isfinite(temperature):
            raise value(f"temperature must be a finite number, got {temperature}.", "temperature", temperature)
        if temperature < 0:
            raise value(f"temperature must be non-negative, got {temperature}.", "temperature", temperature)
        if temperature == 0 and n is not None and n > 1:
            raise Refusal(400, f"n must be 1 when using greedy sampling, got {n}.")
    top_p = body.get("top_p")
    if top_p is not None and not 0 < top_p <= 1:
        raise value(f"top_p must be in (0, 1], got {top_p}.", "top_p", top_p)


def text_of(content: object) -> str:
    """The text of a message's content: a string, or the text parts of a list (other parts stand as their type)."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    return "".join(_part(part) for part in content)


def _part(part: object) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        return ""
    text = part.get("text")
    if isinstance(text, str):
        return text
    if "content" in part:
        return text_of(part["content"])
    return f"<{part.get('type', 'part')}>"
