"""FAULTS rows 54, 55, 58, 59, 60 and points 2 and 3 of issue 4 through the whole gateway: limits while Redis is away,
while clients leave, and while gateways are killed."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import signal
import statistics
import time
import types
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator
from pathlib import Path
from random import Random, SystemRandom
from typing import Any

import pytest

from backends.store.base import LEASE_LIFETIME
from gateway.client import ClientCycle
from gateway.protocol import ClientProtocol
from tests.fakes import redis_servers
from tests.fakes.backend import LAST_CHUNK, STREAM_HEAD, Backend, Connection, Request, Said, chunked, plain
from tests.fakes.client import Client, request
from tests.flow.harness import CHAT, Running, eventually, gateway_with
from tests.gateway.served import Served, policy, serving

Outages = ("local", "open", "closed")
AWAY = {"local": 200, "open": 200, "closed": 503}


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[redis_servers.Server]:
    """One that is not started yet."""
    one = redis_servers.Server(tmp_path / "redis")
    try:
        yield one
    finally:
        one.stop()


@pytest.fixture
async def backend() -> AsyncIterator[Backend]:
    async with Backend() as backend:
        yield backend.answers(200, b"{}")


def limited(url: str, *limits: dict[str, Any], **store: Any) -> dict[str, Any]:
    return {"store": {"url": url, **store}, "plans": {"test": {"limits": list(limits)}}}


async def mode(gw: Running, state: str, within: float) -> float:
    """Seconds until the metric says that limits are in this state, and no other."""
    began = time.monotonic()
    await eventually(lambda: gw.total("limit_mode", state=state) == 1, f"never {state}", timeout=within)
    assert gw.total("limit_mode") == 1
    return time.monotonic() - began


def said(gw: Running, event: str) -> int:
    return sum(f" {event} " in line for line in gw.log_text().splitlines())


async def used(gw: Running) -> list[int | None]:
    usage = (await gw.send(gw.request("GET", "/v1/usage"), method="GET")).json
    return [limit["used"] for limit in usage["limits"]]


async def settled(gw: Running, wanted: list[int]) -> None:
    """Wait until every limit is used as much as that."""
    found: list[int | None] = []
    for _ in range(100):
        found = await used(gw)
        if found == wanted:
            return
        await asyncio.sleep(0.03)
    raise AssertionError(f"used {found}, not {wanted}")


# -- Redis is absent, dies, freezes


@pytest.mark.parametrize("word", Outages)
async def test_a_gateway_starts_without_redis_and_finds_it_within_two_seconds(
    backend: Backend, redis: redis_servers.Server, word: str
) -> None:
    rules = {"requests": "2/hour", "per": "all"}
    began = time.monotonic()
    async with gateway_with(backend, policy=limited(redis.url, rules, on_outage=word)) as gw:
        assert time.monotonic() - began < 2.0
        await mode(gw, word, within=1.0)
        answers = [await gw.ask(stream=False) for _ in range(4)]
        statuses = [answer.status for answer in answers]
        assert statuses == {"local": [200, 200, 429, 429], "open": [200] * 4, "closed": [503] * 4}[word]
        if word == "closed":
            assert {answer.error["code"] for answer in answers} == {"store_unavailable"}
            assert {answer.header("retry-after") for answer in answers} == {"1"}
            assert backend.attempts == 0
        # Longer than several probes: no change, so nothing is said.
        await asyncio.sleep(0.8)
        assert (said(gw, "store_lost"), said(gw, "store_back")) == (1, 0), gw.log_text()
        await asyncio.to_thread(redis.start)
        assert await mode(gw, "store", within=3.0) < 2.0
        assert [(await gw.ask(stream=False)).status for _ in range(3)] == [200, 200, 429]
        assert (said(gw, "store_lost"), said(gw, "store_back")) == (1, 1), gw.log_text()
        assert gw.total("store_errors_total") > 0


class Load:
    """Clients that ask all the time, and how long each took."""

    def __init__(self, gw: Running, clients: int) -> None:
        self.asked: list[tuple[float, float, int]] = []
        """(began, seconds, status)"""
        self._gw = gw
        self._ends = asyncio.Event()
        self._clients = clients

    async def __aenter__(self) -> Load:
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._client(), name=f"load {n}") for n in range(self._clients)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._ends.set()
        await asyncio.gather(*self._tasks)

    def since(self, began: float, until: float = float("inf")) -> list[tuple[float, int]]:
        return [(seconds, status) for at, seconds, status in self.asked if began <= at < until]

    async def more(self, count: int) -> None:
        wanted = len(self.asked) + count
        await eventually(lambda: len(self.asked) >= wanted, "no load", timeout=15)

    async def _client(self) -> None:
        async with await self._gw.connect() as client:
            while not self._ends.is_set():
                began = time.monotonic()
                await client.send(self._gw.chat_request(stream=False))
                answer = await client.answer()
                self.asked.append((began, time.monotonic() - began, answer.status))
                await asyncio.sleep(0.005)


TIMEOUT = 0.2
CLIENTS = 6


@pytest.mark.parametrize("word", Outages)
@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_redis_goes_under_load(backend: Backend, redis: redis_servers.Server, how: str, word: str) -> None:
    redis.start()
    rules: list[dict[str, Any]] = [
        {"requests": "1000000/minute"},
        {"concurrency": 1000},
        {"requests": "1000000/hour", "per": "all"},
    ]
    outage = limited(redis.url, *rules, on_outage=word, timeout=f"{TIMEOUT * 1000:.0f}ms")
    async with gateway_with(backend, policy=outage) as gw, Load(gw, CLIENTS) as load:
        await load.more(100)
        whole = {status for _, _, status in load.asked}
        assert whole == {200}
        (redis.freeze if how == "frozen" else redis.stop)()
        gone = time.monotonic()
        await mode(gw, word, within=2.0)
        known = time.monotonic()
        await load.more(200)
        await asyncio.sleep(0.6)
        again = time.monotonic()
        # Those that were asking when it went, and those that began before it was known.
        during = load.since(gone - TIMEOUT, known + 0.01)
        after = load.since(known + 0.01, again - TIMEOUT)
        waited = [seconds for seconds, _ in load.since(gone - TIMEOUT) if seconds > 0.8 * TIMEOUT]
        assert len(waited) <= (2 * CLIENTS if how == "frozen" else 0), waited
        assert max(seconds for seconds, _ in during) < 2 * TIMEOUT
        assert statistics.median(seconds for seconds, _ in after) < 0.25 * TIMEOUT
        assert {status for _, status in after} == {AWAY[word]}
        assert {status for _, status in during} <= {200, AWAY[word]}
        if how == "frozen":
            redis.thaw()
        else:
            await asyncio.to_thread(redis.start)
        assert await mode(gw, "store", within=3.0) < 2.0
        back = time.monotonic()
        await load.more(100)
        assert {status for _, status in load.since(back)} == {200}
        assert (said(gw, "store_lost"), said(gw, "store_back")) == (1, 1), gw.log_text()


# -- clients leave


def leave(rng: Random, client: Client) -> None:
    """In one of three ways."""
    rng.choice((client.writer.close, client.half_close, client.reset))()


RESERVED = 50_000


def slots_and_tokens() -> list[dict[str, Any]]:
    # No window ends and no bucket refills meanwhile: whatever is not given back is seen.
    return [
        {"concurrency": 1000, "per": "all"},
        {"tokens": "100M/month", "strategy": "fixed_window", "per": "all"},
        {"output_tokens": "100M/month", "strategy": "fixed_window", "per": "key"},
    ]


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
        await eventually(lambda: gw.gateway.client_requests == 0, "a request goes on", timeout=10)
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


def _fin(cycle: ClientCycle) -> None:
    """What the loop calls when the client's FIN has come, and the end of the connection."""
    wire = cycle.wire
    assert isinstance(wire, ClientProtocol)
    wire.eof_received()
    wire.transport.abort()


