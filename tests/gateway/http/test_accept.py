"""Taking connections: never more than there is room for, no core spent on those who wait, nobody locks others out."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import time
from collections.abc import Iterator

import pytest

from gateway.http.accept import FEWEST, RESERVE, most_clients, raise_descriptor_limit
from tests.fakes.client import Client, request
from tests.flow.harness import eventually
from tests.gateway.wire import Door, Held, echo, listening
from tests.pace import slowdown

GET = request("GET", "/a")


@contextlib.contextmanager
def limit(soft: int) -> Iterator[None]:
    """So many descriptors, in this process."""
    before, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before, hard))


@pytest.mark.parametrize(("descriptors", "most"), [(1024, 480), (4096, 2016), (RESERVE, FEWEST), (10, FEWEST)])
def test_half_of_the_descriptors_is_for_clients_since_each_may_need_one_upstream(descriptors: int, most: int) -> None:
    with limit(descriptors):
        assert most_clients() == most


def test_the_soft_limit_is_raised_to_the_hard_one() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with limit(512):
        raise_descriptor_limit()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
        raise_descriptor_limit()


async def test_what_is_accepted_is_sent_without_delay() -> None:
    """Nagle's algorithm would hold the second of two small events back."""
    async with listening(door := Door(echo)) as listener, await Client.to(listener.address) as client:
        await client.send(GET)
        await client.answer()
        sock = door.cycles[0].wire.transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_those_who_idle_longest_make_room() -> None:
    async with listening(Door(echo), most=4) as listener, contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(await Client.to(listener.address)) for _ in range(4)]
        for client in clients[1:]:
            await client.send(GET)
            assert (await client.answer()).status == 200
        # The first has never sent a byte.
        late = await stack.enter_async_context(await Client.to(listener.address))
        await late.send(GET)
        assert (await late.answer()).status == 200
        assert await clients[0].rest() == b""
        for client in clients[1:]:
            await client.send(GET)
            assert (await client.answer()).status == 200


async def test_while_all_are_being_answered_others_wait_their_turn_and_cost_nothing() -> None:
    held = Held()
    async with listening(door := Door(held), most=3) as listener, contextlib.AsyncExitStack() as stack:
        clients = []
        for number in range(6):
            client = await stack.enter_async_context(await Client.to(listener.address))
            clients.append(client)
            await client.send(GET)
            await door.opened(min(number + 1, 3))
        used = time.process_time()
        await asyncio.sleep(0.5)
        assert time.process_time() - used < 0.15 * slowdown()
        assert len(door.cycles) == listener.connections == 3
        held.go.set()
        for client in clients:
            assert (await client.answer()).status == 200


async def test_who_holds_connections_with_half_a_request_does_not_lock_others_out() -> None:
    async with listening(Door(echo), most=32, header_timeout=30) as listener, contextlib.AsyncExitStack() as stack:
        for _ in range(100):
            attacker = await stack.enter_async_context(await Client.to(listener.address))
            await attacker.send(GET[:-2])
        for _ in range(5):
            async with await Client.to(listener.address) as client:
                await client.send(GET)
                assert (await client.answer(timeout=3)).status == 200
        assert listener.connections <= 32


async def test_without_descriptors_accepting_pauses_and_goes_on_when_there_are_some() -> None:
    async with listening(Door(echo)) as listener, contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(await Client.to(listener.address)) for _ in range(3)]
        for client in clients:
            await client.send(GET)
            assert (await client.answer()).status == 200
        waiting = socket.socket()
        host, _, port = listener.address.rpartition(":")
        lowest = os.open(os.devnull, os.O_RDONLY)
        os.close(lowest)
        with limit(lowest):
            waiting.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                waiting.connect((host, int(port)))
            used = time.process_time()
            await asyncio.sleep(0.5)
            assert time.process_time() - used < 0.15 * slowdown()
            assert listener.connections < 3, "the idle ones gave theirs up"
        waiting.setblocking(True)
        waiting.settimeout(3)
        await asyncio.to_thread(waiting.sendall, GET)
        assert (await asyncio.to_thread(waiting.recv, 100)).startswith(b"HTTP/1.1 200 ")
        waiting.close()


async def test_a_listener_that_was_stopped_takes_nobody_not_even_after_a_pause() -> None:
    async with listening(Door(echo), most=1) as listener, contextlib.AsyncExitStack() as stack:
        first = await stack.enter_async_context(await Client.to(listener.address))
        await first.send(GET)
        assert (await first.answer()).status == 200
        for _ in range(3):
            await stack.enter_async_context(await Client.to(listener.address))
        listener.close()
        await first.rest()
        await asyncio.sleep(0.2)
        await eventually(lambda: listener.connections <= 1, "somebody was taken in")
        with pytest.raises(ConnectionError):
            await Client.to(listener.address)


async def test_who_waits_at_the_door_when_it_closes_is_let_in_and_nobody_after() -> None:
    """A close of the listening socket resets those whom the kernel has and nobody has accepted."""
    async with listening(Door(echo)) as listener:
        host, _, port = listener.address.rpartition(":")
        waiting = [socket.create_connection((host, int(port)), timeout=5) for _ in range(5)]
        # The loop has had no turn since.
        listener.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, int(port)), timeout=5)
        for one in waiting:
            with one:
                one.sendall(b"GET /here HTTP/1.1\r\nhost: x\r\n\r\n")
                assert (await asyncio.to_thread(one.recv, 65536)).endswith(b"/here ")
