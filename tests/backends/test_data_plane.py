"""The data plane: a new table is one swap, and what stayed the same does not notice."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

import pytest

from backends.control.events import EndpointEvent, ProbeVerdict
from backends.control.table import EndpointSpec, PoolSpec, Table
from backends.data_plane import DataPlane, TableView
from backends.http1.connection import UpstreamConnection
from backends.http1.interface import UpstreamError
from backends.http1.timer_wheel import TimerWheel
from backends.pool.endpoint import Endpoint
from policies.config.settings import RouteSettings
from policies.identity.principal import AuthenticationError, Principal
from policies.resilience import outcome as outcomes
from tests.backends.rig import Meters, Rig
from tests.fakes.backend import Backend
from tests.fakes.request_view import FakeRequest
from tests.flow.harness import eventually

NOW = 1000.0
ANYONE = Principal(key="anonymous", tenant="anonymous", plan="free")


class Sink:
    """Takes an answer and says when it has ended."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()
        self.error: UpstreamError | None = None
        self.last_at = 0.0

    def on_head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None: ...
    def on_data(self, data: bytes) -> None: ...

    def on_end(self) -> None:
        self.ended.set()

    def on_error(self, error: UpstreamError) -> None:
        self.error = error
        self.ended.set()


@pytest.fixture
def meters() -> Meters:
    return Meters()


@pytest.fixture
async def plane(meters: Meters) -> DataPlane:
    loop = asyncio.get_running_loop()
    rng = random.Random(1)
    return DataPlane(
        loop=loop, wheel=TimerWheel(loop), meters=meters, rng=rng, now=lambda: 1000.0, emit=lambda event: None
    )


def spec(name: str, port: int = 1, pool: str = "pool") -> EndpointSpec:
    return EndpointSpec(name=name, pool=pool, host="127.0.0.1", port=port)


def table(*endpoints: EndpointSpec, balance: str = "least_requests", generation: int = 1) -> Table:
    """A table of these endpoints, each in the pool that it names; model `m` goes to the first."""
    names = dict.fromkeys(one.pool for one in endpoints) or {"pool": None}
    pools = {
        name: PoolSpec(name, "vllm", balance, tuple(one for one in endpoints if one.pool == name), ()) for name in names
    }
    return Table(
        generation=generation,
        pools=pools,
        routes=(RouteSettings(model="m", pool=next(iter(pools))),),
        keys={},
        anonymous=ANYONE,
        max_body=1 << 20,
        trusted_proxies=(),
    )


def view(plane: DataPlane) -> TableView:
    assert plane.view is not None
    return plane.view


def candidates(plane: DataPlane, pool: str = "pool") -> tuple[Endpoint, ...]:
    return view(plane).pools[pool].candidates


async def asked(endpoint: Endpoint, sink: Sink) -> UpstreamConnection:
    """A request that is on its way on a connection of the endpoint."""
    connection = endpoint.take() or await endpoint.connect(1.0)
    connection.send(endpoint.request_head("GET", b"/x") + b"\r\n", b"", sink, head_request=False)
    return connection


async def answered(endpoint: Endpoint) -> None:
    """One whole exchange."""
    sink = Sink()
    await asked(endpoint, sink)
    async with asyncio.timeout(15):
        await sink.ended.wait()
    assert sink.error is None


# -- the swap


async def test_before_the_first_table_there_is_no_view_and_nothing_is_in_flight(plane: DataPlane) -> None:
    assert plane.view is None
    assert (plane.in_flight, plane.active_connections, plane.idle_connections) == (0, 0, 0)


async def test_a_view_is_made_of_the_whole_table(plane: DataPlane) -> None:
    one = table(spec("a"), spec("b", pool="other"))
    plane.install(one)
    now = view(plane)
    assert now.table is one
    assert {name: pool.candidates[0].name for name, pool in now.pools.items()} == {"pool": "a", "other": "b"}
    assert now.routes.models_for(ANYONE) == ["m"]
    assert now.authenticator.authenticate(None, None) is ANYONE


