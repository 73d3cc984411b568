"""The real gateway, in this process, in front of scripted backends: real sockets, a generated policy file, no patches.

async with gateway_with(backend.answers(503)) as gw:
    answer = await gw.chat("hi")
# on leaving: nothing in flight, no task, descriptor or connection left, and the counters agree
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import json
import os
import resource
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Here first: the openai SDK would look into an httpx that the gateway in this process is just importing in a thread.
import httpx  # noqa: F401
from prometheus_client.parser import text_string_to_metric_families

from backends.identity.keyfile import change_keys
from gateway.process.app import Gateway
from policies.identity.api_keys import KeyEntry, digest, new_key
from tests.fakes.backend import Backend
from tests.fakes.client import Answer, Client, request
from tests.pace import Watch

CHAT = "/v1/chat/completions"
# (name without prefix, labels) -> value
Series = dict[tuple[str, frozenset[tuple[str, str]]], float]
Pools = Mapping[str, Sequence[Backend | str]]


@dataclass(slots=True)
class Running:
    """A gateway that runs, and a client's ways of meeting it."""

    gateway: Gateway
    folder: Path
    backends: list[Backend]
    key: str
    lost: list[str] = field(default_factory=list)
    """What the loop's exception handler was told."""

    # -- a client's side

    async def connect(self, **options: Any) -> Client:
        """A fresh connection."""
        return await Client.to(self.gateway.address, **options)

    def chat_request(self, text: str = "hi", *, headers: list[tuple[str, str]] | None = None, **fields: Any) -> bytes:
        """The bytes of a chat request; streamed unless `stream=False`."""
        body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": text}], **fields}
        return self.request("POST", CHAT, json.dumps(body).encode(), headers)

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: list[tuple[str, str]] | None = None
    ) -> bytes:
        """The bytes of a request with the key in it."""
        pairs = [("content-type", "application/json"), *(headers or [])]
        if not any(name.lower() == "authorization" for name, _ in pairs):
            pairs.append(("authorization", f"Bearer {self.key}"))
        return request(method, path, body, pairs)

    async def send(self, data: bytes, *, method: str = "POST") -> Answer:
        """The answer to these bytes on a connection of their own."""
        async with await self.connect() as client:
            await client.send(data)
            return await client.answer(method=method)

    async def ask(self, text: str = "hi", **fields: Any) -> Answer:
        """The answer to a chat request, streamed unless `stream=False`."""
        return await self.send(self.chat_request(text, **fields))

    async def chat(self, text: str = "hi", **fields: Any) -> str:
        """What the model says."""
        answer = await self.ask(text, **fields)
        assert (answer.status, answer.end) == (200, "complete"), answer
        return answer.text

    async def post(self, path: str, body: Any, headers: list[tuple[str, str]] | None = None) -> Answer:
        """The answer to a JSON body."""
        return await self.send(self.request("POST", path, json.dumps(body).encode(), headers))

    # -- what the gateway says of itself

    def series(self) -> Series:
        """Every line of /metrics."""
        text = self.gateway.metrics.render()[0].decode()
        samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
        return {(s.name.removeprefix("sluice_"), frozenset(s.labels.items())): s.value for s in samples}

    def total(self, name: str, **labels: str) -> float:
        """The sum of a metric over all series that have these labels."""
        return total(self.series(), name, **labels)

    async def access_lines(self, count: int | None = None) -> list[dict[str, Any]]:
        """The access log so far; waits until it has as many lines as requests were counted (or `count`)."""
        wanted = self.total("requests_total") if count is None else count
        path = self.folder / "access.log"

        def read() -> list[dict[str, Any]]:
            # What is being written just now has no end yet.
            whole = path.read_text().rpartition("\n")[0] if path.exists() else ""
            return [json.loads(line) for line in whole.splitlines()]

        await eventually(lambda: len(read()) >= wanted, "the access log never had its lines")
        return read()

    def log_text(self) -> str:
        """What the gateway had to say so far; a thread of its own writes it."""
        end = time.monotonic() + 10.0
        while not self.gateway.logs.own.idle and time.monotonic() < end:
            time.sleep(0.001)
        path = self.folder / "sluice.log"
        return path.read_text() if path.exists() else ""


def total(series: Series, name: str, **labels: str) -> float:
    """The sum of a metric over all series that have these labels."""
    wanted = frozenset(labels.items())
    return sum(value for (each, pairs), value in series.items() if each == name and wanted <= pairs)


