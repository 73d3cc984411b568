"""The prober over real sockets: what it asks, how often, over which connections, and what it tells."""

from __future__ import annotations

import asyncio
import errno
import gc
import json
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from backends.control.events import EndpointEvent, Kind, ProbeVerdict
from backends.control.table import EndpointSpec, PoolSpec, Table
from backends.http1.timer_wheel import TimerWheel
from backends.probes.prober import Prober
from policies.config.settings import PoolSettings, RouteSettings
from policies.config.settings.pools import EndpointSettings, Engine, HealthSettings
from tests.fakes.backend import Backend, Connection, Request, plain
from tests.fakes.certificates import Authority
from tests.fakes.listeners import silent
from tests.flow.harness import eventually
from tests.pace import Watch

# Loopback: a probe takes a millisecond or two. Only where something hangs is there anything to wait for.
FAST = HealthSettings(every=0.04, suspect_every=0.02, timeout=2.0, unhealthy_after=3, healthy_after=2)
HASTY = replace(FAST, timeout=0.1)
AGENT = "sluice-probe/test"


class House:
    """What the prober meets: a data plane and meters, which remember what they were told."""

    def __init__(self) -> None:
        self.verdicts: list[ProbeVerdict] = []
        self.counts: Counter[tuple[str, bool]] = Counter()
        self.in_flight: set[str] = set()
        self.yielding: set[str] = set()
        self.lost: list[str] = []
        self.prober: Prober

    def busy(self, name: str) -> bool:
        return name in self.in_flight

    def yielded_since(self, name: str, moment: float) -> bool:
        return name in self.yielding

    def endpoint(self, pool: str, endpoint: str) -> Meter:
        return Meter(self, endpoint)

    def follow(self, *specs: EndpointSpec, health: HealthSettings | None = FAST, engine: Engine = "vllm",
               routes: tuple[RouteSettings, ...] | None = None) -> None:  # fmt: skip
        """One pool of these endpoints, with one route for model `m`."""
        pool = PoolSettings(engine=engine, endpoints=(EndpointSettings(url="http://unused"),), health=health)
        spec = PoolSpec("pool", engine, "round_robin", specs, tuple(one.name for one in specs))
        routes = (RouteSettings(model="m", pool="pool", upstream_model="Big-M"),) if routes is None else routes
        table = Table(1, {"pool": spec}, routes, {}, None, 1 << 20, ())
        self.prober.follow(table, {"pool": pool})

    def hears(self, kind: Kind, name: str = "a", reason: str = "") -> None:
        self.prober.on_event(EndpointEvent("pool", name, kind, reason))

    def states(self, name: str = "a") -> list[str]:
        """What was told of it, one after another."""
        return [verdict.state for verdict in self.verdicts if verdict.endpoint == name]

    async def told(self, *states: str, name: str = "a", timeout: float = 5.0) -> ProbeVerdict:
        """Wait until just this was told of it; the last of it."""
        wanted = list(states)
        await eventually(
            lambda: len(self.states(name)) >= len(wanted), lambda: f"{self.verdicts}, wanted {wanted}", timeout
        )
        assert self.states(name) == wanted, self.verdicts
        return [verdict for verdict in self.verdicts if verdict.endpoint == name][-1]

    def probed(self, name: str = "a") -> int:
        return self.counts[name, True] + self.counts[name, False]

    async def rounds(self, count: int, name: str = "a") -> None:
        """Wait for so many more probes."""
        wanted = self.probed(name) + count
        await eventually(lambda: self.probed(name) >= wanted, lambda: f"{self.counts}")


class Meter:
    def __init__(self, house: House, name: str) -> None:
        self.house, self.name = house, name

    def probed(self, ok: bool) -> None:
        self.house.counts[self.name, ok] += 1


@asynccontextmanager
async def prober() -> AsyncIterator[House]:
    loop = asyncio.get_running_loop()
    house = House()
    before = loop.get_exception_handler()
    loop.set_exception_handler(
        lambda _, context: house.lost.append(f"{context['message']} {context.get('exception')!r}")
    )
    house.prober = Prober(
        plane=house, report=house.verdicts.append, meters=house, wheel=TimerWheel(loop), clock=time.monotonic,
        rng=random.Random(1), agent=AGENT,
    )  # fmt: skip
    try:
        yield house
    finally:
        await house.prober.stop()
        gc.collect()
        loop.set_exception_handler(before)
    assert house.lost == []
    assert probing() == set()


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with prober() as one:
        yield one


