"""Description of a request: body -> DescribedRequest. The body itself goes upstream as it came.

Only the top level is decoded, and only the fields named here are read; the engine reports all other mistakes of a
request itself. A field that is read must be right, or the gateway and the engine could understand
two requests:

    field                 must be                                                       else
    model                 a string of 1 to 256 printable characters; TGI's and SGLang's
                          own paths may leave it out                                    invalid_request
    stream                a boolean; null is absent                                     invalid_request
    stream_options        an object whose include_usage is a boolean; null is absent    invalid_request
    user                  at most 256 characters if it is a string; else it is absent   invalid_request
    engine-shared fields  absent, unless the plan has the scope engine_fields           field_not_allowed

With `counts` (a path's dialect of tokens: `policies.request.usage.dialects`) the sizes are read too:
`policies.request.usage.sizes` documents their form. Other requests do not pay for them.

All functions are pure. 2.4 KB of JSON take 2.5 us, 1 MiB at most 15 ms whatever it holds; run longer bodies in a
thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from policies.json_object import RefusedBody, members, replace
from policies.request.fields import (
    boolean_of,
    checked_name,
    form_boolean,
    form_text,
    include_usage_of,
    model_of,
    user_of,
)
from policies.request.multipart import fields_of, replace_field
from policies.request.usage.dialects import TokenDialect
from policies.request.usage.sizes import sizes

__all__ = [
    "ENGINE_FIELDS",
    "DescribedRequest",
    "ModelIn",
    "RefusedBody",
    "describe",
    "refuse_engine_fields",
    "rewrite_model",
]

ModelIn = Literal["body", "body_optional", "form", "path", "none"]
"""Place of the model's name for a path: JSON body (required or optional), multipart form, path, none."""

# They reach into what all tenants of an engine share: its queue, its prefix cache, its KV transfer, its request ids.
ENGINE_FIELDS = frozenset({"priority", "cache_salt", "kv_transfer_params", "vllm_xargs", "request_id"})

_NONE: frozenset[str] = frozenset()


@dataclass(slots=True)
class DescribedRequest:
    """Facts that the gateway reads from a request."""

    model: str | None
    """Model as the client named it; None where the path has no model or leaves it to the routes."""
    stream: bool = False
    include_usage: bool = False
    """`stream_options.include_usage`, which the client must have set itself."""
    fields: frozenset[str] = _NONE
    """The engine-shared fields that are present."""
    user: str | None = None
    prompt_bytes: int = 0
    """Bytes of the prompt in the body. This and the next two fields are only read where tokens are counted."""
    max_tokens: int | None = None
    """The bound of one answer, in tokens, in whichever field the path has for it; None where none was given."""
    answers: int = 0
    """Number of requested answers (`n`, `best_of`, a batch of prompts); 0 where the path gives none in tokens."""


def describe(
    body: bytes,
    model_in: ModelIn = "body",
    *,
    content_type: bytes | None = None,
    model: str | None = None,
    streams: bool = False,
    counts: TokenDialect | None = None,
) -> DescribedRequest:
    """Return the facts of the request; raise `RefusedBody` if a field that the gateway reads is wrong.

    `content_type` is the header's value and needed for a form only; `model` is what a path with a model named;
    `streams`: the path streams whatever the body says (`/generate_stream`); `counts`: how the path says what counts for
    tokens, where the principal's plan limits them.
    """
    if model_in == "body" or model_in == "body_optional":
        return _describe_json(body, model_in == "body", streams, counts)
    if model_in == "form":
        call = _describe_form(body, content_type)
    else:
        call = DescribedRequest(None if model is None else checked_name(model, "model"))
    if streams:
        call.stream = True
    return call


def refuse_engine_fields(call: DescribedRequest, scopes: frozenset[str]) -> None:
    """`RefusedBody` if the call sets fields that tenants share and the principal's scopes do not allow it."""
    if call.fields and "engine_fields" not in scopes:
        name = min(call.fields)
        raise RefusedBody(
            "field_not_allowed", f'The field "{name}" needs a key with scope engine_fields. Leave it out.', name
        )


def rewrite_model(body: bytes, new: str, model_in: ModelIn = "body", content_type: bytes | None = None) -> bytes:
    """The body with another model's name; every other byte is as it came, all of it where the path has the name.

    The body must have been described before.
    """
    if model_in == "form":
        return replace_field(body, content_type, "model", new)
    if model_in == "path" or model_in == "none":
        return body
    return replace(body, "model", new)


def _describe_json(body: bytes, required: bool, streams: bool, counts: TokenDialect | None) -> DescribedRequest:
    found = members(body)
    raw = found.get("model")
    model = None if raw is None else model_of(raw)
    if model is None and required:
        raise RefusedBody("invalid_request", 'The body names no model. Add "model": "...".', "model")
    call = DescribedRequest(model, streams)
    if (raw := found.get("stream")) is not None and boolean_of(raw, "stream"):
        call.stream = True
    if (raw := found.get("stream_options")) is not None:
        call.include_usage = include_usage_of(raw)
    if (raw := found.get("user")) is not None:
        call.user = user_of(raw)
    if not ENGINE_FIELDS.isdisjoint(found):
        call.fields = ENGINE_FIELDS.intersection(found)
    if counts is not None:
        call.prompt_bytes, call.max_tokens, call.answers = sizes(found, counts)
    return call


def _describe_form(body: bytes, content_type: bytes | None) -> DescribedRequest:
    found = fields_of(body, content_type)
    value = found.get("model")
    if value is None:
        raise RefusedBody("invalid_request", 'The form names no model. Add a field "model".', "model")
    call = DescribedRequest(checked_name(form_text(value, "model"), "model"))
    if (value := found.get("stream")) is not None:
        call.stream = form_boolean(value, "stream")
    if (value := found.get("stream_include_usage")) is not None:
        call.include_usage = form_boolean(value, "stream_include_usage")
    if not ENGINE_FIELDS.isdisjoint(found):
        call.fields = ENGINE_FIELDS.intersection(found)
    return call
