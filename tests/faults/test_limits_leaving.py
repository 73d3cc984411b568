"""Through the whole gateway: whenever a client leaves, nothing that was taken for it stays taken."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import types
from collections.abc import Callable, Coroutine, Generator
from random import Random, SystemRandom
from typing import Any

import pytest

from gateway.http.protocol import ClientProtocol
from gateway.http.request import ClientRequest
from tests.fakes import redis_servers
from tests.fakes.backend import LAST_CHUNK, STREAM_HEAD, Backend, Connection, Request, Said, chunked, plain
from tests.fakes.client import Client
from tests.faults.limit_rig import (
    RESERVED,
    eventually_idle,
    limited,
    mode,
    slots_and_tokens,
    used,
)
from tests.flow.harness import Running, eventually, gateway_with


def leave(rng: Random, client: Client) -> None:
    """In one of three ways."""
    rng.choice((client.writer.close, client.half_close, client.reset))()


@pytest.mark.parametrize("kind", ["memory", "redis"])
async def test_whenever_clients_leave_all_that_was_taken_comes_back(
    backend: Backend, redis: redis_servers.Server, kind: str
) -> None:
    """300 clients, of which each leaves at a moment of its own."""
    seed = SystemRandom().getrandbits(32)
    print(f"seed {seed}")  # noqa: T201  # shown where it fails
    rng = Random(seed)
    texts = [f"word{number} " for number in range(4)]

    async def engine(c: Connection, asked: Request) -> None:
        if not json.loads(asked.body)["stream"]:
            await asyncio.sleep(rng.uniform(0, 0.02))
            await c.send(plain(*rng.choice(((200, b"{}"), (500, b"{}"), (400, b"{}")))))
            return
        await asyncio.sleep(rng.choice((0, 0.005)))
        await c.send(STREAM_HEAD)
        for event in Said(tuple(texts)).events():
            await c.send(chunked(event))
            await asyncio.sleep(rng.uniform(0, 0.005))
        await c.send(LAST_CHUNK)

    backend.does(engine)
    url = "memory://"
    if kind == "redis":
        redis.start()
        url = redis.url
    plan = limited(url, *slots_and_tokens(), timeout="5s", on_outage="closed")
    route = {"retry": {"retries": 1}}
    async with gateway_with(backend, policy=plan, route=route) as gw:

        async def one() -> None:
            data = gw.chat_request(stream=rng.random() < 0.7, max_tokens=RESERVED)
            cut = rng.randrange(len(data)) if rng.random() < 0.1 else len(data)
            patience = rng.choice((0.0, rng.uniform(0, 0.003), rng.uniform(0, 0.06)))
            async with await gw.connect() as client:
                await client.send(data[:cut])
                await asyncio.sleep(patience)
                leave(rng, client)

        async def some(count: int) -> None:
            for _ in range(count):
                await one()

        await asyncio.gather(*(some(25) for _ in range(12)))
        await eventually(lambda: gw.gateway.client_requests == 0, "a request goes on", timeout=20)
        await eventually_idle(gw)
        held, tokens, output = await used(gw)
        assert held == 0
        # Of each at most its prompt and what was sent of the answer is charged; one that kept its reserve is seen.
        assert tokens is not None and tokens < RESERVED, tokens
        assert output is not None and output <= 300 * 8, output
        assert gw.total("client_gone_total") > 50, gw.total("client_gone_total")
        # And the next is served.
        assert (await gw.ask(stream=True)).status == 200
        if kind == "redis":
            assert gw.total("limit_mode", state="store") == 1
            assert gw.total("store_errors_total") == 0


def _fin(cycle: ClientRequest) -> None:
    """What the loop calls when the client's FIN has come, and the end of the connection."""
    wire = cycle.wire
    assert isinstance(wire, ClientProtocol)
    wire.eof_received()
    wire.transport.abort()