def probing() -> set[str]:
    return {task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("probes of ")}


def spec(at: Backend | int | str, name: str = "a", **more: object) -> EndpointSpec:
    """An endpoint of the pool: a backend, a port or a URL."""
    url = urlsplit(at.url if isinstance(at, Backend) else at if isinstance(at, str) else f"http://127.0.0.1:{at}")
    assert url.hostname is not None and url.port is not None
    made = EndpointSpec(name, "pool", url.hostname, url.port, base_path=url.path, tls=url.scheme == "https")
    return replace(made, **more)  # type: ignore[arg-type] # each test gives fields of the spec


def free_port() -> int:
    import socket

    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


async def hang(connection: Connection, request: Request) -> None:
    await connection.stall()


# -- up and down


async def test_a_well_endpoint_is_told_of_once(house: House, backend: Backend) -> None:
    house.follow(spec(backend))
    assert (await house.told("up")).reason == "answers"
    await house.rounds(5)
    assert house.states() == ["up"]
    assert house.prober.round_over


async def test_one_that_refuses_goes_down_after_so_many_probes_and_comes_back_after_so_many(house: House) -> None:
    port = free_port()
    house.follow(spec(port))
    down = await house.told("suspect", "down")
    assert house.counts == {("a", False): 3}
    assert "refused" in down.reason
    async with Backend(port=port) as backend:
        await house.told("suspect", "down", "up")
        assert backend.probes == 2
        assert backend.attempts == 0


@pytest.mark.parametrize("status", [500, 503, 404, 302, 204])
async def test_only_the_engines_own_status_is_well(house: House, backend: Backend, status: int) -> None:
    backend.health.answers(status, b"")
    house.follow(spec(backend))
    verdict = await house.told("suspect", "down")
    assert verdict.reason == f"/health says {status}"


async def test_an_engine_that_loads_for_long_is_told_of_once(house: House, backend: Backend) -> None:
    backend.health.answers(503, b'{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}')
    house.follow(spec(backend), engine="llama_cpp")
    await house.told("suspect", "down")
    await house.rounds(20)
    assert house.states() == ["suspect", "down"]
    backend.health.answers(200, b'{"status":"ok"}')
    await house.told("suspect", "down", "up")


@pytest.mark.parametrize("what", ["silence", "nonsense", "reset", "half a head"])
async def test_what_is_no_answer_in_time_is_a_failed_probe(house: House, backend: Backend, what: str) -> None:
    heads = {"silence": b"", "nonsense": b"SSH-2.0-OpenSSH\r\n", "reset": b"", "half a head": b"HTTP/1.1 200 OK\r\n"}
    backend.health.raw(heads[what], rst=what == "reset", stall=what in ("silence", "half a head"))
    house.follow(spec(backend), health=HASTY)
    await house.told("suspect", "down")
    backend.health.answers(200)
    await house.told("suspect", "down", "up")


async def test_an_open_port_that_never_speaks_tls_is_a_failed_probe(house: House) -> None:
    async with silent() as port:
        house.follow(spec(f"https://127.0.0.1:{port}"), health=HASTY)
        await house.told("suspect", "down")


async def test_health_may_be_at_another_path_and_port(house: House, backend: Backend, other: Backend) -> None:
    seen: list[str] = []

    async def well(connection: Connection, request: Request) -> None:
        seen.append(request.line)
        await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    other.token.does(well)
    house.follow(spec(backend), health=replace(FAST, path="/well", port=other.port))
    await house.told("up")
    assert seen[0] == "GET /well HTTP/1.1"
    assert backend.accepted == []


async def test_the_engines_own_path_is_below_the_endpoints_base_path(house: House, backend: Backend) -> None:
    seen: list[str] = []

    async def well(connection: Connection, request: Request) -> None:
        seen.append(request.line)
        await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    backend.token.does(well)
    house.follow(spec(backend.url + "/llm"), engine="triton")
    await house.told("up")
    assert seen[0] == "GET /llm/v2/health/ready HTTP/1.1"


