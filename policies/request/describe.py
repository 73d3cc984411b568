"""Body -> Call: what a request asks for, as far as the gateway reads it. The body itself goes on as it came.

Only the top level is decoded, and of it only the fields named here are read; whatever else is wrong with a request
the engine says in its own words. A field that is read must be right, or the gateway and the engine could understand
two requests:

    field                 must be                                                       else
    model                 a string of 1 to 256 printable characters; TGI's and SGLang's
                          own paths may leave it out                                    invalid_request
    stream                a boolean; null is absent                                     invalid_request
    stream_options        an object whose include_usage is a boolean; null is absent    invalid_request
    user                  at most 256 characters if it is a string; else it is absent   invalid_request
    engine-shared fields  absent, unless the plan has the scope engine_fields           field_not_allowed

With `counts` (a path's dialect of tokens: `policies.request.usage.dialects`) the sizes are read too:
`policies.request.usage.sizes` says what they must be. Nobody else pays for them.

All functions are pure. 2.4 KB of JSON take 2.5 us, 1 MiB at most 15 ms whatever it holds; run longer bodies in a
thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from policies.codec import Decoder, JSONError, JSONShapeError, Raw, Struct
from policies.request.json_object import RefusedBody, members, replace
from policies.request.multipart import fields_of, replace_field
from policies.request.usage.dialects import TokenDialect
from policies.request.usage.sizes import sizes

__all__ = [
    "ENGINE_FIELDS",
    "MAX_NAME",
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
MAX_NAME = 256  # characters of a model's or a user's name

_NONE: frozenset[str] = frozenset()
# A JSON string of 256 characters, each written as two `\uXXXX`, in quotes: what is longer is not even decoded.
_MAX_RAW = MAX_NAME * 12 + 2
# Bytes of a name, as it was written, that may be remembered: 256 of them, decoded too, take at most 150 KB.
_MAX_KNOWN = 128
# What pydantic takes for booleans in a form (https://docs.pydantic.dev/latest/api/standard_library_types/#booleans).
_TRUE, _FALSE = frozenset({"1", "on", "t", "true", "y", "yes"}), frozenset({"0", "off", "f", "false", "n", "no"})


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


class _StreamOptions(Struct):
    include_usage: bool | None = None


_text_or_null: Decoder[str | None] = Decoder(str | None)
_stream_options: Decoder[_StreamOptions | None] = Decoder(_StreamOptions | None)


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
        call = DescribedRequest(None if model is None else _checked_name(model, "model"))
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
    model = None if raw is None else _model(raw)
    if model is None and required:
        raise RefusedBody("invalid_request", 'The body names no model. Add "model": "...".', "model")
    call = DescribedRequest(model, streams)
    if (raw := found.get("stream")) is not None and _boolean(raw, "stream"):
        call.stream = True
    if (raw := found.get("stream_options")) is not None:
        call.include_usage = _include_usage(raw)
    if (raw := found.get("user")) is not None:
        call.user = _user(raw)
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
    call = DescribedRequest(_checked_name(_form_text(value, "model"), "model"))
    if (value := found.get("stream")) is not None:
        call.stream = _form_boolean(value, "stream")
    if (value := found.get("stream_include_usage")) is not None:
        call.include_usage = _form_boolean(value, "stream_include_usage")
    if not ENGINE_FIELDS.isdisjoint(found):
        call.fields = ENGINE_FIELDS.intersection(found)
    return call


def _model(raw: Raw) -> str | None:
    if len(raw) <= _MAX_KNOWN:
        return _known_model(bytes(raw))
    if len(raw) > _MAX_RAW:
        raise _too_long("model")
    return _read_model(raw)


def _read_model(raw: bytes | Raw) -> str | None:
    try:
        name = _text_or_null.decode(raw)
    except JSONShapeError:
        raise RefusedBody("invalid_request", '"model" must be a string.', "model") from None
    except JSONError as error:
        raise RefusedBody("invalid_json", f'"model" is not valid JSON: {error}.', "model") from None
    return None if name is None else _checked_name(name, "model")


# Most requests name one of a few models: these are decoded and checked once. What is refused is not remembered.
_known_model = lru_cache(maxsize=256)(_read_model)


def _checked_name(name: str, param: str) -> str:
    if not name:
        raise RefusedBody("invalid_request", f'"{param}" is empty. Name a model.', param)
    if len(name) > MAX_NAME:
        raise _too_long(param)
    if not name.isprintable():
        # No engine has such a name, and what is echoed into logs and errors had better not have it either.
        raise RefusedBody("invalid_request", f'"{param}" has characters that can not be printed.', param)
    return name


def _user(raw: Raw) -> str | None:
    """For limits by user: who can't be told is not told. A name too long to be kept is refused, not cut: two would be
    one."""
    if len(raw) > _MAX_RAW:
        raise _too_long("user")
    try:
        user = _text_or_null.decode(raw)
    except JSONError:
        return None
    if user is not None and len(user) > MAX_NAME:
        raise _too_long("user")
    return user or None


def _boolean(raw: Raw, param: str) -> bool:
    written = bytes(raw) if len(raw) <= 5 else b""
    if written == b"true":
        return True
    if written == b"false" or written == b"null":
        return False
    # An engine might take 1 or "true" for true: then it would stream where we expect a plain answer.
    raise RefusedBody("invalid_request", f'"{param}" must be true or false.', param)


def _include_usage(raw: Raw) -> bool:
    try:
        options = _stream_options.decode(raw)
    except JSONError:
        raise RefusedBody(
            "invalid_request", '"stream_options" must be an object with a boolean "include_usage".', "stream_options"
        ) from None
    return options is not None and options.include_usage is True


def _form_text(value: memoryview, param: str) -> str:
    if len(value) > MAX_NAME * 4:
        raise _too_long(param)
    try:
        return str(value, "utf-8")
    except UnicodeDecodeError:
        raise RefusedBody("invalid_request", f'The form field "{param}" is not UTF-8.', param) from None


def _form_boolean(value: memoryview, param: str) -> bool:
    word = _form_text(value, param).lower()
    if word not in _TRUE and word not in _FALSE:
        raise RefusedBody("invalid_request", f'The form field "{param}" must be true or false.', param)
    return word in _TRUE


def _too_long(param: str) -> RefusedBody:
    return RefusedBody("invalid_request", f'"{param}" is longer than {MAX_NAME} characters.', param)
