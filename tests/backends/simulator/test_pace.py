"""Time, slots and queue are those of a GPU; a client that leaves gives its slot back at once."""

import asyncio
import time

import pytest

from backends.simulator.server import Simulator
from backends.simulator.settings import SimulatorSettings
from tests.backends.simulator.raw import CHAT, HI, Client, ask
from tests.pace import Watch

STREAM = HI | {"stream": True}


async def test_head_comes_at_once_and_the_first_event_after_first_byte() -> None:
    async with Simulator(SimulatorSettings(tokens=2, first_byte=0.3)) as sim, await Client.to(sim.port) as client:
        watch = Watch()
        client.send(STREAM)
        await client.head()
        assert watch.own < 0.2
        await client.reader.readuntil(b"\n\n")
        # Without Nagle's 40 ms on top.
        assert 0.3 <= watch.seconds


async def test_nagle_is_off(sim: Simulator) -> None:
    import socket

    async with await Client.to(sim.port) as client:
        client.send(STREAM)
        await client.head()
        (connection,) = sim._wire.connections
        assert connection._transport is not None
        sock = connection._transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


async def test_tokens_come_gap_by_gap_and_the_plain_answer_takes_as_long() -> None:
    async with Simulator(SimulatorSettings(tokens=5, first_byte=0.1, gap=0.05)) as sim:
        for body in (HI, STREAM):
            watch = Watch()
            answer = await ask(sim.port, body)
            assert answer.status == 200
            assert watch.within(0.3, 1.5)


async def test_prefill_grows_with_the_prompt() -> None:
    async with Simulator(SimulatorSettings(tokens=1, prompt_token=0.001)) as sim:
        began = time.monotonic()
        await ask(sim.port, {"model": "simulator", "prompt": "x" * 1200, "max_tokens": 1}, "/v1/completions")
        assert time.monotonic() - began >= 0.3


async def test_jitter_is_the_same_for_the_same_seed() -> None:
    async with (
        Simulator(SimulatorSettings(jitter=0.5, seed=7)) as one,
        Simulator(SimulatorSettings(jitter=0.5, seed=7)) as two,
    ):
        first = [one._engine.stretched(1.0) for _ in range(20)]
        assert first == [two._engine.stretched(1.0) for _ in range(20)]
        assert min(first) >= 0.5 and max(first) <= 1.5 and len(set(first)) == 20


async def test_beyond_the_slots_requests_wait_their_turn() -> None:
    async with Simulator(SimulatorSettings(tokens=2, first_byte=0.1, max_num_seqs=2)) as sim:
        async with asyncio.TaskGroup() as group:
            for _ in range(5):
                group.create_task(ask(sim.port, STREAM))
            await sim.until(lambda: (sim.running, sim.waiting) == (2, 3))
        assert (sim.running, sim.waiting) == (0, 0)
        assert sim.gauges.reasons["stop"] == 5


async def test_n_sequences_take_n_slots() -> None:
    async with Simulator(SimulatorSettings(tokens=1, first_byte=0.1, max_num_seqs=3)) as sim:
        async with asyncio.TaskGroup() as group:
            group.create_task(ask(sim.port, HI | {"n": 2}))
            await sim.until(lambda: sim.running == 2)
            group.create_task(ask(sim.port, HI | {"n": 2}))
            await sim.until(lambda: sim.waiting == 2)
            # More than there are slots: takes all of them, when they are free.
            group.create_task(ask(sim.port, HI | {"n": 5}))
        assert (sim.running, sim.waiting) == (0, 0)


@pytest.mark.parametrize("body", [HI, STREAM], ids=["plain", "stream"])
@pytest.mark.parametrize("way", ["fin", "half", "reset"])
async def test_client_that_leaves_frees_its_slot_at_once(body: dict[str, object], way: str) -> None:
    async with Simulator(SimulatorSettings(first_byte=30, max_num_seqs=1)) as sim:
        running, waiting = await Client.to(sim.port), await Client.to(sim.port)
        running.send(body)
        await sim.until(lambda: sim.running == 1)
        waiting.send(body)
        await sim.until(lambda: sim.waiting == 1)
        for client, alone in ((waiting, (1, 0)), (running, (0, 0))):
            watch = Watch()
            if way == "half":
                client.writer.write_eof()
            elif way == "reset":
                client.writer.transport.abort()
            else:
                client.writer.close()
            await sim.until(lambda alone=alone: (sim.running, sim.waiting) == alone)  # type: ignore[misc]
            assert watch.own < 0.1
        assert sim.gauges.reasons["abort"] == 2
        for client in (running, waiting):
            await client.close()


async def test_client_that_leaves_midstream_is_counted_as_aborted() -> None:
    async with Simulator(SimulatorSettings(tokens=1000, gap=0.005)) as sim, await Client.to(sim.port) as client:
        client.send(STREAM)
        await client.reader.readuntil(b"\n\n")
        client.writer.close()
        await sim.until(lambda: sim.running == 0)
        assert sim.gauges.reasons["abort"] == 1
        assert 0 < sim.gauges.generated < 1000


async def test_reader_that_stalls_is_waited_for_without_growing() -> None:
    async with Simulator(SimulatorSettings(tokens=30_000)) as sim, await Client.to(sim.port) as client:
        client.send(STREAM)
        await client.head()
        while True:
            before = sim.gauges.generated
            await asyncio.sleep(0.1)
            if sim.gauges.generated == before:
                break
        assert sim.running == 1 and sim.gauges.generated < 30_000
        async with asyncio.timeout(20):
            answer = await client.rest()
        assert (answer.end, len(answer.events)) == ("done", 30_002)


async def test_comments_come_on_silent_chat_streams_and_nowhere_else() -> None:
    async with Simulator(SimulatorSettings(tokens=2, first_byte=0.3, comment_every=0.05)) as sim:
        answer = await ask(sim.port, STREAM)
        assert 2 <= answer.body.count(b": keep-alive\n\n") <= 6
        assert len(answer.data) == 4
        other = await ask(sim.port, {"model": "simulator", "input": "x", "stream": True}, "/v1/responses")
        assert b"keep-alive" not in other.body


async def test_frozen_engine_hangs_while_health_says_200() -> None:
    async with Simulator(SimulatorSettings(tokens=50, gap=0.01)) as sim, await Client.to(sim.port) as client:
        client.send(STREAM)
        await client.head()
        await client.chunk()
        sim.fault("freeze")
        late = asyncio.create_task(ask(sim.port, HI))  # noqa: TID251 - awaited below
        await sim.until(lambda: sim.running == 2)
        made = sim.gauges.generated
        await asyncio.sleep(0.1)
        assert sim.gauges.generated <= made + 1
        assert (await ask(sim.port, None, "/health", "GET")).status == 200
        sim.clear_faults()
        assert (await late).status == 200
        answer = await client.rest()
        assert (answer.end, len(answer.events)) == ("done", 51)


async def test_storm_of_aborts_leaves_nothing_behind() -> None:
    async with Simulator(SimulatorSettings(tokens=100, first_byte=0.01, gap=0.01, max_num_seqs=20)) as sim:

        async def leave(number: int) -> None:
            client = await Client.to(sim.port)
            client.send(STREAM if number % 2 else HI, CHAT)
            await asyncio.sleep(number % 7 * 0.004)
            client.writer.transport.abort()

        for _ in range(5):
            await asyncio.gather(*map(leave, range(100)))
        await sim.until(lambda: (sim.running, sim.waiting) == (0, 0))
        await sim.until(lambda: sim.connections == 0)
        assert sim.gauges.reasons["abort"] > 0