async def test_a_redirect_is_not_followed(house: House, backend: Backend, other: Backend) -> None:
    backend.health.answers(307, b"", [("location", f"{other.url}/health")])
    house.follow(spec(backend))
    await house.told("suspect", "down")
    assert other.accepted == []


async def test_an_answer_without_end_is_not_read_to_it(house: House, backend: Backend) -> None:
    backend.health.raw(b"HTTP/1.1 200 OK\r\n\r\nand on and on", stall=True)
    house.follow(spec(backend))
    await house.told("up")


async def test_an_endless_answer_to_a_question_is_read_up_to_a_limit(house: House, backend: Backend) -> None:
    async def flood(connection: Connection, request: Request) -> None:
        await connection.send(b"HTTP/1.1 200 OK\r\n\r\n")
        while not connection.closed.is_set():
            await connection.send(b"x" * 16384)

    backend.token.does(flood)
    house.follow(spec(backend))
    await house.told("up")
    await eventually(lambda: len(backend.asked) == 1, "it was never asked")
    await house.rounds(8)
    assert house.states() == ["up"], "an answer that is no token, but an answer"


# -- how it is asked


async def test_a_probe_bears_the_pools_key_and_the_endpoints_headers_and_closes_its_connection(
    house: House, backend: Backend
) -> None:
    seen: list[Request] = []

    async def well(connection: Connection, request: Request) -> None:
        seen.append(request)
        await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    backend.health.does(well)
    house.follow(spec(backend, api_key="sk-upstream", headers=(("x-team", "ml"),)))
    await house.rounds(3)
    for request in seen:
        assert request.header("authorization") == "Bearer sk-upstream"
        assert request.header("x-team") == "ml"
        assert request.header("user-agent") == AGENT
        assert request.header("host") == f"127.0.0.1:{backend.port}"
        assert request.header("connection") == "close"
    assert len({id(request.connection) for request in seen}) == len(seen) >= 3
    await house.prober.stop()
    await eventually(lambda: all(one.closed_at is not None for one in backend.accepted), "a connection is open")


async def test_a_token_is_asked_for_of_the_routes_model_as_the_engine_knows_it(house: House, backend: Backend) -> None:
    house.follow(spec(backend))
    await eventually(lambda: bool(backend.asked), "it was never asked")
    (request, *_) = backend.asked
    assert request.line == "POST /v1/completions HTTP/1.1"
    assert request.header("content-type") == "application/json"
    body = json.loads(request.body)
    assert (body["model"], body["max_tokens"]) == ("Big-M", 1)
    assert backend.probes >= 6, "and not before the sixth time"


async def test_without_a_routes_model_the_engine_is_asked_for_its_own_first(house: House, backend: Backend) -> None:
    models = b'{"object":"list","data":[{"id":"its-own"}]}'
    backend.token.answers(200, models).then.answers(200, b'{"choices":[{"text":"a"}]}')
    house.follow(spec(backend), routes=(RouteSettings(model="*", pool="pool"),))
    await eventually(lambda: len(backend.asked) >= 2, "it was never asked")
    assert backend.asked[0].line == "GET /v1/models HTTP/1.1"
    assert json.loads(backend.asked[1].body)["model"] == "its-own"


async def test_an_engine_that_can_not_be_asked_never_is(house: House, backend: Backend) -> None:
    house.follow(spec(backend), engine="http")
    await house.rounds(10)
    assert backend.asked == []
    assert house.states() == ["up"]


async def test_a_busy_endpoint_is_not_asked_for_a_token(house: House, backend: Backend) -> None:
    house.in_flight.add("a")
    house.follow(spec(backend))
    await house.rounds(10)
    assert backend.asked == []
    house.in_flight.clear()
    await eventually(lambda: bool(backend.asked), "it was never asked")


# -- what hangs, and what is busy


async def test_one_that_says_200_and_never_gives_a_token_is_found_while_idle(house: House, backend: Backend) -> None:
    backend.token.does(hang)
    house.follow(spec(backend), health=HASTY)
    verdict = await house.told("up", "suspect", "down")
    assert verdict.reason.startswith("accepts, but gives no token")
    assert len(backend.asked) == 3
    await house.rounds(3)
    assert house.states()[-1] == "down", "/health says 200 all the while"
    backend.token.answers(200, b'{"choices":[{"text":"a"}]}')
    before = len(backend.asked)
    await house.told("up", "suspect", "down", "up")
    # One may have been under way, and hung, when the engine came to itself.
    assert len(backend.asked) - before in (2, 3)


