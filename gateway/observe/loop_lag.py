"""Lag of the event loop: the one number that shows a blocked loop."""

import asyncio
from collections.abc import Callable

LAG_EVERY = 0.5


async def watch_lag(observe: Callable[[float], None], loop: asyncio.AbstractEventLoop) -> None:
    """Sleep, and observe by how many seconds the sleep was too long; until cancelled."""
    while True:
        due = loop.time() + LAG_EVERY
        await asyncio.sleep(LAG_EVERY)
        observe(max(0.0, loop.time() - due))