async def assert_quiet(gw: Running) -> None:
    """Invariants after every fault: nothing in flight, no upstream connection in use, and the counters equal the
    log's lines."""
    plane, metrics = gw.gateway.plane, gw.gateway.metrics
    await eventually(lambda: gw.gateway.client_requests == 0, "a request is still being answered")
    await eventually(lambda: plane.in_flight == 0, "an attempt is still in flight")
    await eventually(lambda: plane.active_connections == 0, "an upstream connection is still in use")
    doors = gw.gateway.data.admission.queues.values()
    await eventually(lambda: all(not door.queue.taken for door in doors), "a slot of a pool is still held")
    await eventually(lambda: not gw.gateway.data.cache.shareable, "an answer is still on its way to others")
    lines = await gw.access_lines()
    series = gw.series()
    assert total(series, "queue_depth") == 0
    assert total(series, "endpoint_in_flight") == 0
    assert metrics.open_streams.value == 0
    assert total(series, "requests_total") == len(lines)
    assert total(series, "attempts_total") == sum(line["attempts"] for line in lines)
    assert total(series, "client_gone_total") == sum(line["client_gone"] is not None for line in lines)
    for status, count in Counter(line["status"] for line in lines).items():
        assert total(series, "requests_total", code=str(status)) == count
    for metric, label, told in (("cache_total", "result", "cache"), ("fallbacks_total", "kind", "degraded")):
        words = Counter(line[told] for line in lines if line[told] is not None)
        assert {word: total(series, metric, **{label: word}) for word in words} == words, metric
        assert total(series, metric) == words.total(), metric
    trails = [line["trail"] for line in lines]
    assert [len(trail) for trail in trails] == [line["attempts"] for line in lines]
    settled = Counter((endpoint, outcome) for trail in trails for endpoint, outcome, _ in trail)
    for (endpoint, outcome), count in settled.items():
        assert total(series, "attempts_total", endpoint=endpoint, outcome=outcome) == count, (endpoint, outcome)
    assert [line["outcome"] for line in lines] == [trail[-1][1] if trail else None for trail in trails]
    assert [line["endpoint"] for line in lines] == [trail[-1][0] if trail else None for trail in trails]
    # Some retries were decided, and then the client left, the deadline passed or nobody was there any more.
    ended = ("no_endpoint_available", "deadline_exceeded")
    vain = sum(line["client_gone"] == "retry" or line["code"] in ended for line in lines)
    retried = total(series, "retries_total") - sum(len(trail) - 1 for trail in trails if trail) + _falls(gw, trails)
    retried += total(series, "hedges_total")
    assert 0 <= retried <= vain, (retried, vain)
    assert_one_state_each(series)
    gc.collect()
    assert gw.lost == []
    assert "Traceback" not in gw.log_text(), gw.log_text()


def _falls(gw: Running, trails: list[list[Any]]) -> int:
    """Attempts that follow one at another pool: they are a fallback's first, and no retries."""
    view = gw.gateway.plane.view
    assert view is not None
    pools = {name: pool for pool, spec in view.table.pools.items() for name in spec.known}
    # One that has left the table is nobody's any more.
    pairs = ((pools.get(a[0]), pools.get(b[0])) for trail in trails for a, b in itertools.pairwise(trail))
    return sum(None not in pair and pair[0] != pair[1] for pair in pairs)


def assert_one_state_each(series: Series) -> None:
    """Every endpoint, and every breaker, is in one state; a worker that is in no table has no breaker yet."""
    for metric in ("endpoint_state", "breaker_state"):
        states: Counter[tuple[str, str]] = Counter()
        for (name, pairs), value in series.items():
            if name == metric:
                labels = dict(pairs)
                states[labels["pool"], labels["endpoint"]] += int(value)
        assert set(states.values()) <= ({1} if metric == "endpoint_state" else {0, 1}), (metric, states)