async def test_one_that_is_busy_with_others_is_not_taken_for_dead(house: House, backend: Backend) -> None:
    """Another gateway's requests fill it: our token waits, and its own count of tokens goes on."""
    generated = 0

    async def counts(connection: Connection, request: Request) -> None:
        nonlocal generated
        generated += 7
        page = (
            f'# TYPE vllm:generation_tokens_total counter\nvllm:generation_tokens_total{{engine="0"}} {generated}.0\n'
        )
        await connection.send(plain(200, page.encode()))

    backend.token.does(hang)
    backend.page.does(counts)
    house.follow(spec(backend), health=HASTY)
    await house.told("up")
    await eventually(lambda: len(backend.asked) >= 5, "it was never asked", timeout=10.0)
    assert "down" not in house.states()
    backend.page.answers(200, b"vllm:generation_tokens_total 7.0\n")
    await eventually(lambda: house.states()[-1] == "down", "its count stands still, and nobody minds", timeout=10.0)


@pytest.mark.parametrize("status", [400, 401, 404, 405, 422, 429, 500, 503])
async def test_an_answer_that_is_no_token_takes_nobody_down(house: House, backend: Backend, status: int) -> None:
    backend.token.answers(status, b'{"detail":"Not Found"}')
    house.follow(spec(backend))
    await eventually(lambda: bool(backend.asked), "it was never asked")
    await house.rounds(10)
    assert house.states() == ["up"]
    if status < 500 and status != 429:
        assert len(backend.asked) == 1, "it can't be asked so"
        assert ("a", False) not in house.counts


async def test_one_that_yields_on_our_streams_is_never_taken_for_dead(house: House, backend: Backend) -> None:
    house.follow(spec(backend), health=HASTY)
    await house.told("up")
    house.yielding.add("a")
    backend.health.does(hang)
    backend.token.does(hang)
    await eventually(lambda: house.counts["a", False] >= 6, "probes never failed")
    assert house.states() == ["up"]
    house.yielding.clear()
    await house.told("up", "suspect", "down")


# -- events of the data plane


async def test_what_a_request_found_is_looked_at_at_once_and_often_until_it_is_well(
    house: House, backend: Backend
) -> None:
    house.follow(spec(backend), health=replace(FAST, every=60.0))
    await house.told("up")
    assert backend.probes == 1
    house.hears("failed", reason="not_sent")
    await house.told("up", "up", timeout=1.0)
    assert backend.probes == 3
    await asyncio.sleep(0.1)
    assert backend.probes == 3


async def test_a_storm_of_events_is_no_storm_of_probes(house: House, backend: Backend) -> None:
    house.follow(spec(backend), health=replace(FAST, every=60.0, suspect_every=0.1))
    await house.told("up")
    watch = Watch()
    while backend.probes < 5:
        assert watch.own < 10, "it is not probed"
        for _ in range(100):
            house.hears("failed", reason="not_sent")
        await asyncio.sleep(0.005)
    # One each 0.1 s, up to a fifth sooner, and those before and after the storm.
    assert backend.probes <= watch.seconds / 0.08 + 2


@pytest.mark.parametrize("kind", ["ejected", "breaker_open"])
async def test_two_good_tokens_readmit_an_endpoint_that_hung(house: House, backend: Backend, kind: Kind) -> None:
    house.follow(spec(backend), health=replace(HASTY, every=60.0))
    await house.told("up")
    backend.token.does(hang)
    house.hears("suspect", reason="too_slow")
    house.hears(kind, reason="consecutive")
    await eventually(lambda: bool(backend.asked), "it was never asked")
    assert not any(verdict.readmit for verdict in house.verdicts)
    backend.token.answers(200, b'{"choices":[{"text":"a"}]}')
    await eventually(lambda: house.verdicts[-1].readmit, lambda: f"{house.verdicts}")
    assert house.verdicts[-1].state == "up"
    asked = len(backend.asked)
    await asyncio.sleep(0.1)
    assert len(backend.asked) == asked, "and then it is left alone"
    assert sum(verdict.readmit for verdict in house.verdicts) == 1