class Leaves:
    """A door behind which the client is gone at the await of that number of every request."""

    def __init__(self, gw: Running, when: str) -> None:
        """when: "waits", or "answered": in the very turn in which what it waits for comes, and before it is told"""
        edge = gw.gateway._edge
        self._when = when
        self.at = 0
        self.awaits = 0
        self._open = edge.open
        edge.open = self.open  # type: ignore[method-assign]  # the one place that every request's coroutine passes

    def open(self, cycle: ClientCycle) -> Coroutine[Any, Any, None] | None:
        found = self._open(cycle)
        return None if found is None else self._watched(found, cycle)

    @types.coroutine
    def _watched(self, request: Coroutine[Any, Any, None], cycle: ClientCycle) -> Generator[Any, Any, None]:
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


async def eventually_idle(gw: Running) -> None:
    for _ in range(100):
        if (await used(gw))[0] == 0:
            return
        await asyncio.sleep(0.03)
    raise AssertionError(f"slots are held: {await used(gw)}")


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
        await mode(gw, "store", within=2)
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


# -- several gateways


async def test_two_gateways_on_one_redis_admit_exactly_the_limit(backend: Backend, redis: redis_servers.Server) -> None:
    redis.start()
    rules: list[dict[str, Any]] = [
        {"requests": "50/day", "per": "tenant"},
        {"concurrency": 1000},
        {"requests": "1000/hour"},
    ]
    plan = limited(redis.url, *rules, timeout="5s", on_outage="closed")
    async with gateway_with(backend, policy=plan, quiet=False) as one:
        async with gateway_with(backend, policy=plan, quiet=False) as other:
            gateways = (one, other)
            asked = [gateways[number % 2].ask(stream=False) for number in range(200)]
            statuses = Counter([answer.status for answer in await asyncio.gather(*asked)])
            assert statuses == {200: 50, 429: 150}
            assert backend.attempts == 50
            # Who was refused took nothing of the other rules.
            await settled(one, [50, 0, 50])
            await settled(other, [50, 0, 50])


