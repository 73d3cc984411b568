"""The top level of a JSON object without touching the rest: its members as raw text, no two of one name, and where
they stand.

A gateway that reads `model` from a body and hands the body's bytes on must be sure that the engine reads the same
`model`. JSON leaves two members of one name open (RFC 8259, 4), msgspec keeps the last in silence, other parsers the
first; so a body that has them, in any spelling (`mod\\u0065l`), is refused. Finding them costs next to nothing: what
the decoded members need at least, written without spaces, is compared with the body's length. A lost member would be
at least 5 bytes (`"":0,`) more; less than that over is proof that there is none. Only a body written with spaces is
looked at again (1 us a member).

What is refused is a `RefusedBody`, for the client to read. Nested objects are the engine's business.
"""

from __future__ import annotations

import re
from typing import Literal

from policies.codec import Decoder, JSONDepthError, JSONError, JSONShapeError, Raw, decode, encode, end_of_value

MAX_MEMBERS = 1024
# No body has more members than colons, and 8,192 members are decoded in 4 ms; a short body has no more.
_MANY_COLONS = 8192
_SHORT = 65536
# `"":0,`: what the shortest member that msgspec could have dropped takes.
_SHORTEST_MEMBER = 5

_BOM = b"\xef\xbb\xbf"
# Possessive and bounded: nothing here is ever tried again, or one long name full of escapes would cost 40 ms.
_OPENING = re.compile(rb"[ \t\n\r]*+\{")
_NAME = re.compile(rb'[ \t\n\r]*+"([^"\\]*+(?:\\.[^"\\]*+){0,1024}+)"[ \t\n\r]*+:[ \t\n\r]*+', re.DOTALL)
_AFTER = re.compile(rb"[ \t\n\r]*+([,}])")
_PLACE = re.compile(r"\(byte (\d+)\)")

_members = Decoder(dict[str, Raw])

Code = Literal[
    "invalid_json", "invalid_request", "field_not_allowed", "unsupported_media_type", "context_length_exceeded"
]


class RefusedBody(Exception):
    """The request can't be served as it is written: a documented error code, the field at fault, and a text with
    cause and fix."""

    def __init__(self, code: Code, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code: Code = code
        self.message = message
        self.param = param


def members(body: bytes) -> dict[str, Raw]:
    """The members of a JSON object by name, each value as its own bytes; `RefusedBody` for anything else or for a name
    used twice."""
    size = len(body)
    if size > _SHORT and body.count(b":") > _MANY_COLONS:
        _refuse_crowds(body)
    try:
        found = _members.decode(body)
    except JSONError as error:
        raise _refusal(body, error) from None
    count = len(found)
    if count > MAX_MEMBERS:
        raise _too_many()
    slack = size - 4 * count - 1
    for name, value in found.items():
        slack -= len(name) + len(value)
    if slack >= _SHORTEST_MEMBER and not (slack == 2 * count - 1 and size <= _SHORT and _as_python_writes(body, found)):
        _spans(body, found)
    return found


def replace(body: bytes, name: str, value: str) -> bytes:
    """The body with that member's value replaced by a string and every other byte as it was; `KeyError` without it."""
    start, end = _spans(body, members(body), until=name)[name]
    return b"".join((body[:start], encode(value), body[end:]))


def spans(body: bytes, found: dict[str, Raw]) -> dict[str, tuple[int, int]]:
    """Return the span of each value of the body's `members`: its first byte and the byte after its last."""
    return _spans(body, found)


def opening(body: bytes) -> int:
    """Return the index at which the first member of an object begins or would begin; raise `RefusedBody` for other
    bodies."""
    return _opening(body)


def _as_python_writes(body: bytes, found: dict[str, Raw]) -> bool:
    """Return whether these members, written as by `json.dumps`, equal the body; decoding then lost no member."""
    written = b', "'.join([b'%b": %b' % (name.encode(), bytes(value)) for name, value in found.items()])
    return body == b'{"%b}' % written


def _spans(body: bytes, found: dict[str, Raw], until: str | None = None) -> dict[str, tuple[int, int]]:
    """Return the span of each member's value (up to one); raise `RefusedBody` for a repeated name. Exact, and linear
    in the body's length.

    `body` is a valid object and `found` has the last value of each name, so where another value stands the name comes
    again. The values need no parsing: no JSON value that is followed by white space, `,` or `}` is the beginning of
    another.
    """
    spans: dict[str, tuple[int, int]] = {}
    at, last = _opening(body), not found
    while not last:
        member = _name_at(body, at)
        name = decode(b'"%b"' % member[1], str) if b"\\" in member[1] else member[1].decode()
        start, value = member.end(), found[name]
        end = start + len(value)
        after = _AFTER.match(body, end)
        if name in spans or after is None or not body.startswith(value, start):
            raise _twice(name)
        spans[name] = (start, end)
        if name == until:
            break
        at, last = after.end(), after[1] == b"}"
    return spans


def _refuse_crowds(body: bytes) -> None:
    """Counts members from the front and stops at the limit, so that 10^5 of them cost 2 ms and not 40.

    Values are skipped at C speed. What is no value ends the count: the decoder stops there too, and says what is wrong.
    """
    at = _opening(body)
    for _ in range(MAX_MEMBERS):
        end = end_of_value(body, _name_at(body, at).end())
        if end is None or body[end : end + 1] != b",":
            return
        at = end + 1
    raise _too_many()


def _opening(body: bytes) -> int:
    """Return the index at which the first member begins."""
    opening = _OPENING.match(body)
    if opening is None:
        raise _refusal(body, JSONShapeError("no object"))
    return opening.end()


def _name_at(body: bytes, at: int) -> re.Match[bytes]:
    name = _NAME.match(body, at)
    if name is None:
        raise RefusedBody("invalid_json", "The body has a field name that is malformed or has more than 1024 escapes.")
    return name


def _too_many() -> RefusedBody:
    return RefusedBody("invalid_request", f"The body has more than {MAX_MEMBERS} fields at its top level.")


def _twice(name: str) -> RefusedBody:
    short = name if len(name) <= 64 else name[:64] + "..."
    return RefusedBody(
        "invalid_request", f'The body has "{short}" twice at its top level. Send each field once.', short
    )


def _refusal(body: bytes, error: JSONError) -> RefusedBody:
    if not body.strip(b" \t\n\r"):
        return RefusedBody("invalid_json", "The body is empty. Send a JSON object.")
    if body.startswith(_BOM):
        return RefusedBody("invalid_json", "The body begins with a byte order mark. Send JSON in plain UTF-8.")
    if isinstance(error, JSONDepthError):
        return RefusedBody("invalid_json", "The body is nested too deeply. Send JSON of fewer levels.")
    if isinstance(error, JSONShapeError):
        return RefusedBody("invalid_request", "The body must be a JSON object: {...}.")
    place = _PLACE.search(str(error))
    near = body[max(0, int(place[1]) - 1) : int(place[1]) + 2] if place else b""
    hint = " NaN and Infinity are no JSON; send null or a number." if b"N" in near or b"I" in near else ""
    return RefusedBody("invalid_json", f"The body is not valid JSON: {error}.{hint}")
