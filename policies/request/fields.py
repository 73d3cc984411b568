"""Values of the fields that `describe` reads: names, booleans and texts of JSON bodies and forms."""

from __future__ import annotations

from functools import lru_cache

from policies.codec import Decoder, JSONError, JSONShapeError, Raw, Struct
from policies.json_object import RefusedBody

MAX_NAME = 256  # characters of a model's or a user's name

# A JSON string of 256 characters, each written as two `\uXXXX`, in quotes: what is longer is not even decoded.
_MAX_RAW = MAX_NAME * 12 + 2
# Bytes of a name, as it was written, that may be remembered: 256 of them, decoded too, take at most 150 KB.
_MAX_KNOWN = 128
# What pydantic takes for booleans in a form (https://docs.pydantic.dev/latest/api/standard_library_types/#booleans).
_TRUE, _FALSE = frozenset({"1", "on", "t", "true", "y", "yes"}), frozenset({"0", "off", "f", "false", "n", "no"})


class _StreamOptions(Struct):
    include_usage: bool | None = None


_text_or_null: Decoder[str | None] = Decoder(str | None)
_stream_options: Decoder[_StreamOptions | None] = Decoder(_StreamOptions | None)


def model_of(raw: Raw) -> str | None:
    """Return the model of a JSON body; None for null. Raises RefusedBody."""
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
    return None if name is None else checked_name(name, "model")


# Most requests name one of a few models: these are decoded and checked once. What is refused is not remembered.
_known_model = lru_cache(maxsize=256)(_read_model)


def checked_name(name: str, param: str) -> str:
    """Return a model's name if it is valid; raise RefusedBody otherwise."""
    if not name:
        raise RefusedBody("invalid_request", f'"{param}" is empty. Name a model.', param)
    if len(name) > MAX_NAME:
        raise _too_long(param)
    if not name.isprintable():
        # No engine has such a name, and what is echoed into logs and errors had better not have it either.
        raise RefusedBody("invalid_request", f'"{param}" has characters that can not be printed.', param)
    return name


def user_of(raw: Raw) -> str | None:
    """Return the body's `user`, for limits by user; None if it is not a text. A name that is too long is refused and
    not cut, or two users could become one."""
    if len(raw) > _MAX_RAW:
        raise _too_long("user")
    try:
        user = _text_or_null.decode(raw)
    except JSONError:
        return None
    if user is not None and len(user) > MAX_NAME:
        raise _too_long("user")
    return user or None


def boolean_of(raw: Raw, param: str) -> bool:
    """Return the value of a JSON boolean; null is false. Raises RefusedBody."""
    written = bytes(raw) if len(raw) <= 5 else b""
    if written == b"true":
        return True
    if written == b"false" or written == b"null":
        return False
    # An engine might take 1 or "true" for true: then it would stream where we expect a plain answer.
    raise RefusedBody("invalid_request", f'"{param}" must be true or false.', param)


def include_usage_of(raw: Raw) -> bool:
    """Return `include_usage` of the value of `stream_options`. Raises RefusedBody."""
    try:
        options = _stream_options.decode(raw)
    except JSONError:
        raise RefusedBody(
            "invalid_request", '"stream_options" must be an object with a boolean "include_usage".', "stream_options"
        ) from None
    return options is not None and options.include_usage is True


def form_text(value: memoryview, param: str) -> str:
    """Return the text of a form field. Raises RefusedBody."""
    if len(value) > MAX_NAME * 4:
        raise _too_long(param)
    try:
        return str(value, "utf-8")
    except UnicodeDecodeError:
        raise RefusedBody("invalid_request", f'The form field "{param}" is not UTF-8.', param) from None


def form_boolean(value: memoryview, param: str) -> bool:
    """Return the boolean of a form field, as pydantic reads it. Raises RefusedBody."""
    word = form_text(value, param).lower()
    if word not in _TRUE and word not in _FALSE:
        raise RefusedBody("invalid_request", f'The form field "{param}" must be true or false.', param)
    return word in _TRUE


def _too_long(param: str) -> RefusedBody:
    return RefusedBody("invalid_request", f'"{param}" is longer than {MAX_NAME} characters.', param)
