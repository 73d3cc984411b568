"""When a starting engine counts as well."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from backends.engines import HealthEndpoint
from backends.workers.groups import PortListener
from backends.workers.ready import get_status, until_well
from tests.backends.http1.answering import answering


def owners(*answers: PortListener) -> Callable[[], Awaitable[PortListener]]:
    left = list(answers)

    async def owner() -> PortListener:
        return left.pop(0)

    return owner


async def well(port: int, health: HealthEndpoint, *answers: PortListener) -> str | None:
    async with asyncio.timeout(5.0):
        return await until_well("127.0.0.1", port, health, listener=owners(*answers), clock=time.monotonic)


@pytest.mark.parametrize(
    ("answer", "status"),
    [(b"HTTP/1.1 200 OK\r\n", 200), (b"HTTP/1.0 503", 503), (b"SSH-2.0-x\r\n", None), (b"HTTP/1.1 2OO OK", None)],
)
async def test_the_status_is_read_from_the_first_line(answer: bytes, status: int | None) -> None:
    async with answering(answer) as port:
        assert await get_status("127.0.0.1", port, "/health") == status


async def test_an_engine_is_asked_again_until_it_says_yes() -> None:
    async with answering(b"HTTP/1.1 503 Loading\r\n", b"junk\r\n", b"HTTP/1.1 200 OK\r\n") as port:
        assert await well(port, HealthEndpoint(), PortListener.OURS) is None


async def test_without_a_path_an_open_port_is_enough() -> None:
    async with answering(b"") as port:
        assert await well(port, HealthEndpoint(path=None), PortListener.UNKNOWN) is None


async def test_a_strangers_yes_is_a_no() -> None:
    async with answering(b"HTTP/1.1 200 OK\r\n") as port:
        assert await well(port, HealthEndpoint(), PortListener.NOBODY, PortListener.STRANGER) == (
            f"port {port} belongs to a process outside the worker's group"
        )
