"""Active health through the whole gateway: what a hang, a refusal or a loading engine means for clients, readiness, the
log and the counters."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from backends.simulator.server import Simulator
from backends.simulator.settings import SimulatorSettings
from tests.backends.probes.test_prober import free_port, hang
from tests.fakes.backend import Backend
from tests.fakes.certificates import Authority
from tests.fakes.client import Answer, Client, request
from tests.flow.harness import Running, eventually, gateway_with

# Fast on loopback; only where something hangs is there anything to wait for.
FAST: Mapping[str, Any] = {"every": "50ms", "suspect_every": "20ms", "timeout": "2s"}
HASTY: Mapping[str, Any] = {**FAST, "timeout": "100ms"}


def probed(health: Mapping[str, Any] = FAST, **pool: Any) -> dict[str, Any]:
    """A policy whose pool `pool` is probed so."""
    return {"pools": {"pool": {"health": dict(health), **pool}}}


def simulator() -> Simulator:
    return Simulator(SimulatorSettings(models=("m",), tokens=2, first_byte=0.001, gap=0.001))


async def is_in(gw: Running, state: str, endpoint: str = "pool-0", timeout: float = 5.0) -> None:
    """Wait until an endpoint is in this state by the metrics."""
    await eventually(
        lambda: gw.total("endpoint_state", endpoint=endpoint, state=state) == 1,
        lambda: f"{endpoint} is not {state}:\n{gw.log_text()}", timeout,
    )  # fmt: skip


async def readiness(gw: Running) -> tuple[int, int]:
    """The statuses of /ready and /readyz."""

    async def get(address: str, path: str) -> Answer:
        async with await Client.to(address) as client:
            await client.send(request("GET", path, host="localhost"))
            return await client.answer()

    ready = await get(gw.gateway.address, "/ready")
    return ready.status, (await get(gw.gateway.admin_address, "/readyz")).status


def lines(gw: Running, event: str) -> list[str]:
    return [line for line in gw.log_text().splitlines() if f" {event} " in line]


# -- down and up


async def test_an_endpoint_that_refuses_gets_no_requests_until_it_is_well_again(backend: Backend) -> None:
    backend.streams("hello")
    port = free_port()
    async with gateway_with(backend, f"http://127.0.0.1:{port}", policy=probed(slow_start="off")) as gw:
        await is_in(gw, "up")
        await is_in(gw, "down", "pool-1")
        for _ in range(10):
            assert await gw.chat() == "hello"
        assert backend.attempts == 10
        assert gw.total("attempts_total", endpoint="pool-1") == 0
        async with Backend(port=port) as late:
            late.streams("hello")
            await is_in(gw, "up", "pool-1")
            for _ in range(30):
                await gw.chat()
            assert late.attempts > 0


async def test_an_engine_that_loads_for_long_is_no_flood_of_errors(backend: Backend) -> None:
    backend.health.answers(503, b'{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}')
    async with gateway_with(backend, f"http://127.0.0.1:{free_port()}", policy=probed()) as gw:
        await is_in(gw, "down")
        await is_in(gw, "down", "pool-1")
        await eventually(lambda: gw.total("probes_total", result="failed") >= 60, "nobody looks any more")
        assert [len(lines(gw, "endpoint_down")), len(lines(gw, "endpoint_suspect"))] == [2, 2]
        assert " ERROR " not in gw.log_text()
        backend.health.answers(200)
        await is_in(gw, "up")
        assert len(lines(gw, "endpoint_returned")) == 1


async def test_the_last_endpoint_is_tried_though_its_probes_fail(backend: Backend) -> None:
    # An operator who names the wrong path must not lose the pool.
    backend.streams("hello")
    async with gateway_with(backend, policy=probed({**FAST, "path": "/typo", "port": free_port()})) as gw:
        await is_in(gw, "down")
        assert await gw.chat() == "hello"


# -- what hangs


async def test_an_engine_that_hangs_while_its_health_says_200_is_found_while_idle_and_comes_back() -> None:
    async with simulator() as engine, simulator() as other:
        policy = probed(HASTY, slow_start="off")
        async with gateway_with(engine.url, other.url, policy=policy) as gw:
            await is_in(gw, "up")
            engine.fault("freeze")
            await is_in(gw, "down", timeout=15)
            assert "accepts, but gives no token" in lines(gw, "endpoint_down")[0]
            before = gw.total("attempts_total", endpoint="pool-0")
            for _ in range(5):
                await gw.chat()
            assert gw.total("attempts_total", endpoint="pool-0") == before
            engine.clear_faults()
            await is_in(gw, "up")
            for _ in range(30):
                await gw.chat()
            assert gw.total("attempts_total", endpoint="pool-0") > before


async def test_an_endpoint_that_was_ejected_for_hanging_is_readmitted_after_two_good_tokens() -> None:
    async with simulator() as engine, simulator() as other:
        policy = probed(
            {**HASTY, "every": "1h"}, ejection={"consecutive": 2, "for": "5m", "max_for": "5m"}, slow_start="off"
        )
        route = {"timeouts": {"first_byte": "200ms"}, "retry": {"retries": 3}}
        async with gateway_with(engine.url, other.url, policy=policy, route=route) as gw:
            await is_in(gw, "up")
            await is_in(gw, "up", "pool-1")
            engine.fault("freeze")
            for _ in range(40):
                await gw.chat()
                if gw.total("ejections_total", endpoint="pool-0"):
                    break
            assert gw.total("ejections_total", endpoint="pool-0") == 1
            engine.clear_faults()
            await is_in(gw, "up")
            assert any("answers again" in line for line in lines(gw, "endpoint_returned"))


async def test_one_that_yields_on_a_stream_of_ours_is_never_taken_for_dead(backend: Backend) -> None:
    backend.streams(*(str(number % 10) for number in range(120)), gap=0.02)
    async with gateway_with(backend, policy=probed(HASTY)) as gw:
        await is_in(gw, "up")
        stream = asyncio.get_running_loop().create_task(gw.chat(), name="stream")
        await backend.requested()
        backend.health.does(hang)
        backend.token.does(hang)
        await eventually(lambda: gw.total("probes_total", result="failed") >= 6, "probes never failed")
        assert not stream.done()
        assert lines(gw, "endpoint_down") == lines(gw, "endpoint_suspect") == []
        assert len(await stream) == 120
        backend.health.answers(200)


# -- what probes are not


async def test_probes_are_no_traffic(backend: Backend) -> None:
    async with gateway_with(backend, policy=probed()) as gw:
        await eventually(lambda: len(backend.asked) >= 2, "it was never asked for a token")
        assert gw.total("probes_total", result="ok") >= 12
        for name in ("requests_total", "attempts_total", "endpoint_in_flight", "timeouts_total", "retries_total"):
            assert gw.total(name) == 0, name
        assert await gw.access_lines(0) == []
        assert (backend.attempts, backend.connections) == (0, [])
        plane = gw.gateway.plane
        assert (plane.active_connections, plane.idle_connections) == (0, 0)


async def test_a_probe_never_takes_a_kept_connection(backend: Backend) -> None:
    backend.streams("hello")
    async with gateway_with(backend, policy=probed()) as gw:
        for _ in range(5):
            await gw.chat()
            probes = backend.probes
            await eventually(lambda probes=probes: backend.probes >= probes + 2, "no probes")  # type: ignore[misc]
        assert len(backend.connections) == 1
        assert {one.requests for one in backend.accepted if one.probe} <= {0, 1}


async def test_the_gateway_serves_at_once_and_waits_for_no_probe(backend: Backend) -> None:
    backend.streams("hello")
    backend.health.does(hang)
    async with gateway_with(backend, policy=probed({**FAST, "timeout": "1h"})) as gw:
        assert await gw.chat() == "hello"
        assert await readiness(gw) == (200, 200)


# -- readiness


async def test_ready_needs_a_candidate_in_every_pool_and_readyz_at_least_a_first_round(backend: Backend) -> None:
    async with gateway_with(backend, policy=probed()) as gw:
        assert await readiness(gw) == (200, 200)
        await is_in(gw, "up")
        backend.health.answers(503)
        await is_in(gw, "down")
        # Taking the gateway out would bring the engine back no sooner, and clients would not learn what is wrong.
        assert await readiness(gw) == (503, 200)
        backend.health.answers(200)
        await is_in(gw, "up")
        assert await readiness(gw) == (200, 200)


# -- TLS, workers


async def test_endpoints_behind_a_private_authority_are_probed_as_they_are_asked(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    async with Backend(tls=authority.server("engine-a")) as backend:
        backend.streams("hello")
        tls = {"ca": str(authority.ca), "server_name": "engine-a"}
        async with gateway_with(backend, policy=probed(), endpoint={"tls": tls}) as gw:
            await is_in(gw, "up")
            assert await gw.chat() == "hello"
            await eventually(lambda: bool(backend.asked), "it was never asked for a token")
        async with gateway_with(backend, policy=probed()) as gw:
            await is_in(gw, "down")
            assert "CERTIFICATE_VERIFY_FAILED" in lines(gw, "endpoint_down")[0]


async def test_a_worker_that_hangs_is_found_as_a_listed_endpoint_is() -> None:
    workers = {"count": 1, "served_name": "m", "args": {"tokens": 2, "first-byte": "1ms", "gap": "1ms"}}
    policy = {"pools": {"pool": {"engine": "simulator", "endpoints": [], "workers": workers, "health": dict(HASTY)}}}
    async with gateway_with(policy=policy) as gw:
        await is_in(gw, "up", "pool-w0", timeout=20)
        await gw.chat()
        (spec,) = gw.gateway.plane.view.table.pools["pool"].endpoints  # type: ignore[union-attr] # it is started
        async with await Client.to(f"127.0.0.1:{spec.port}") as client:
            fault = request(
                "POST", "/simulator/faults", b'[{"kind": "freeze"}]', [("content-type", "application/json")]
            )
            await client.send(fault)
            assert (await client.answer()).status < 300
        await is_in(gw, "down", "pool-w0", timeout=20)
        assert gw.total("worker_restarts_total") == 0
