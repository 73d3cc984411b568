"""Asking a gateway until it knows a key, or knows it no more."""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import Final

from tests.flow.harness import Running

WITHIN: Final = 5.0
"""Seconds in which a change of the keys holds: 2 are promised, and a busy machine may stand still meanwhile."""


async def status(gw: Running, key: str, *more: tuple[str, str]) -> int:
    """What a chat with this key is told."""
    return (await gw.send(gw.chat_request(headers=[("authorization", f"Bearer {key}"), *more], stream=False))).status


async def until_it_is(gw: Running, key: str, wanted: int) -> float:
    """Seconds until it is told that. Each try is of an address of its own: who fails often is held up."""
    began = time.monotonic()
    addresses = itertools.count(1)
    while await status(gw, key, ("x-forwarded-for", f"198.19.0.{next(addresses)}")) != wanted:
        assert time.monotonic() - began < 40, f"never {wanted}"
        await asyncio.sleep(0.1)
    return time.monotonic() - began
