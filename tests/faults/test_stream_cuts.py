"""However a stream is cut on its way, its bytes arrive unchanged."""

from __future__ import annotations

import asyncio
import itertools
import json
import random

import pytest

from tests.fakes.backend import STREAM_HEAD, Backend, Connection, Request, chunked
from tests.flow.harness import Running, gateway_with
from tests.sizes import sample


def chunk(text: str) -> str:
    return json.dumps({"choices": [{"index": 0, "delta": {"content": text}}]}, ensure_ascii=False)


# What SSE allows (WHATWG HTML, section 9.2) and engines write: 3 kB of it.
BODY = (
    b": a comment before anything\r\n\r\n"
    b'data: {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}\r\n\r\n'
    + f"event: delta\r\nid: 1\r\ndata: {chunk('Grüße, 世界 🌍')}\r\n\r\n".encode()
    + f"data:{chunk('no blank after the colon')}\n\n".encode()
    + b": ping\n\n"
    + f"event: two-lines\ndata: {chunk('one')[:20]}\ndata: {chunk('one')[20:]}\n\n".encode()
    + b"retry: 3000\r\rdata\r\rid\n\n"
    + "".join(f"data: {chunk(f'{n} Привет 👩‍👩‍👧‍👦 ' + 'é' * 20)}\n\n" for n in range(20)).encode()
    + b'data: {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 22, "total_tokens": 23}}\n\n'
    + b"data: [DONE]\n\n"
)


def in_pieces(framing: str, cuts: list[int]) -> list[bytes]:
    """The answer as it is written: `boundary` cuts the body into chunks, `wire` cuts what is on the wire."""
    bounds = [0, *cuts, len(BODY)]
    bodies = [BODY[start:end] for start, end in itertools.pairwise(bounds) if start < end]
    if framing == "boundary":
        return [STREAM_HEAD, *map(chunked, bodies), b"0\r\n\r\n"]
    if framing == "length":
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n" % len(BODY)
        return [head, *bodies]
    wire = STREAM_HEAD + chunked(BODY[: len(BODY) // 2]) + chunked(BODY[len(BODY) // 2 :]) + b"0\r\n\r\n"
    bounds = [0, *cuts, len(wire)]
    return [wire[start:end] for start, end in itertools.pairwise(bounds) if start < end]


async def arrives(gw: Running, backend: Backend, plans: list[list[bytes]], clients: int = 4) -> None:
    """Ask once for every plan, over keep-alive connections; every body must be BODY."""

    async def script(c: Connection, request: Request) -> None:
        for piece in plans[int(request.header("x-plan") or "")]:
            await c.send(piece)
            # So that every piece is a read of its own: the gateway's turns come in between.
            for _ in range(4):
                await asyncio.sleep(0)

    backend.does(script)

    async def ask(numbers: range) -> None:
        async with await gw.connect() as client:
            for number in numbers:
                await client.send(gw.chat_request(headers=[("x-plan", str(number))]))
                answer = await client.answer()
                assert (answer.status, answer.end, answer.body) == (200, "complete", BODY), f"plan {number}"

    async with asyncio.TaskGroup() as group:
        for first in range(clients):
            group.create_task(ask(range(first, len(plans), clients)))


@pytest.mark.timeout(180)
@pytest.mark.parametrize("framing", ["boundary", "wire", "length"])
async def test_a_stream_cut_at_any_one_byte_arrives_unchanged(backend: Backend, framing: str) -> None:
    assert 2900 < len(BODY) < 3500
    async with gateway_with(backend) as gw:
        await arrives(gw, backend, [in_pieces(framing, [cut]) for cut in sample(range(1, len(BODY)), 500)])


@pytest.mark.parametrize("seed", range(3))
async def test_a_stream_cut_anywhere_and_everywhere_arrives_unchanged(backend: Backend, seed: int) -> None:
    chance = random.Random(seed)

    def cuts() -> list[int]:
        return sorted(chance.sample(range(1, len(BODY)), chance.randint(2, 60)))

    async with gateway_with(backend) as gw:
        plans = [in_pieces(chance.choice(["boundary", "wire", "length"]), cuts()) for _ in range(60)]
        await arrives(gw, backend, plans)


async def test_a_stream_byte_by_byte_arrives_unchanged(backend: Backend) -> None:
    async with gateway_with(backend) as gw:
        await arrives(gw, backend, [in_pieces(framing, list(range(1, len(BODY)))) for framing in ("boundary", "wire")])


async def test_one_event_of_5_mb_arrives_unchanged(backend: Backend) -> None:
    event = b'data: {"choices": [{"index": 0, "delta": {"content": "' + "ü".encode() * 2_500_000 + b'"}}]}\n\n'
    backend.raw(
        STREAM_HEAD + b"".join(chunked(event[i : i + 9999]) for i in range(0, len(event), 9999)) + b"0\r\n\r\n",
        keep=True,
    )
    async with gateway_with(backend) as gw:
        answer = await gw.ask()
        assert (answer.end, answer.body == event) == ("complete", True)
