"""Tokens and texts, made from the prompt alone.

A token of a prompt is four bytes of its UTF-8, which makes /tokenize reversible and costs nothing; a token of an
answer is one piece of the list below. The pieces hold what streams get wrong: letters of two, three and four bytes,
quotes, backslashes, newlines.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

PIECES = (
    " the", " of", " a", " stream", " that", " never", " ends", " token", " and", " so", " on", ",",
    ".", " byte", " for", " byte", " model", " which", " says", " nothing", " new", " naïve",
    " café", " Straße", " 東京", " 字", " 🙂", " 👩‍🚀", " Ж", " \"quoted\"", " back\\slash", "\n", " {",
    "}", " [", "]", " 42", "-", " <b>", "&", " queue", " slot", " cache", " prompt", " answer",
    " first", " last", " word", " simulated", " text", " not", " thought", " only", " counted", ":",
    " one", " two", " three", " four", " five", " six", " seven", " eight", " nine",
)  # fmt: skip

PROMPT_TOKEN = 4
"""Bytes of UTF-8 in a token of a prompt."""


def hashed(text: str, salt: int = 0) -> int:
    return zlib.crc32(text.encode("utf-8", "surrogatepass"), salt & 0xFFFFFFFF)


def numbers(seed: int) -> Iterator[int]:
    """Endless, the same for the same seed; each below 65536."""
    state = seed & 0x7FFFFFFF
    while True:
        state = (state * 1103515245 + 12345) & 0x7FFFFFFF
        yield state >> 15


def pieces(seed: int, count: int) -> list[int]:
    """Indexes into PIECES: an answer of `count` tokens."""
    state = seed & 0x7FFFFFFF
    chosen = []
    for _ in range(count):
        state = (state * 1103515245 + 12345) & 0x7FFFFFFF
        chosen.append((state >> 15) & 63)
    return chosen


def hashed_bytes(data: bytes) -> int:
    return zlib.crc32(data)


def count(text: str) -> int:
    """Return the number of tokens of a prompt, at least one."""
    return max(1, -(-len(text.encode("utf-8", "surrogatepass")) // PROMPT_TOKEN))


def tokenize(text: str) -> list[int]:
    """Token ids; the leading 1 keeps a token's length in its number."""
    data = text.encode("utf-8", "surrogatepass")
    return [int.from_bytes(b"\1" + data[at : at + PROMPT_TOKEN], "big") for at in range(0, len(data), PROMPT_TOKEN)]


def token_bytes(token: int) -> bytes:
    """Return the bytes of a token id; an unknown id stands for its decimal digits."""
    data = token.to_bytes(max(1, (token.bit_length() + 7) // 8), "big")
    return data[1:] if data[:1] == b"\1" and 1 < len(data) <= PROMPT_TOKEN + 1 else b"%d" % token


def detokenize(tokens: list[int]) -> str:
    return b"".join(map(token_bytes, tokens)).decode("utf-8", "replace")