async def test_an_exchange_keeps_the_view_that_it_took(plane: DataPlane) -> None:
    plane.install(table(spec("a")))
    before = view(plane)
    plane.install(replace(table(spec("b")), anonymous=None))
    assert [one.name for one in before.pools["pool"].candidates] == ["a"]
    assert before.authenticator.authenticate(None, None) is ANYONE
    with pytest.raises(AuthenticationError):
        view(plane).authenticator.authenticate(None, None)


async def test_a_pool_without_candidates_chooses_nobody(plane: DataPlane) -> None:
    plane.install(table())
    assert view(plane).pools["pool"].choose(NOW, FakeRequest("m")) is None


async def test_a_table_that_cannot_be_made_live_leaves_everything_as_it_was(plane: DataPlane) -> None:
    plane.install(table(spec("a")))
    before, endpoint = view(plane), candidates(plane)[0]
    bad = replace(spec("b"), tls=True, ca="/nowhere/ca.pem")
    with pytest.raises(OSError):
        plane.install(table(bad, generation=2))
    assert plane.view is before
    plane.install(table(spec("a"), generation=3))
    assert candidates(plane) == (endpoint,)


# -- what stayed the same


async def test_an_endpoint_that_stayed_the_same_is_the_same_object(plane: DataPlane) -> None:
    plane.install(table(spec("a"), spec("b")))
    a, b = candidates(plane)
    plane.install(table(spec("b"), spec("c"), spec("a"), generation=2))
    again = {one.name: one for one in candidates(plane)}
    assert (again["a"], again["b"]) == (a, b)


async def test_an_endpoint_that_stayed_the_same_keeps_its_connections(plane: DataPlane, backend: Backend) -> None:
    plane.install(table(spec("a", backend.port)))
    await answered(candidates(plane)[0])
    assert plane.idle_connections == 1
    plane.install(table(spec("a", backend.port), generation=2))
    await answered(candidates(plane)[0])
    assert len(backend.connections) == 1
    plane.close()


async def test_an_endpoint_that_stayed_the_same_keeps_what_is_in_flight(plane: DataPlane, meters: Meters) -> None:
    plane.install(table(spec("a"), spec("b")))
    a = candidates(plane)[0]
    with a.slot:
        plane.install(table(spec("a"), spec("b"), generation=2))
        assert (plane.in_flight, meters.of["pool", "a"].in_flight.value) == (1, 1)
        # The strategy sees it too: the busy one is not chosen.
        assert {view(plane).pools["pool"].choose(NOW, FakeRequest("m")) for _ in range(20)} == {candidates(plane)[1]}
    assert (plane.in_flight, meters.of["pool", "a"].in_flight.value) == (0, 0)


@pytest.mark.parametrize(
    "other",
    [
        replace(spec("a"), port=2),
        replace(spec("a"), incarnation=1),
        replace(spec("a"), api_key="x"),
        replace(spec("a"), headers=(("x", "y"),)),
    ],
    ids=["port", "a worker's restart", "api_key", "headers"],
)
async def test_an_endpoint_that_changed_is_another_one_behind_the_same_name(
    plane: DataPlane, meters: Meters, other: EndpointSpec
) -> None:
    plane.install(table(spec("a")))
    before = candidates(plane)[0]
    plane.install(table(other, generation=2))
    assert candidates(plane)[0] is not before
    assert list(meters.of) == [("pool", "a")], "its metrics go on"


# -- what is gone


async def test_idle_connections_of_an_endpoint_that_is_gone_are_closed_at_once(
    plane: DataPlane, backend: Backend
) -> None:
    plane.install(table(spec("a", backend.port)))
    await answered(candidates(plane)[0])
    plane.install(table(spec("b"), generation=2))
    await backend.all_closed(timeout=1.0)
    assert (plane.idle_connections, plane.active_connections) == (0, 0)


