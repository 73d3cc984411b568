"""An answer as one value of a store, and back. What is not wholly so as it was packed is nothing."""

from array import array
from zlib import crc32

from backends.cache.base import CachedAnswer
from policies import codec


class _PackedHead(codec.Struct):
    key: str
    stored_at: float
    headers: list[tuple[str, str]]
    stream: bool
    length_known: bool
    sizes: list[int]
    crc: int


_head: codec.Decoder[_PackedHead] = codec.Decoder(_PackedHead)


def pack(answer: CachedAnswer) -> bytes:
    """A line of JSON, then the body."""
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in answer.headers]
    head = _PackedHead(
        answer.key.hex(), answer.stored_at, headers, answer.stream, answer.length_known, answer.sizes.tolist(),
        crc32(answer.body),
    )  # fmt: skip
    return codec.encode(head) + b"\n" + answer.body


def key_of(value: bytes) -> bytes | None:
    """The key that a packed answer says it has; None for what is no packed answer."""
    head = _read_head(value)
    try:
        return None if head is None else bytes.fromhex(head.key)
    except ValueError:
        return None


def unpack(value: bytes, key: bytes) -> CachedAnswer | None:
    """The answer, if it is one, whole, and under this key."""
    head = _read_head(value)
    body = value.partition(b"\n")[2]
    if head is None or head.key != key.hex() or crc32(body) != head.crc:
        return None
    if any(size <= 0 for size in head.sizes) or sum(head.sizes) != len(body):
        return None
    try:
        headers = tuple((name.encode("latin-1"), text.encode("latin-1")) for name, text in head.headers)
        return CachedAnswer(key, head.stored_at, headers, head.stream, head.length_known, body, array("I", head.sizes))
    except (UnicodeError, OverflowError):
        return None


def _read_head(value: bytes) -> _PackedHead | None:
    try:
        return _head.decode(value.partition(b"\n")[0])
    except codec.JSONError:
        return None
