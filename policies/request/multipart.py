"""A multipart form (RFC 7578) as far as a gateway must read it: the fields' names and where their values stand,
nothing copied.

Two parsers that read one form differently would let a client name one model to us and another to the engine. So this
reads a strict subset that every parser reads alike, which is what HTTP libraries and browsers write, and refuses the
rest: parts of other types than form-data, a name that is missing, escaped, encoded or there twice, folded headers, a
model that is a file, a charset other than UTF-8, text before the first boundary or after the last. `RefusedBody` says
what is wrong.

Cost: one search for the boundary a part, at memory speed; 128 parts and 4 KiB of head a part at most.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from policies.json_object import RefusedBody

MAX_PARTS = 128
MAX_PART_HEAD = 4096  # bytes

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PARAMETER = re.compile(rb'[ \t]*;[ \t]*(%b)=(?:(%b)|"([^"\\\r\n\0]*)")' % (_TOKEN, _TOKEN))
_FORM_DATA = re.compile(rb"multipart/form-data(?=[ \t]*(?:;|\Z))", re.IGNORECASE)
# RFC 2046, 5.1.1: at most 70 characters of these, no space at the end.
_BOUNDARY = re.compile(rb"[0-9A-Za-z'()+_,\-./:=? ]{0,69}[0-9A-Za-z'()+_,\-./:=?]")
_HEADER = re.compile(rb"(%b):[ \t]*([^\r\n\0]*)" % _TOKEN)
# Repeated on purpose by some clients (`timestamp_granularities[]`); of what we read there must be one.
_READ_ONCE = frozenset(
    {
        "model",
        "stream",
        "stream_include_usage",
        "priority",
        "cache_salt",
        "kv_transfer_params",
        "vllm_xargs",
        "request_id",
    }
)


class FormPart(NamedTuple):
    """One part of a form: its field's name, whether it is a file, and where its value stands in the body."""

    name: str
    is_file: bool
    start: int
    end: int


def fields_of(body: bytes, content_type: bytes | None) -> dict[str, memoryview]:
    """The values of the form's fields that are no files, by name, as views of the body; of a repeated field the
    last."""
    view = memoryview(body)
    return {part.name: view[part.start : part.end] for part in _parts_read_once(body, content_type)}


def replace_field(body: bytes, content_type: bytes | None, name: str, value: str) -> bytes:
    """The body with that field's value replaced and every other byte as it was; `KeyError` when it is not there."""
    delimiter = b"\r\n--" + boundary_of(content_type)
    written = value.encode()
    if delimiter in b"\r\n" + written:
        raise RefusedBody("invalid_request", "The form's boundary is part of a model's name. Use another boundary.")
    for part in _parts_read_once(body, content_type):
        if part.name == name:
            return b"".join((body[: part.start], written, body[part.end :]))
    raise KeyError(name)


def boundary_of(content_type: bytes | None) -> bytes:
    """The boundary that a `Content-Type: multipart/form-data` names; `RefusedBody` for another type or a doubtful
    boundary."""
    kind = _FORM_DATA.match(content_type or b"")
    if kind is None:
        raise RefusedBody("unsupported_media_type", "This path takes a form. Send Content-Type: multipart/form-data.")
    given = _parameters(content_type or b"", kind.end())
    if given is None or b"boundary" not in given or not _BOUNDARY.fullmatch(given[b"boundary"]):
        raise _malformed("Content-Type has no proper boundary")
    if given.get(b"charset", b"utf-8").lower() not in (b"utf-8", b"utf8"):
        raise RefusedBody("unsupported_media_type", "A form must be UTF-8. Leave the charset out of Content-Type.")
    return given[b"boundary"]


def _parts_read_once(body: bytes, content_type: bytes | None) -> Iterator[FormPart]:
    """The parts that are no files; `RefusedBody` for a second one, or a file, of a name that the gateway or an engine
    reads once."""
    seen: set[str] = set()
    for part in _parts(body, b"--" + boundary_of(content_type)):
        if part.name in _READ_ONCE:
            if part.is_file:
                raise RefusedBody(
                    "invalid_request", f'The form field "{part.name}" is a file. Send it as text.', part.name
                )
            if part.name in seen:
                raise RefusedBody("invalid_request", f'The form has "{part.name}" twice. Send it once.', part.name)
            seen.add(part.name)
        if not part.is_file:
            yield part


def _parts(body: bytes, dashed: bytes) -> Iterator[FormPart]:
    if not body.startswith(dashed):
        raise _malformed("it does not begin with its boundary")
    delimiter = b"\r\n" + dashed
    at = len(dashed)
    for _ in range(MAX_PARTS + 1):
        if body.startswith(b"--", at):
            if body[at + 2 :].strip(b"\r\n"):
                raise _malformed("there is something after its last boundary")
            return
        if not body.startswith(b"\r\n", at):
            raise _malformed("a boundary is not alone on its line")
        head_end = body.find(b"\r\n\r\n", at, at + MAX_PART_HEAD)
        if head_end < 0:
            raise _malformed(f"a part's head does not end within {MAX_PART_HEAD} bytes")
        end = body.find(delimiter, head_end + 4)
        if end < 0:
            raise _malformed("its last boundary is missing")
        name, is_file = _disposition(body[at + 2 : head_end])
        yield FormPart(name, is_file, head_end + 4, end)
        at = end + len(delimiter)
    raise _malformed(f"it has more than {MAX_PARTS} parts")


def _disposition(head: bytes) -> tuple[str, bool]:
    """The name in a part's one `Content-Disposition`, and whether there is a file's name beside it."""
    found: bytes | None = None
    for line in head.split(b"\r\n"):
        header = _HEADER.fullmatch(line)
        if header is None:
            raise _malformed("a part has a line that is no header")
        lowered = header[1].lower()
        if lowered == b"content-transfer-encoding" and header[2].strip().lower() not in (b"binary", b"8bit", b"7bit"):
            raise _malformed("a part has a Content-Transfer-Encoding")
        if lowered == b"content-disposition":
            if found is not None:
                raise _malformed("a part has two Content-Disposition headers")
            found = header[2].rstrip(b" \t")
    given = _parameters(found, 9) if found is not None and found[:9].lower() == b"form-data" else None
    if given is None or b"name" not in given or b"name*" in given:
        raise _malformed("a part has no plain name in its Content-Disposition")
    try:
        return given[b"name"].decode(), b"filename" in given or b"filename*" in given
    except UnicodeDecodeError:
        raise _malformed("a part's name is not UTF-8") from None


def _parameters(value: bytes, at: int) -> dict[bytes, bytes] | None:
    """`; name=value` pairs up to the end, names in lower case; None if there is anything else or a name is there
    twice."""
    found: dict[bytes, bytes] = {}
    while parameter := _PARAMETER.match(value, at):
        name = parameter[1].lower()
        if name in found:
            return None
        found[name] = parameter[2] if parameter[2] is not None else parameter[3]
        at = parameter.end()
    return None if value[at:].strip(b" \t") not in (b"", b";") else found


def _malformed(what: str) -> RefusedBody:
    return RefusedBody("invalid_request", f"The multipart form is malformed: {what}.")