def anybody(folder: Path, backend: Backend, store: dict[str, str], *limits: dict[str, Any]) -> Path:
    """The policy file of a real process."""
    folder.mkdir()
    return policy(
        folder, auth={"anonymous": "test"}, plans={"test": {"limits": list(limits)}}, store=store,
        pools={"pool": {"engine": "vllm", "endpoints": [{"url": backend.url}]}},
    )  # fmt: skip


async def ready(served: Served) -> str:
    host, port = await asyncio.to_thread(served.ready)
    return f"{host}:{port}"


def chat(stream: bool) -> bytes:
    body = {"model": "m", "stream": stream, "messages": [{"role": "user", "content": "hi"}]}
    return request("POST", CHAT, json.dumps(body).encode(), [("content-type", "application/json")])


async def status(address: str, *, stream: bool = False) -> int:
    async with await Client.to(address) as client:
        await client.send(chat(stream))
        return (await client.answer()).status


def leases(redis: redis_servers.Server, bucket: str) -> dict[str, float]:
    """Who holds a slot, and until when; seconds of the server's clock."""
    found = redis.ask("ZRANGE", bucket, 0, -1, "WITHSCORES")
    return {lease: float(end) / 1e6 for lease, end in zip(found[::2], found[1::2], strict=True)}


def clock(redis: redis_servers.Server) -> float:
    """The server's."""
    seconds, micros = map(int, redis.ask("TIME"))
    return seconds + micros / 1e6


async def test_slots_of_a_gateway_that_was_killed_come_back(
    backend: Backend, redis: redis_servers.Server, tmp_path: Path
) -> None:
    redis.start()
    path = anybody(tmp_path / "p", backend, {"url": redis.url, "timeout": "5s"}, {"concurrency": 3, "per": "all"})
    with serving(path) as killed, serving(path) as other:
        first, second = await ready(killed), await ready(other)
        backend.streams("a", "b", hold=2)
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(3):
                client = await stack.enter_async_context(await Client.to(first))
                await client.send(chat(True))
                await client.until(b'"a"')
            backend.answers(200, b"{}")
            assert await status(second) == 429
            os.kill(killed.process.pid, signal.SIGKILL)
            await asyncio.to_thread(killed.process.wait, 5)
            assert await status(second) == 429
            (bucket,) = [key for key in redis.ask("KEYS", "*") if redis.ask("TYPE", key) == "zset" and "|" in key]
            held, now = leases(redis, bucket), clock(redis)
            assert len(held) == 3
            # They end a lifetime after they were taken or renewed, and whoever did that is dead.
            assert all(now < end <= now + LEASE_LIFETIME for end in held.values()), (held, now)
            # The same as waiting until a second before the first one's end, for all but the one who waits.
            skipped = min(held.values()) - clock(redis) - 1.0
            for lease, end in held.items():
                redis.ask("ZADD", bucket, "XX", f"{(end - skipped) * 1e6:.0f}", lease)
            moved = leases(redis, bucket)
            end = min(moved.values())
            while True:
                before = clock(redis)
                code = await status(second)
                if code == 200:
                    break
                # Whatever this machine does meanwhile: no request is refused that began after the end ...
                assert code == 429 and before <= end, (code, before, end)
                assert leases(redis, bucket) == moved, "nobody renews what a dead gateway held"
            # ... and none is let in before.
            assert clock(redis) > end
            await eventually(lambda: clock(redis) > max(moved.values()), "its clock stands still", timeout=20)
            statuses = await asyncio.gather(*(status(second) for _ in range(3)))
            assert statuses == [200] * 3
            # Nothing stays for ever.
            assert all(milliseconds > 0 for milliseconds in redis_servers.keys([redis]).values())


