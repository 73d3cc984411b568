"""A loop that stood still blames nobody for it."""

from __future__ import annotations

import asyncio
import socket
import time
from pathlib import Path

from tests.bench.children import child
from tests.faults.scenes import pool, route
from tests.flow.harness import gateway_with
from tests.soak.stage import SIMULATOR


async def test_a_stream_that_went_on_while_our_loop_stood_still_is_not_cut(tmp_path: Path) -> None:
    with child(SIMULATOR, r"ready on (http://\S+)$", log=tmp_path / "log") as sim:
        rule = route(retry="off", idle="200ms", first_byte="200ms")
        async with gateway_with(sim.address, policy=pool(), route=rule) as gw, await gw.connect() as client:
            await client.send(gw.chat_request(max_tokens=200, min_tokens=200))
            await client.until(b'"content"')
            # Where a loop of libuv looks at its timers before it looks at its sockets again.
            here, there = socket.socketpair()
            loop = asyncio.get_running_loop()
            stalled = asyncio.Event()

            def stall() -> None:
                here.recv(1)
                time.sleep(0.6)
                stalled.set()

            loop.add_reader(here, stall)
            there.send(b"x")
            await stalled.wait()
            loop.remove_reader(here)
            here.close()
            there.close()
            assert b'"error"' not in await client.until(b"0\r\n\r\n")
