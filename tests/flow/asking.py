"""Asking a gateway until it knows a key, or knows it no more."""

from __future__ import annotations

import asyncio
import time

from tests.flow.harness import Running


async def status(gw: Running, key: str) -> int:
    """What a chat with this key is told."""
    return (await gw.send(gw.chat_request(headers=[("authorization", f"Bearer {key}")], stream=False))).status


async def until_it_is(gw: Running, key: str, wanted: int) -> float:
    """Seconds until it is told that. Not for many of the wrong answers: who fails often is held up."""
    began = time.monotonic()
    while await status(gw, key) != wanted:
        assert time.monotonic() - began < 10, f"never {wanted}"
        await asyncio.sleep(0.1)
    return time.monotonic() - began
