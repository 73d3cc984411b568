"""Ten thousand clients that leave while they wait for a slot: nothing of them may be left.

.venv/bin/python -m tests.soak.leaving [--waves 10] [--clients 1000]
"""

from __future__ import annotations

import argparse
import asyncio
import sys

import uvloop

from tests.fakes.backend import Backend
from tests.flow.harness import Running, eventually, gateway_with


async def leave(gw: Running, waves: int, clients: int) -> None:
    """So many clients in a wave, who connect, wait for a slot, and leave in three ways. All slots must be taken."""
    metrics = gw.gateway.metrics
    depth, before = metrics.pool("pool").queue_depth, gw.total("client_gone_total", phase="queue")
    for wave in range(1, waves + 1):
        there = [await gw.connect() for _ in range(clients)]
        for number, client in enumerate(there):
            await client.send(gw.chat_request("gone", stream=number % 2 == 0))
        await eventually(lambda: depth.value == clients, lambda: f"{depth.value} wait", timeout=60)
        for number, client in enumerate(there):
            (client.reset, client.writer.close, client.half_close)[number % 3]()
        await eventually(lambda: depth.value == 0, lambda: f"{depth.value} wait still", timeout=60)
        gone = before + wave * clients
        await eventually(lambda gone=gone: gw.total("client_gone_total", phase="queue") == gone, "not counted")  # type: ignore[misc]
        for client in there:
            client.writer.close()


async def leaving(waves: int, clients: int) -> None:
    """The gateway with one slot, which is taken all the time; on leaving everything is looked through."""
    async with Backend() as backend:
        backend.streams("one", "two", hold=2)
        policy = {"pools": {"pool": {"max_in_flight": 1, "queue": {"size": clients, "wait": "10m"}}}}
        async with gateway_with(backend, policy=policy) as gw, asyncio.TaskGroup() as group:
            first = group.create_task(gw.ask())
            await backend.requested()
            await leave(gw, waves, clients)
            backend.release.set()
            assert (await first).status == 200
            assert await gw.chat() == "onetwo"
            assert backend.attempts == 2


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak.leaving", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--waves", type=int, default=10, help="(default: %(default)s)")
    parser.add_argument("--clients", type=int, default=1000, help="in a wave (default: %(default)s)")
    options = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(leaving(options.waves, options.clients))
    sys.stdout.write(f"{options.waves * options.clients} left while they waited: nothing is left\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
