"""Waiting for a worker's engine: does it answer, and is it ours that answers?"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from backends.engines import HealthEndpoint
from backends.workers.groups import PortListener

# A look costs 60 us while the port refuses. An engine that loads weights for minutes is looked at less often.
PATIENCE = ((2.0, 0.02), (10.0, 0.05), (float("inf"), 0.25))
LOOK = 2.0


async def until_well(
    host: str,
    port: int,
    health: HealthEndpoint,
    *,
    listener: Callable[[], Awaitable[PortListener]],
    clock: Callable[[], float],
) -> str | None:
    """Returns None as soon as the engine is well, or why it must not be used. Has no end of its own: cancel it."""
    began = clock()
    while True:
        if await _well(host, port, health):
            owner = await listener()
            if owner is PortListener.STRANGER:
                return f"port {port} belongs to a process outside the worker's group"
            if owner is not PortListener.NOBODY:
                return None
        waited = clock() - began
        await asyncio.sleep(next(pause for until, pause in PATIENCE if waited < until))


async def _well(host: str, port: int, health: HealthEndpoint) -> bool:
    try:
        async with asyncio.timeout(LOOK):
            status = await get_status(host, port, health.path)
    except (OSError, TimeoutError):
        return False
    return health.path is None or status in health.well


async def get_status(host: str, port: int, path: str | None) -> int | None:
    """The status of `GET path` over plain HTTP/1.1, None for what is not HTTP; no path only connects. Raises OSError.

    Not httpx, which would add 13 MB to a gateway that otherwise needs no control-plane client, and 3 ms a look.
    """
    reader, writer = await asyncio.open_connection(host, port)
    try:
        if path is None:
            return None
        writer.write(f"GET {path} HTTP/1.1\r\nhost: {host}:{port}\r\nconnection: close\r\n\r\n".encode("ascii"))
        head = await reader.read(64)
    finally:
        writer.transport.abort()
    version, _, rest = head.partition(b" ")
    return int(rest[:3]) if version.startswith(b"HTTP/1.") and rest[:3].isdigit() else None