# -- FAULTS row 59

JUMPY = """
import os, time
_real = time.time
def _jumped():
    try:
        with open(os.environ['SLUICE_TEST_JUMP']) as file:
            by = file.read() or '0'
    except FileNotFoundError:
        by = '0'
    if by != '0':
        with open(os.environ['SLUICE_TEST_JUMP'] + '.seen', 'w') as file:
            file.write(by)
    return _real() + float(by)
time.time = _jumped
"""


BUCKETS: dict[str, list[dict[str, Any]]] = {
    "token_bucket": [{"requests": "5/day"}],
    "fixed_window": [{"requests": "5/month", "strategy": "fixed_window"}],
    "sliding_window": [{"requests": "5/day", "strategy": "sliding_window"}],
    "moving_window": [{"requests": "5/day", "strategy": "moving_window"}],
}
# The library goes by the gateway's clock there, and says so: backends/store/windows.py.
BY_WALL_CLOCK = pytest.mark.xfail(strict=True, reason="moving windows on Redis have the gateways' times")


@pytest.mark.parametrize(
    ("kind", "strategy"),
    [
        *(("memory", strategy) for strategy in BUCKETS),
        *(("redis", strategy) for strategy in BUCKETS if strategy != "moving_window"),
        pytest.param("redis", "moving_window", marks=BY_WALL_CLOCK),
    ],
)
async def test_the_gateways_clock_jumps_and_no_limit_notices(
    backend: Backend, redis: redis_servers.Server, tmp_path: Path, kind: str, strategy: str
) -> None:
    """A real process whose `time.time` (all that Python code has of the wall clock here) is moved under it."""
    if kind == "redis":
        redis.start()
    library, jump = tmp_path / "library", tmp_path / "jump"
    library.mkdir()
    (library / "sitecustomize.py").write_text(JUMPY)
    store = {"url": redis.url if kind == "redis" else "memory://", "timeout": "5s", "on_outage": "closed"}
    path = anybody(tmp_path / "p", backend, store, {"concurrency": 2, "per": "all"}, *BUCKETS[strategy])
    with serving(path, PYTHONPATH=str(library), SLUICE_TEST_JUMP=str(jump)) as served:
        address = await ready(served)
        backend.streams("a", "b", hold=2)
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(2):
                client = await stack.enter_async_context(await Client.to(address))
                await client.send(chat(True))
                await client.until(b'"a"')
            for by in JUMPS:
                jump.write_text(by)
                # Nobody's slot has ended.
                assert await refusal(address) == "concurrency_limit_exceeded"
        backend.answers(200, b"{}")
        async with asyncio.timeout(5):
            while (code := await refusal(address)) not in USED_UP:
                assert code in (None, "concurrency_limit_exceeded")
        assert backend.attempts == 5
        # A day that did not pass gives nothing back, and one that came back takes nothing.
        for by in JUMPS:
            jump.write_text(by)
            assert await refusal(address) in USED_UP, by
        assert backend.attempts == 5
        jump.write_text("7")
        seen = Path(f"{jump}.seen")
        await refusal(address)
        await eventually(lambda: seen.exists() and seen.read_text() == "7", "the process never sees a jump")


USED_UP = ("rate_limit_exceeded", "insufficient_quota")
JUMPS = ("3600", "-3600", "86401", "-86401", "0")


async def refusal(address: str) -> str | None:
    """The code with which a request is refused; None where it is not."""
    async with await Client.to(address) as client:
        await client.send(chat(False))
        answer = await client.answer()
        return None if answer.status == 200 else answer.error["code"]
