"""fault 72: no file descriptor is left. Nobody is accepted for a while and no core is spent on it, no endpoint is
blamed, and once there are some again everything goes on."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from tests.fakes.backend import Backend
from tests.fakes.client import Answer, Client, request
from tests.flow.harness import CHAT
from tests.gateway.served import Served, policy, serving

BODY = b'{"model": "m", "messages": []}'
CHAT_REQUEST = request("POST", CHAT, BODY, [("content-type", "application/json")])


def behind(backend: Backend, folder: Path) -> Path:
    """A policy with one endpoint that nobody probes."""
    pool = {"engine": "vllm", "endpoints": [{"url": backend.url, "name": "one"}], "health": "off"}
    return policy(folder, pools={"pool": pool})


async def ready(served: Served) -> str:
    host, port = await asyncio.to_thread(served.ready)
    return f"{host}:{port}"


async def asked(client: Client, timeout: float = 5.0) -> Answer:
    await client.send(CHAT_REQUEST)
    return await client.answer(timeout=timeout)


@contextlib.asynccontextmanager
async def clients(address: str, count: int) -> AsyncIterator[list[Client]]:
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(await Client.to(address)) for _ in range(count)]


def cpu(pid: int) -> float:
    """Seconds of CPU that a process has had."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def none_left(pid: int) -> Iterator[None]:
    """A process may open nothing more."""
    taken = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
    lowest = next(number for number in range(1 << 20) if number not in taken)
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "access.log").read_text().splitlines()]


async def test_without_descriptors_nobody_is_accepted_nothing_spins_and_it_goes_on_afterwards(
    backend: Backend, tmp_path: Path
) -> None:
    with serving(behind(backend, tmp_path)) as served:
        address, pid = await ready(served), served.process.pid
        async with clients(address, 1) as (first,):
            assert (await asked(first)).status == 200
            with none_left(pid):
                async with clients(address, 50) as waiting:
                    for client in waiting:
                        client.writer.write(CHAT_REQUEST)
                    used, began = cpu(pid), time.monotonic()
                    await asyncio.sleep(2)
                    assert (cpu(pid) - used) / (time.monotonic() - began) < 0.1
                    resource.prlimit(pid, resource.RLIMIT_NOFILE, resource.getrlimit(resource.RLIMIT_NOFILE))
                    answers = [await client.answer() for client in waiting]
                    assert {answer.status for answer in answers} == {200}
        await asyncio.to_thread(served.until, rb"accept_paused")


async def test_our_own_lack_of_descriptors_is_no_endpoints_fault(backend: Backend, tmp_path: Path) -> None:
    with serving(behind(backend, tmp_path)) as served:
        address, pid = await ready(served), served.process.pid
        async with clients(address, 8) as all_of_them:
            for client in all_of_them:
                client.writer.write(request("GET", "/health"))
                assert (await client.answer()).status == 200
            with none_left(pid):
                answers = [await asked(client) for client in all_of_them]
            assert {(answer.status, answer.error["code"]) for answer in answers} == {(503, "no_endpoint_available")}
            assert all(answer.header("retry-after") for answer in answers)
            assert backend.connections == []
            # Eight failures in a row would have ejected it and opened its breaker.
            assert [(await asked(client)).status for client in all_of_them] == [200] * 8
        served.process.terminate()
        served.process.wait(10)
        trails = [line["trail"] for line in lines(tmp_path) if line["status"] == 503]
        assert [[step[:2] for step in trail] for trail in trails] == [[["one", "not_sent"]]] * 8


async def test_with_few_descriptors_from_the_start_a_crowd_is_served_bit_by_bit(
    backend: Backend, tmp_path: Path
) -> None:
    with serving(behind(backend, tmp_path), descriptors=128) as served:
        address, pid = await ready(served), served.process.pid

        async def one() -> int:
            async with await Client.to(address) as client:
                return (await asked(client, timeout=20)).status

        async with clients(address, 200):
            # 200 who say nothing hold no one up: those who idle longest make room.
            statuses = await asyncio.gather(*(one() for _ in range(100)))
            assert statuses == [200] * 100
            assert len(os.listdir(f"/proc/{pid}/fd")) < 128