class Leaves:
    """A door behind which the client is gone at the await of that number of every request."""

    def __init__(self, gw: Running, when: str) -> None:
        """when: "waits", or "answered": in the very turn in which what it waits for comes, and before it is told"""
        edge = gw.gateway.data.router
        self._when = when
        self.at = 0
        self.awaits = 0
        self._open = edge.open
        edge.open = self.open  # type: ignore[method-assign]  # the one place that every request's coroutine passes

    def open(self, cycle: ClientRequest) -> Coroutine[Any, Any, None] | None:
        found = self._open(cycle)
        return None if found is None else self._watched(found, cycle)

    @types.coroutine
    def _watched(self, request: Coroutine[Any, Any, None], cycle: ClientRequest) -> Generator[Any, Any, None]:
        self.awaits = 0
        go: Callable[[], Any] = lambda: request.send(None)  # noqa: E731
        while True:
            try:
                waits = go()
            except StopIteration:
                return
            self.awaits += 1
            if self.awaits == self.at:
                if self._when == "answered" and isinstance(waits, asyncio.Future):
                    waits.add_done_callback(lambda _: _fin(cycle))
                else:
                    cycle.wire.transport.abort()
            try:
                yield waits
                go = lambda: request.send(None)  # noqa: E731
            except BaseException as error:
                go = functools.partial(request.throw, error)


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "plain"])
@pytest.mark.parametrize("kind", ["memory", "redis", "redis+window"])
@pytest.mark.parametrize("when", ["waits", "answered"])
async def test_who_leaves_at_any_await_keeps_nothing(
    backend: Backend, redis: redis_servers.Server, when: str, kind: str, stream: bool
) -> None:
    """The request is asked for again and again, and is left at its first await, its second ... until it has no more."""

    async def engine(c: Connection, asked: Request) -> None:
        await asyncio.sleep(0.002)
        if not stream:
            await c.send(plain(*((200, b"{}") if backend.attempts % 2 else (500, b"{}"))))
            return
        await c.send(STREAM_HEAD)
        for event in Said(("a", "b")).events():
            await asyncio.sleep(0.002)
            await c.send(chunked(event))
        await c.send(LAST_CHUNK)

    backend.does(engine)
    url = "memory://"
    if kind != "memory":
        redis.start()
        url = redis.url
    limits = slots_and_tokens()
    if kind == "redis+window":
        limits.append({"requests": "1000/hour", "strategy": "moving_window"})
    plan = limited(url, *limits, timeout="5s", on_outage="closed")
    async with gateway_with(backend, policy=plan, route={"retry": {"retries": 1, "backoff": "1ms"}}) as gw:
        door = Leaves(gw, when)
        ended = most = 0
        data = gw.chat_request(stream=stream, max_tokens=RESERVED)
        # The engine fails every other time, so a request may have an await more or fewer than the one before.
        while ended < 4:
            door.at += 1
            async with await gw.connect() as client:
                await client.send(data[:-5])
                await asyncio.sleep(0.003)
                await client.send(data[-5:])
                await gone_or_answered(client)
            await eventually(lambda: gw.gateway.client_requests == 0, "it goes on")
            ended += door.awaits < door.at
            most = max(most, door.awaits)
            await eventually_idle(gw)
        # The body, the store, the engine's head, the end.
        assert most >= (3 if kind == "memory" else 4), most
        _, tokens, output, *_ = await used(gw)
        assert tokens is not None and tokens < RESERVED, tokens
        assert output is not None and output <= 8 * door.at, output
        assert gw.total("client_gone_total") >= door.at - 4


async def gone_or_answered(client: Client) -> None:
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        await client.answer()


@pytest.mark.parametrize("strategy", ["token_bucket", "moving_window"])
@pytest.mark.parametrize("way", ["close", "FIN", "RST"])
async def test_who_leaves_while_redis_is_asked_keeps_nothing(
    backend: Backend, redis: redis_servers.Server, way: str, strategy: str
) -> None:
    redis.start()
    rules: list[dict[str, Any]] = [
        {"concurrency": 5, "per": "all"},
        {"tokens": "100M/month", "strategy": "fixed_window", "per": "all"},
        {"requests": "1000/hour", "strategy": strategy},
    ]
    plan = limited(redis.url, *rules, timeout="5s", on_outage="closed")
    async with gateway_with(backend, policy=plan) as gw:
        await mode(gw, "store", within=10)
        assert (await gw.ask(stream=False, max_tokens=RESERVED)).status == 200
        await eventually_idle(gw)
        before, asked = (await used(gw))[1], backend.attempts
        redis.freeze()
        clients = [await gw.connect() for _ in range(5)]
        for client in clients:
            await client.send(gw.chat_request(max_tokens=RESERVED))
        await eventually(lambda: gw.gateway.client_requests == 5, "they were not taken")
        await asyncio.sleep(0.05)
        for client in clients:
            {"close": client.writer.close, "FIN": client.half_close, "RST": client.reset}[way]()
        await eventually(lambda: gw.gateway.client_requests == 0, "nobody saw them leave")
        redis.thaw()
        await eventually_idle(gw)
        await asyncio.sleep(0.1)
        held, tokens, _ = await used(gw)
        assert (held, tokens) == (0, before)
        assert backend.attempts == asked
        for client in clients:
            client.writer.close()