async def test_what_no_probe_can_see_is_left_out_for_its_time(house: House, backend: Backend) -> None:
    house.follow(spec(backend), health=replace(FAST, every=0.1))
    await house.told("up")
    house.hears("ejected", reason="error_rate")
    await eventually(lambda: len(backend.asked) >= 5, "it was never asked")
    assert not any(verdict.readmit for verdict in house.verdicts)


async def test_events_that_its_own_word_brings_about_are_no_news(backend: Backend) -> None:
    async with prober() as house:
        told: list[ProbeVerdict] = []

        def tell(verdict: ProbeVerdict) -> None:
            told.append(verdict)
            house.verdicts.append(verdict)
            house.hears("suspect", reason="no news")
            house.hears("returned", reason="no news")

        house.prober = Prober(
            plane=house, report=tell, meters=house, wheel=TimerWheel(asyncio.get_running_loop()), clock=time.monotonic,
            rng=random.Random(1), agent=AGENT,
        )  # fmt: skip
        house.follow(spec(backend), health=replace(FAST, every=60.0))
        await house.told("up")
        await asyncio.sleep(0.1)
        assert (backend.probes, backend.asked) == (1, [])


async def test_events_of_what_is_not_probed_are_nobodys(house: House, backend: Backend) -> None:
    house.hears("failed")
    house.follow(spec(backend))
    house.hears("failed", name="another")
    house.hears("panic", name="")
    await house.told("up")


# -- over tables


async def test_an_endpoint_that_stays_is_probed_on_over_reloads(house: House, backend: Backend) -> None:
    for _ in range(50):
        house.follow(spec(backend))
        await asyncio.sleep(0)
    assert probing() == {"probes of a"}
    await house.told("up")
    for _ in range(50):
        house.follow(spec(backend))
    await house.rounds(3)
    assert house.states() == ["up"]


async def test_200_reloads_leave_one_task_an_endpoint_and_no_connection_or_descriptor(
    house: House, backend: Backend, other: Backend
) -> None:
    backend.health.does(hang)
    descriptors = len(os.listdir("/proc/self/fd"))
    for number in range(200):
        house.follow(spec(backend, weight=float(number + 1)), spec(other, "b", incarnation=number))
        if number % 10 == 0:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0)
    assert len([task for task in asyncio.all_tasks() if task.get_name().startswith("probes of ")]) <= 4
    await eventually(lambda: len(_probe_tasks()) == 2, "tasks of endpoints that are gone are left")
    house.follow()
    await eventually(lambda: _probe_tasks() == [], "tasks are left")
    await eventually(lambda: not backend.open and not other.open, "connections are left")
    await eventually(lambda: len(os.listdir("/proc/self/fd")) <= descriptors, "descriptors are left")


def _probe_tasks() -> list[asyncio.Task[object]]:
    return [task for task in asyncio.all_tasks() if task.get_name().startswith("probes of ")]


async def test_a_restarted_worker_is_another_endpoint_behind_the_same_name(house: House, backend: Backend) -> None:
    port = free_port()
    house.follow(spec(port, incarnation=1))
    await house.told("suspect", "down")
    house.verdicts.clear()
    house.follow(spec(backend, incarnation=2))
    assert (await house.told("up")).incarnation == 2


async def test_health_off_ends_the_probes_and_takes_their_word_back(house: House, backend: Backend) -> None:
    backend.health.answers(500)
    house.follow(spec(backend))
    await house.told("suspect", "down")
    house.follow(spec(backend), health=None)
    assert (await house.told("suspect", "down", "up")).reason == "it is not probed any more"
    probes = backend.probes
    await eventually(lambda: _probe_tasks() == [], "tasks are left")
    await asyncio.sleep(0.1)
    assert backend.probes == probes
    house.follow(spec(backend))
    await house.told("suspect", "down", "up", "suspect", "down")


async def test_new_settings_hold_at_once(house: House, backend: Backend) -> None:
    house.follow(spec(backend), health=replace(FAST, every=60.0))
    await house.told("up")
    house.follow(spec(backend), health=FAST)
    await house.rounds(5)