@contextlib.asynccontextmanager
async def gateway_with(
    *backends: Backend | str,
    pools: Pools | None = None,
    policy: Mapping[str, Any] | None = None,
    route: Mapping[str, Any] | None = None,
    endpoint: Mapping[str, Any] | None = None,
    quiet: bool = True,
) -> AsyncIterator[Running]:
    """A gateway in front of these backends (or base URLs), as endpoints `pool-0`, `pool-1` ... of one pool `pool`.

    `policy` is merged into the generated policy, `route` into its one route, `endpoint` into each endpoint. On leaving,
    `assert_quiet` and the process's tasks and descriptors are checked, unless not `quiet`.
    """
    before = Footprint.now()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        listed = dict(pools) if pools is not None else {"pool": list(backends)}
        document = merged(_document(listed, dict(route or {}), dict(endpoint or {})), policy or {})
        path = folder / "policy.yaml"
        path.write_text(json.dumps(document))
        key = _key(folder)
        used = [each for pool in listed.values() for each in pool if isinstance(each, Backend)]
        with _lost_exceptions() as lost:
            async with Gateway(path) as gateway:
                gw = Running(gateway, folder, used, key, lost)
                yield gw
                if quiet:
                    await assert_quiet(gw)
            if quiet:
                await before.restored(used)


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a process holds: its tasks and its descriptors."""

    tasks: frozenset[asyncio.Task[Any]]
    descriptors: int

    @classmethod
    def now(cls) -> Footprint:
        return cls(frozenset(asyncio.all_tasks()), len(_descriptors()))

    async def restored(self, backends: list[Backend]) -> None:
        """Wait until nothing is held that was not held then, the backends' own scripts and sockets left out."""

        def scripts() -> set[asyncio.Task[Any]]:
            return {task for backend in backends for task in backend.tasks}

        names = Counter(task.get_name() for task in self.tasks)

        def tasks() -> Counter[str]:
            # By name: the probes of an endpoint that was replaced by another of its name are another task. Tasks that
            # nobody names have a number that comes once.
            return Counter(task.get_name() for task in asyncio.all_tasks() - scripts()) - names

        def descriptors() -> int:
            held = sum(not c.transport.is_closing() for backend in backends for c in backend.accepted)
            return len(_descriptors()) - held

        await eventually(lambda: not tasks(), lambda: f"tasks are left: {tasks()}")
        await eventually(
            lambda: descriptors() <= self.descriptors,
            lambda: f"{descriptors()} descriptors are open, {self.descriptors} were: {_descriptors()}",
        )


async def eventually(true: Callable[[], bool], else_: str | Callable[[], str], timeout: float = 10.0) -> None:
    """Wait until something is true that no event tells of; AssertionError after `timeout` seconds.

    Seconds in which this process had no processor do not count.
    """
    watch = Watch()
    while not true():
        if watch.seconds > timeout and watch.own > timeout:
            raise AssertionError(else_ if isinstance(else_, str) else else_())
        await asyncio.sleep(0.005)


def resident() -> int:
    """Bytes of memory that this process has."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def merged(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """A dict with another one laid over it, dicts in dicts too; `...` takes a key out."""
    out = {name: value for name, value in base.items() if over.get(name) is not ...}
    for name, value in over.items():
        if value is ...:
            continue
        inner = out.get(name)
        out[name] = merged(inner, value) if isinstance(inner, dict) and isinstance(value, Mapping) else value
    return out


def _document(pools: Pools, route: dict[str, Any], endpoint: dict[str, Any]) -> dict[str, Any]:
    def url(backend: Backend | str) -> str:
        return backend if isinstance(backend, str) else backend.url

    return {
        "version": 1,
        "server": {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0"},
        "auth": {"api_keys": {"file": "keys.yaml"}},
        "plans": {"test": {}},
        "pools": {
            name: {"engine": "vllm", "endpoints": [{"url": url(one), **endpoint} for one in backends]}
            for name, backends in pools.items()
        },
        "routes": [{"model": "m", "pool": next(iter(pools)), **route}],
        "observe": {"access_log": {"path": "access.log"}, "log": {"path": "sluice.log"}},
    }


def _key(folder: Path) -> str:
    """A key of tenant `acme` with the plan `test`, written where the policy looks for it."""
    key = new_key()
    entry = KeyEntry(id="k1", sha256=digest(key), tenant="acme", plan="test", created=1_763_650_057.0)
    change_keys(folder / "keys.yaml", lambda _: [entry])
    return key


@contextlib.contextmanager
def _lost_exceptions() -> Iterator[list[str]]:
    """What asyncio would otherwise only print: exceptions that nobody retrieved, and those of callbacks."""
    loop = asyncio.get_running_loop()
    lost: list[str] = []
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: lost.append(f"{context['message']}: {context.get('exception')!r}"))
    yield lost
    gc.collect()
    loop.set_exception_handler(before)
    assert lost == []


def _descriptors() -> list[str]:
    """What is open, save libuv's one reserve for the day on which descriptors run out."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.append(f"{number} -> {os.readlink(f'/proc/self/fd/{number}')}")
    return [each for each in found if not each.endswith("/dev/null")]
