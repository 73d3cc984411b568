"""A reload that names another store: limits move there at once, and what is open is settled where it was taken."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.fakes.backend import Backend
from tests.fakes.redis_servers import Server, free_port, server
from tests.faults.limit_rig import eventually_idle, limited, mode, said, settled
from tests.flow.harness import Running, eventually, gateway_with

RULES: list[dict[str, Any]] = [
    {"concurrency": 10, "per": "all"},
    {"requests": "5/month", "strategy": "fixed_window", "per": "all"},
]
STRICT = {"timeout": "5s", "on_outage": "closed"}


@pytest.fixture
def started() -> Iterator[Server]:
    with server() as one:
        yield one


@pytest.fixture
def other() -> Iterator[Server]:
    with server() as one:
        yield one


async def reload(gw: Running, **changes: Any) -> None:
    """Put these parts of the policy in force; its log says so."""
    path = gw.folder / "policy.yaml"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    before = said(gw, "policy_loaded")
    await gw.gateway.reload()
    await eventually(lambda: said(gw, "policy_loaded") > before, gw.log_text)


def names(redis: Server) -> set[str]:
    return {key.partition("}")[0] for key in redis.ask("KEYS", "*")}


async def test_requests_go_to_the_new_store_and_what_is_open_is_settled_in_the_old(
    backend: Backend, started: Server, other: Server
) -> None:
    backend.streams("a", "b", hold=2)
    async with gateway_with(backend, policy=limited(started.url, *RULES, **STRICT)) as gw, await gw.connect() as client:
        await client.send(gw.chat_request())
        await client.until(b'"a"')
        held = slots(started)
        assert len(held) == 1
        await reload(gw, store={"url": other.url, **STRICT})
        await eventually(lambda: said(gw, "store_changed") == 1, gw.log_text)
        await settled(gw, [0, 0])
        backend.answers(200, b"{}")
        assert [(await gw.ask(stream=False)).status for _ in range(6)] == [200] * 5 + [429]
        # Nobody has taken the open one for finished, and when it is, its slot is free where it was taken.
        assert slots(started) == held
        backend.release.set()
        await client.until(b"[DONE]")
        await eventually(lambda: slots(started) == [], "its slot is held")
        await eventually_idle(gw)
        assert gw.total("limit_mode", state="store") == gw.total("limit_mode") == 1
        assert gw.total("store_errors_total") == 0
        # The old one may go: nobody asks it, and nobody speaks of it.
        started.stop()
        assert (await gw.ask(stream=False)).status == 429
        assert said(gw, "store_lost") == 0


def slots(redis: Server) -> list[str]:
    found = [key for key in redis.ask("KEYS", "*cs|*") if redis.ask("TYPE", key) == "zset"]
    return [lease for key in found for lease in redis.ask("ZRANGE", key, 0, -1)]


async def test_another_prefix_is_another_store(backend: Backend, started: Server) -> None:
    async with gateway_with(backend, policy=limited(started.url, *RULES, **STRICT)) as gw:
        assert (await gw.ask(stream=False)).status == 200
        assert names(started) == {"{sluice:limits:v1"}
        await reload(gw, store={"url": started.url, "prefix": "blue", **STRICT})
        await eventually(lambda: said(gw, "store_changed") == 1, gw.log_text)
        await settled(gw, [0, 0])
        assert (await gw.ask(stream=False)).status == 200
        await settled(gw, [0, 1])
        assert names(started) == {"{sluice:limits:v1", "{blue:limits:v1"}


async def test_limits_that_come_later_are_in_the_store_that_the_policy_names_then(
    backend: Backend, started: Server
) -> None:
    async with gateway_with(backend) as gw:
        plans = limited(started.url, *RULES, **STRICT)
        await reload(gw, **plans)
        await mode(gw, "store", within=5)
        assert (await gw.ask(stream=False)).status == 200
        assert names(started) == {"{sluice:limits:v1"}
        # A reload that changes nothing of the store changes no store, and one back to memory does.
        await reload(gw, plans={"test": {"limits": RULES[:1]}})
        assert said(gw, "store_changed") == 0
        await reload(gw, store={"url": "memory://"}, plans={"test": {"limits": RULES}})
        await eventually(lambda: said(gw, "store_changed") == 1, gw.log_text)
        await settled(gw, [0, 0])


async def test_a_new_store_that_is_away_is_said_once_and_its_policy_holds(backend: Backend, started: Server) -> None:
    away = Server(started.folder / "away")
    away.port = free_port()
    async with gateway_with(backend, policy=limited(started.url, *RULES, **STRICT)) as gw:
        assert (await gw.ask(stream=False)).status == 200
        await reload(gw, store={"url": away.url, "on_outage": "closed"})
        await eventually(lambda: said(gw, "store_changed") == 1, gw.log_text)
        assert (await gw.ask(stream=False)).status == 503
        await mode(gw, "closed", within=5)
        assert said(gw, "store_lost") == 1
        # And back again, as soon as the operator has seen it.
        await reload(gw, store={"url": started.url, **STRICT})
        await eventually(lambda: said(gw, "store_changed") == 2, gw.log_text)
        await mode(gw, "store", within=5)
        assert (await gw.ask(stream=False)).status == 200
        await settled(gw, [0, 2])
        assert (said(gw, "store_lost"), said(gw, "store_back")) == (1, 0)