async def test_a_first_round_is_over_once_every_endpoint_was_probed(
    house: House, backend: Backend, other: Backend
) -> None:
    other.health.does(hang)
    house.follow(spec(backend), spec(other, "b"), health=HASTY)
    assert not house.prober.round_over
    await house.told("up")
    assert not house.prober.round_over
    await house.told("suspect", name="b")
    assert house.prober.round_over
    house.follow(spec(backend), spec(other, "b"), spec(other, "c"))
    assert house.prober.round_over, "once and for all"


# -- many, and jitter


async def test_first_probes_are_spread_and_later_ones_are_jittered(house: House) -> None:
    times: dict[int, list[float]] = {}

    def noting(number: int) -> Callable[[Connection, Request], object]:
        async def well(connection: Connection, request: Request) -> None:
            times.setdefault(number, []).append(time.monotonic())
            await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

        return well

    backends = [Backend() for _ in range(10)]
    for number, one in enumerate(backends):
        one.health.does(noting(number))  # type: ignore[arg-type] # a coroutine function by its body
        await one.__aenter__()
    try:
        began, watch = time.monotonic(), Watch()
        house.follow(*(spec(one, f"e{number}") for number, one in enumerate(backends)), health=replace(FAST, every=0.3))
        await eventually(lambda: min(map(len, times.values()), default=0) >= 3 and len(times) == 10, lambda: f"{times}")
        firsts = sorted(each[0] - began for each in times.values())
        assert firsts[-1] - firsts[0] > 0.1
        late = watch.stop().waited
        assert firsts[-1] < 0.25 + 0.15 + late
        gaps = [later - sooner for each in times.values() for sooner, later in pairwise(each)]
        assert max(gaps) - min(gaps) > 0.02
        assert all(0.25 - late < gap < 0.45 + late for gap in gaps), gaps
    finally:
        await house.prober.stop()
        for one in backends:
            await one.__aexit__()


# -- TLS


async def test_tls_is_verified_by_the_endpoints_own_authority_and_name(house: House, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    async with Backend(tls=authority.server("vllm-b")) as backend:
        ca = str(authority.ca)
        house.follow(spec(backend, ca=ca, server_name="vllm-b"), spec(backend, "b", ca=ca), spec(backend, "c"))
        await house.told("up")
        for name in ("b", "c"):
            verdict = await house.told("suspect", "down", name=name)
            assert "tls" in verdict.reason
        # Only "a" can reach it, which is asked for a token once it is suspect: on a busy machine that may be by now.
        assert backend.asked == [] or house.states() != ["up"]
        house.hears("suspect")
        await eventually(lambda: bool(backend.asked), "it was never asked for a token over TLS")


async def test_an_expired_certificate_is_not_well(house: House, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    async with Backend(tls=authority.server(expired=True)) as backend:
        house.follow(spec(backend, ca=str(authority.ca)))
        assert "expired" in (await house.told("suspect", "down")).reason


async def test_a_ca_file_that_has_gone_is_a_failed_probe_and_no_end_of_them(house: House, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    async with Backend(tls=authority.server()) as backend:
        kept = authority.ca.read_bytes()
        authority.ca.unlink()
        house.follow(spec(backend, ca=str(authority.ca)))
        assert "tls.ca" in (await house.told("suspect", "down")).reason
        authority.ca.write_bytes(kept)
        await house.told("suspect", "down", "up")


async def test_a_name_that_does_not_resolve_is_a_failed_probe(house: House) -> None:
    house.follow(spec("http://no-such-host.invalid:80"))
    assert "dns" in (await house.told("suspect", "down")).reason


async def test_our_own_lack_of_descriptors_says_nothing_of_an_endpoint(backend: Backend) -> None:
    async with prober() as house:
        tries = 0

        async def resolve(host: str, port: int) -> list[tuple[str, int]]:
            nonlocal tries
            tries += 1
            if tries < 10:
                raise OSError(errno.EMFILE, "Too many open files")
            return [(host, port)]

        house.prober = Prober(
            plane=house, report=house.verdicts.append, meters=house, wheel=TimerWheel(asyncio.get_running_loop()),
            clock=time.monotonic, rng=random.Random(1), agent=AGENT, resolve=resolve,
        )  # fmt: skip
        house.follow(spec(backend))
        await house.told("up")
        assert ("a", False) not in house.counts