async def test_a_retired_endpoint_serves_its_last_exchange_and_is_closed_then(
    plane: DataPlane, backend: Backend, meters: Meters
) -> None:
    backend.streams("one", "two", hold=2)
    plane.install(table(spec("a", backend.port)))
    a, sink = candidates(plane)[0], Sink()
    with a.slot:
        await asked(a, sink)
        await backend.requested()
        plane.install(table(spec("b"), generation=2))
        plane.install(table(spec("b"), generation=3))
        assert (plane.in_flight, plane.active_connections) == (1, 1), "it is counted until its last exchange ends"
        assert len(backend.open) == 1
        backend.release.set()
        async with asyncio.timeout(15):
            await sink.ended.wait()
        a.record_outcome(outcomes.OK, NOW)
    assert sink.error is None
    await backend.all_closed(timeout=1.0)
    assert (plane.in_flight, plane.active_connections, plane.idle_connections) == (0, 0, 0)
    assert meters.of["pool", "a"].outcomes == ["ok"]


async def test_a_retired_endpoint_that_still_connects_is_counted_and_keeps_nothing(
    plane: DataPlane, backend: Backend
) -> None:
    plane.install(table(spec("a", backend.port)))
    a = candidates(plane)[0]
    with a.slot:
        plane.install(table(spec("b"), generation=2))
        assert plane.in_flight == 1
        await answered(a)
    await backend.all_closed(timeout=1.0)
    assert plane.idle_connections == 0


async def test_an_endpoint_that_comes_back_begins_anew(plane: DataPlane, backend: Backend, meters: Meters) -> None:
    plane.install(table(spec("a", backend.port)))
    first = candidates(plane)[0]
    with first.slot:
        plane.install(table(spec("b"), generation=2))
        plane.install(table(spec("a", backend.port), generation=3))
        second = candidates(plane)[0]
        assert second is not first
        await answered(second)
        assert plane.idle_connections == 1
        assert (plane.in_flight, meters.of["pool", "a"].in_flight.value) == (1, 1)
    assert meters.of["pool", "a"].in_flight.value == 0
    plane.close()


async def test_after_many_tables_only_what_is_in_use_is_remembered(plane: DataPlane, backend: Backend) -> None:
    for generation in range(200):
        plane.install(table(spec(f"e{generation}", backend.port), generation=generation))
        await answered(candidates(plane)[0])
    assert plane.idle_connections == 1
    plane.install(table(generation=201))
    await backend.all_closed(timeout=1.0)
    held = [value for value in vars(plane).values() if isinstance(value, Mapping | list)]
    assert sum(map(len, held)) <= 2, held


async def test_close_ends_idle_connections_now_and_those_in_use_with_their_exchange(
    plane: DataPlane, backend: Backend
) -> None:
    plane.install(table(spec("a", backend.port)))
    a, sink = candidates(plane)[0], Sink()
    await answered(a)
    backend.streams("one", hold=1)
    await asked(a, sink)
    await backend.requested(2)
    plane.close()
    await asyncio.sleep(0.02)
    assert len(backend.open) == 1
    backend.release.set()
    async with asyncio.timeout(15):
        await sink.ended.wait()
    await eventually(lambda: backend.open == [], "its connection is still open")


# -- what endpoints come to


async def test_a_verdict_of_the_probes_reaches_its_endpoint(plane: DataPlane, meters: Meters) -> None:
    plane.install(table(spec("a"), spec("b"), spec("a", pool="other")))
    plane.apply_verdict(ProbeVerdict("pool", "a", 0, "down", "/health says 500"))
    assert set(chosen(plane, 20)) == {"b"}
    assert chosen(plane, 1, "other") == ["a"]
    assert meters.of["pool", "a"].states[-1] == "down"
    assert meters.of["other", "a"].states[-1] == "unknown"


