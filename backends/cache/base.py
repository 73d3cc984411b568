"""The cache, as the pipeline and the tests see it. One object a process; nothing here imports a library.

What every cache holds, and `tests/contracts/test_caches.py` shows:

- What was put is found, byte for byte and cut as it was, until its lifetime is over or room was needed; or it is not
  found. Never another answer, and never a part of one.
- Nothing raises, and nothing waits longer than `store.timeout`: a cache that is away finds nothing (`DOWN`), and after
  the first question it did not answer nobody waits for it until it is back.
"""

from __future__ import annotations

from array import array
from asyncio import Future
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol

Headers = tuple[tuple[bytes, bytes], ...]

# What Python takes for an entry beside its bytes: 64-bit CPython 3.11, rounded up.
_ENTRY: Final = 700
_HEADER: Final = 180


class CacheMiss(Enum):
    """Reason for which a lookup found no answer."""

    MISS = "miss"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class CachedAnswer:
    """An answer with status 200 that came to its end.

    stored_at: seconds since the epoch
    headers: of the reply, as they went to the client, without those that are ours
    length_known: whether they say the body's length
    sizes: of the body's chunks, in their order
    """

    key: bytes
    stored_at: float
    headers: Headers
    stream: bool
    length_known: bool
    body: bytes
    sizes: array[int]

    @property
    def size(self) -> int:
        """Bytes of memory, about."""
        head = sum(len(name) + len(value) + _HEADER for name, value in self.headers)
        return _ENTRY + head + len(self.body) + self.sizes.itemsize * len(self.sizes)

    def chunks(self) -> Iterator[bytes]:
        """The body as it came."""
        at, body = 0, self.body
        for size in self.sizes:
            yield body[at : at + size]
            at += size


Found = CachedAnswer | CacheMiss


class AnswerStore(Protocol):
    def get(self, key: bytes) -> Found | Future[Found]:
        """The answer under a key of 32 bytes. A future never raises; who does not want it any more leaves it."""

    def put(self, answer: CachedAnswer, lifetime: float) -> None:
        """Keep an answer for so many seconds at most. Returns at once and is carried out soon, or not."""

    async def start(self) -> None:
        """Connect. Returns though there is nobody there."""

    async def stop(self) -> None:
        """End what goes on in the background."""
