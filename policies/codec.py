"""The door to msgspec: JSON to typed values and back.

Nothing outside this module imports msgspec, and none of its exceptions (nor the `RecursionError` and `UnicodeError`
that it lets through) leaves it; above this line there is only `JSONError` and its two narrower kinds:

    JSONError                 the bytes are not JSON (RFC 8259), or a value can't be written as JSON
    ├── JSONShapeError        they are JSON, but not of the shape that was asked for
    └── JSONDepthError        they are nested deeper than the decoder follows (about a thousand levels)

msgspec keeps the last of two members of one name and says nothing; who needs to know (`describe`) has to look for it.
`NaN`, `Infinity`, a byte order mark and anything after the value are refused. The text of a `Raw` value is checked
for JSON's grammar but not for UTF-8, so bad UTF-8 in what nobody reads passes.
"""

from __future__ import annotations

import re
from typing import Any, Generic, TypeVar, overload

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType, field

__all__ = [
    "UNSET",
    "Decoder",
    "JSONDepthError",
    "JSONError",
    "JSONShapeError",
    "Raw",
    "Struct",
    "UnsetType",
    "decode",
    "encode",
    "encode_sorted",
    "end_of_value",
    "field",
]

T = TypeVar("T")


class JSONError(ValueError):
    """The bytes are not JSON, or the value can't be written as JSON; the text says what and where, never the data."""


class JSONShapeError(JSONError):
    """Valid JSON of another shape than asked for: ``Expected `str`, got `int` - at `$.model` ``."""


class JSONDepthError(JSONError):
    """Valid so far, but nested too deeply to be followed."""


class Decoder(Generic[T]):
    """A decoder for one type, made once and kept: ``Decoder(dict[str, Raw]).decode(body)``.

    `decode` takes bytes (or any buffer, or a `Raw`) or text and returns a value of the type; it raises `JSONError`.
    """

    __slots__ = ("_decode",)

    @overload
    def __init__(self: Decoder[Any]) -> None: ...
    @overload
    def __init__(self, type: type[T], *, strict: bool = True) -> None: ...
    @overload
    def __init__(self, type: object, *, strict: bool = True) -> None:
        """For what mypy does not call a type, as unions: ``kept: Decoder[str | None] = Decoder(str | None)``."""

    def __init__(self, type: Any = Any, *, strict: bool = True) -> None:
        self._decode = msgspec.json.Decoder(type, strict=strict).decode

    def decode(self, data: bytes | bytearray | memoryview | Raw | str) -> T:
        try:
            return self._decode(data)  # type: ignore[no-any-return]
        except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
            raise _ours(error) from None


@overload
def decode(data: bytes | bytearray | memoryview | Raw | str) -> Any: ...
@overload
def decode(data: bytes | bytearray | memoryview | Raw | str, type: type[T]) -> T: ...
def decode(data: bytes | bytearray | memoryview | Raw | str, type: Any = Any) -> Any:
    """One value, of any or of the given type; raises `JSONError`. On a hot path keep a `Decoder`: 0.1 us less."""
    try:
        return msgspec.json.decode(data, type=type)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise _ours(error) from None


_encode = msgspec.json.Encoder().encode


def encode(value: object) -> bytes:
    """Compact JSON (no spaces, UTF-8 unescaped, fields in their order); raises `JSONError` for what JSON can't say."""
    try:
        return _encode(value)
    except (msgspec.MsgspecError, TypeError, NotImplementedError, OverflowError, RecursionError, UnicodeError) as error:
        raise _ours(error) from None


_encode_sorted = msgspec.json.Encoder(order="sorted").encode


def encode_sorted(value: object) -> bytes:
    """The same with the names of every object in order: equal values have equal bytes."""
    try:
        return _encode_sorted(value)
    except (msgspec.MsgspecError, TypeError, NotImplementedError, OverflowError, RecursionError, UnicodeError) as error:
        raise _ours(error) from None


_raw_decode = msgspec.json.Decoder(Raw).decode
_trailing = re.compile(r"trailing characters \(byte (\d+)\)")


def end_of_value(data: bytes, start: int) -> int | None:
    """Return the end of the JSON value that begins at `start`: the index of the next byte that is no white space.

    At C speed and without building anything, which is what makes it worth its trick: asked for one value, msgspec
    stops behind it and names the place of the first byte that it did not want. None when that can't be told: the
    value is malformed, too deep, or a later msgspec words its complaint otherwise (a test pins the wording). Callers
    must treat None as "unknown", not as "wrong".
    """
    try:
        _raw_decode(memoryview(data)[start:])
    except msgspec.DecodeError as error:
        found = _trailing.search(str(error))
        return None if found is None else start + int(found[1]) - 1
    except (RecursionError, UnicodeError):
        return None
    return len(data)


def _ours(error: Exception) -> JSONError:
    """The one table of foreign exceptions; `ValidationError` is a `DecodeError` too, so it comes first."""
    if isinstance(error, msgspec.ValidationError):
        return JSONShapeError(str(error))
    if isinstance(error, RecursionError):
        return JSONDepthError("nested too deeply")
    if isinstance(error, UnicodeDecodeError):
        # Its own text quotes nothing but the byte; the object it carries is the client's data and is left behind.
        return JSONError(f"invalid UTF-8 (byte {error.start})")
    return JSONError(str(error) or type(error).__name__)