async def test_changes_are_emitted() -> None:
    rig = Rig("a", "b")
    rig.ends("a", outcomes.of_status(503), retry_after=3.0)
    assert rig.events == [EndpointEvent("pool", "a", "paused", "503", {"seconds": 3.0, "told": "true"})]
    rig.told()
    rig.ends("b", outcomes.NO_ANSWER, times=5)
    event = next(event for event in rig.events if event.kind == "ejected")
    assert event.figures == {"failures": 5, "requests": 5, "window": 30.0, "seconds": 10.0}
    event = next(event for event in rig.events if event.kind == "breaker_open")
    assert event.figures == {"model": "m", "seconds": 10.0}


async def test_the_wheel_turns_only_while_something_is_troubled() -> None:
    rig = Rig("a", "b")
    rig.ends("a", outcomes.OK, times=100)
    rig.choose()
    assert rig.loop.timers == 0
    rig.ends("a", outcomes.of_status(503), retry_after=2.0)
    assert rig.loop.timers == 1
    rig.passes(2.5)
    assert rig.loop.timers == 0


async def test_a_plane_that_is_closed_looks_no_more() -> None:
    rig = Rig("a", "b")
    rig.ends("a", outcomes.of_status(503), retry_after=20.0)
    rig.plane.close()
    rig.passes(0.5)
    assert rig.loop.timers == 0


async def test_a_pool_that_is_gone_and_comes_back_begins_anew() -> None:
    rig = Rig("a", "b")
    rig.ends("a", outcomes.of_status(503), retry_after=20.0)
    rig.install(spec("a", pool="pool"), spec("b"))
    assert rig.shown("a") == "paused"
    assert rig.plane.view is not None
    rig.plane.install(replace(rig.plane.view.table, pools={}))
    assert rig.plane.view.pools == {}
    rig.install("a", "b")
    assert (rig.shown("a"), rig.chosen()) == ("unknown", {"a", "b"})


async def test_an_endpoint_yields_while_bytes_come_on_any_of_its_connections(
    plane: DataPlane, backend: Backend
) -> None:
    backend.streams("one", "two", hold=1)
    plane.install(table(spec("a", backend.port)))
    a, sink = candidates(plane)[0], Sink()
    connection = await asked(a, sink)
    await backend.requested()
    assert not plane.yielded_since("a", 5.0)
    sink.last_at = 6.0
    assert plane.yielded_since("a", 5.0)
    assert not plane.yielded_since("a", 6.0)
    assert not plane.yielded_since("b", 5.0)
    connection.abort()
    assert not plane.yielded_since("a", 5.0)
    plane.close()


# -- strategies


def chosen(plane: DataPlane, count: int, pool: str = "pool") -> list[str]:
    picks: Iterable[Endpoint | None] = (view(plane).pools[pool].choose(NOW, FakeRequest("m")) for _ in range(count))
    return [one.name for one in picks if one is not None]


async def test_a_strategy_keeps_its_memory_over_tables(plane: DataPlane) -> None:
    everyone = spec("a"), spec("b"), spec("c")
    turns = []
    for generation in range(30):
        plane.install(table(*everyone, balance="round_robin", generation=generation))
        turns += chosen(plane, 1)
    # A fresh memory each time would choose by chance.
    assert Counter(turns) == {"a": 10, "b": 10, "c": 10}


async def test_a_pool_that_changes_its_strategy_has_the_new_one(plane: DataPlane) -> None:
    plane.install(table(spec("a"), spec("b"), balance="round_robin"))
    chosen(plane, 3)
    plane.install(table(spec("a"), spec("b"), balance="least_requests", generation=2))
    with candidates(plane)[0].slot:
        assert set(chosen(plane, 20)) == {"b"}


async def test_each_pool_has_a_memory_of_its_own(plane: DataPlane) -> None:
    plane.install(table(spec("a"), spec("b"), spec("c", pool="other"), balance="round_robin"))
    turns = []
    for _ in range(10):
        turns += chosen(plane, 1)
        chosen(plane, 1, "other")
    assert Counter(turns) == {"a": 5, "b": 5}
