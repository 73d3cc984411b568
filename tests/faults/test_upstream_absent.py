"""Faults 1, 2, 5, 28, 29 and 30: nobody is there, or somebody who hangs up before a word. The client hears of it
only when nobody else is left."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from tests.fakes.backend import Backend
from tests.fakes.certificates import Authority
from tests.fakes.listeners import full_backlog, refusing, silent
from tests.faults.scenes import TICK, ask_first_at, dies, pool, route, state, steps, trails
from tests.flow.harness import Running, gateway_with
from tests.pace import Watch

EJECTS = {"consecutive": 3, "for": "30s"}
FILES = {"path": "/files/*", "methods": ["GET", "HEAD", "PUT", "DELETE"], "pool": "pool"}


async def fails_until(gw: Running, metric: str, wanted: str) -> None:
    """20 requests, all answered well, during which `pool-0` fails 3 times, and not once more."""
    for _ in range(20):
        assert (await gw.ask(stream=False)).status == 200
    tried = [trail for trail in await trails(gw) if trail[0][0] == "pool-0"]
    assert len(tried) == 3
    assert all(trail[1:] == [("pool-1", "ok")] for trail in tried)
    assert state(gw, "pool-0", metric) == wanted


# -- rows 1 and 29: nobody there; what a resolver does that fails or hangs is told in
# tests/backends/http1/test_resolver.py

# A label may have 63 characters: this name has no address, and no DNS is asked for it.
NAMELESS = f"http://{'a' * 64}.test"


@contextmanager
def nobody(how: str) -> Iterator[str]:
    """The base URL of an endpoint where nobody is, or whose name has no address."""
    with refusing() as port:
        yield f"http://127.0.0.1:{port}" if how == "refused" else NAMELESS


async def test_an_ejected_one_is_asked_before_a_client_hears_that_nobody_is_there(backend: Backend) -> None:
    backend.answers(500).then.answers(500).then.answers(500).then.answers(200, b"{}")
    with refusing() as port:
        settings = pool(ejection={"consecutive": 3, "for": "30s", "when": [500]})
        async with gateway_with(f"http://127.0.0.1:{port}", backend, policy=settings, route=route()) as gw:
            assert [(await gw.ask(stream=False)).status for _ in range(3)] == [500, 500, 500]
            assert state(gw, "pool-1") == "ejected"
            answer = await gw.ask(stream=False)
            assert (answer.status, answer.header("x-sluice-attempts")) == (200, "2")
            assert steps((await gw.access_lines())[-1]) == [("pool-0", "not_sent"), ("pool-1", "ok")]


@pytest.mark.parametrize("how", ["refused", "nameless"])
@pytest.mark.parametrize("method", ["POST", "GET", "PUT", "DELETE"])
async def test_who_is_not_there_is_left_for_another_at_once_whatever_the_method(
    backend: Backend, method: str, how: str
) -> None:
    with nobody(how) as url:
        policy = {**pool(), "routes": [{"model": "m", "pool": "pool", **route()}, {**FILES, **route()}]}
        async with gateway_with(url, backend, policy=policy) as gw:
            data = None if method == "POST" else gw.request(method, "/files/a", b"{}" if method == "PUT" else None)
            watch = Watch()
            answer, line = await ask_first_at(gw, "pool-0", data=data, stream=False)
            assert (answer.status, answer.header("x-sluice-attempts")) == (200, "2")
            assert answer.header("x-sluice-endpoint") == "pool-1"
            assert answer.header("x-should-retry") is None
            assert steps(line) == [("pool-0", "not_sent"), ("pool-1", "ok")]
            assert (line["attempts"], line["outcome"], line["endpoint"]) == (2, "ok", "pool-1")
            assert line["ms"] < 100 + 1000 * watch.waited
            assert gw.total("retries_total", pool="pool", reason="not_sent") == 1


@pytest.mark.parametrize("how", ["refused", "nameless"])
@pytest.mark.parametrize("endpoints", [1, 3])
async def test_when_nobody_is_there_at_all_the_answer_is_503_at_once(endpoints: int, how: str) -> None:
    with nobody(how) as url:
        urls = [f"{url}/{number}" for number in range(endpoints)]
        async with gateway_with(*urls, policy=pool(), route=route(retry={"backoff": "5s", "max": "5s"})) as gw:
            answers = [await gw.ask(stream=False) for _ in range(3)]
            answer = answers[-1]
            assert (answer.status, answer.error["code"]) == (503, "no_endpoint_available")
            assert int(answer.header("retry-after") or 0) >= 1
            assert answer.header("x-sluice-attempts") == str(endpoints)
            assert "127.0.0.1" not in str(answer.headers) + str(answer.error)
            lines = await gw.access_lines()
            assert min(line["ms"] for line in lines) < 50
            # Nobody is asked twice who was not there a moment ago.
            assert sorted(steps(lines[-1])) == [(f"pool-{number}", "not_sent") for number in range(endpoints)]


@pytest.mark.parametrize(
    ("settings", "metric", "wanted"),
    [
        ({"ejection": EJECTS}, "endpoint_state", "ejected"),
        ({"breaker": {"failures": 3, "open_for": "30s"}}, "breaker_state", "open"),
    ],
    ids=["ejection", "breaker"],
)
@pytest.mark.parametrize("how", ["refused", "rst", "fin"])
async def test_who_is_never_there_is_soon_not_asked_any_more(
    backend: Backend, other: Backend, how: str, settings: dict[str, object], metric: str, wanted: str
) -> None:
    with refusing() as port:
        backend.does(dies(how))
        first = f"http://127.0.0.1:{port}" if how == "refused" else backend
        async with gateway_with(first, other, policy=pool(**settings), route=route()) as gw:
            await fails_until(gw, metric, wanted)


# -- rows 2 and 5


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "plain"])
@pytest.mark.parametrize("how", ["rst", "fin"])
async def test_a_connection_that_dies_before_the_head_is_repeated_elsewhere(
    backend: Backend, other: Backend, how: str, stream: bool
) -> None:
    backend.does(dies(how))
    other.streams("a", "b") if stream else other.answers(200, b"{}")
    async with gateway_with(backend, other, policy=pool(), route=route()) as gw:
        answer, line = await ask_first_at(gw, "pool-0", stream=stream)
        assert (answer.status, answer.end) == (200, "complete")
        assert answer.text == "ab" if stream else answer.json == {}
        assert steps(line) == [("pool-0", "no_answer"), ("pool-1", "ok")]
        assert backend.attempts == 1


@pytest.mark.parametrize("how", ["rst", "fin"])
async def test_a_route_that_does_not_list_no_answer_says_502_and_asks_once(
    backend: Backend, other: Backend, how: str
) -> None:
    """Its engine acts on the world: what was sent may have been done."""
    backend.does(dies(how))
    other.does(dies(how))
    rule = route(retry={"when": ["not_sent", 503]})
    async with gateway_with(backend, other, policy=pool(), route=rule) as gw:
        answer = await gw.ask(stream=False)
        assert (answer.status, answer.error["code"]) == (502, "upstream_error")
        assert answer.header("x-sluice-attempts") == "1"
        assert answer.header("x-should-retry") is None
        assert backend.attempts + other.attempts == 1


@pytest.mark.parametrize("how", ["rst", "fin"])
async def test_when_the_attempts_are_spent_it_is_502_and_the_client_need_not_try(
    backend: Backend, other: Backend, how: str
) -> None:
    backend.does(dies(how))
    other.does(dies(how))
    async with gateway_with(backend, other, policy=pool(), route=route(retry={"retries": 3})) as gw:
        answer = await gw.ask()
        assert (answer.status, answer.error["code"]) == (502, "upstream_error")
        assert answer.header("x-sluice-attempts") == "4"
        assert answer.header("x-should-retry") == "false"
        assert (backend.attempts, other.attempts) == (2, 2)
        ((first, second, _, _),) = await trails(gw)
        # The one that has just failed comes after the one that has not been asked.
        assert first[0] != second[0]


@pytest.mark.parametrize("how", ["rst", "fin"])
async def test_a_kept_connection_that_dies_unheard_counts_for_nothing(backend: Backend, how: str) -> None:
    """Row 3, beside all that could punish it: the repeat is free, and nobody is to blame for a race."""
    backend.answers(200, b"1").then.does(dies(how)).then.answers(200, b"2")
    settings = {"ejection": {"consecutive": 1}, "breaker": {"failures": 1}}
    rule = route(retry={"retries": 0, "floor": 0, "budget": 0})
    async with gateway_with(backend, policy=pool(**settings), route=rule) as gw:
        assert (await gw.ask(stream=False)).body == b"1"
        answer = await gw.ask(stream=False)
        assert (answer.body, answer.header("x-sluice-attempts")) == (b"2", "1")
        assert await trails(gw) == [[("pool-0", "ok")], [("pool-0", "ok")]]
        assert state(gw, "pool-0", "breaker_state") == "closed"
        assert gw.total("retries_total") == gw.total("ejections_total") == 0


# -- rows 28 and 30


@asynccontextmanager
async def hole(kind: str, folder: Path) -> AsyncIterator[str]:
    """The base URL of an endpoint that lets nobody in."""
    if kind == "backlog":
        with full_backlog() as port:
            yield f"http://127.0.0.1:{port}"
    elif kind == "handshake":
        async with silent() as port:
            yield f"https://127.0.0.1:{port}"
    else:
        async with Backend(tls=Authority(folder).server(expired=True)) as backend:
            yield backend.answers(200).url


@pytest.mark.parametrize("kind", ["backlog", "handshake", "expired"])
async def test_who_lets_nobody_in_is_left_for_another(backend: Backend, kind: str, tmp_path: Path) -> None:
    async with hole(kind, tmp_path) as url:
        async with gateway_with(url, backend, policy=pool(ejection={"consecutive": 1}), route=route()) as gw:
            watch = Watch()
            answer, line = await ask_first_at(gw, "pool-0", stream=False)
            assert (answer.status, answer.header("x-sluice-attempts")) == (200, "2")
            assert steps(line) == [("pool-0", "not_sent"), ("pool-1", "ok")]
            if kind != "expired":
                assert 100 <= line["ms"] < 100 + 1000 * (TICK + 0.05 + watch.waited)
                assert gw.total("timeouts_total", kind="connect") == 1
            assert state(gw, "pool-0") == "ejected"


@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [
        ("backlog", 504, "connect_timeout"),
        ("handshake", 504, "connect_timeout"),
        ("expired", 502, "upstream_unreachable"),
    ],
)
async def test_who_lets_nobody_in_and_is_alone_is_told_as_what_it_is(
    kind: str, status: int, code: str, tmp_path: Path
) -> None:
    async with hole(kind, tmp_path) as url:
        async with gateway_with(url, policy=pool(), route=route(retry={"retries": 1})) as gw:
            watch = Watch()
            answer = await gw.ask()
            assert (answer.status, answer.error["code"]) == (status, code)
            assert answer.header("x-should-retry") == "false"
            assert await trails(gw) == [[("pool-0", "not_sent")] * 2]
            assert watch.own < 0.5
