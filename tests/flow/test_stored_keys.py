"""Keys in the store, through the whole gateway: how soon a change holds, and what holds while the store is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

import pytest

from backends.store.keys import open_keys
from policies.identity.api_keys import KeyEntry, digest, new_key
from policies.identity.keyring import created, revoked
from tests.fakes import redis_servers
from tests.fakes.backend import Backend
from tests.flow.asking import WITHIN, status, until_it_is
from tests.flow.harness import eventually, gateway_with

Change = Callable[[Sequence[KeyEntry]], Sequence[KeyEntry]]


@pytest.fixture
def server() -> Iterator[redis_servers.Server]:
    with redis_servers.server() as server:
        yield server


@pytest.fixture
async def backend() -> AsyncIterator[Backend]:
    async with Backend() as backend:
        yield backend.answers(200)


def stored(server: redis_servers.Server) -> dict[str, Any]:
    """A policy with its keys in that server."""
    return {"store": {"url": server.url}, "auth": {"api_keys": {"file": ..., "store": True}}}


async def change(server: redis_servers.Server, what: Change) -> None:
    async with open_keys(server.url, None, "sluice") as keys:
        await keys.change(what)


async def add(server: redis_servers.Server) -> str:
    key = new_key()
    entry = KeyEntry(id="k2", sha256=digest(key), tenant="acme", plan="test", created=1_763_650_057.0)
    await change(server, lambda entries: created(entries, entry))
    return key


async def test_a_created_and_a_revoked_key_hold_within_two_seconds_everywhere(
    backend: Backend, server: redis_servers.Server
) -> None:
    first = await add(server)
    async with gateway_with(backend, policy=stored(server), quiet=False) as one:
        assert await status(one, first) == 200
        async with gateway_with(backend, policy=stored(server), quiet=False) as other:
            assert await status(other, first) == 200
            await change(server, lambda entries: revoked(entries, "k2", now=0.0))
            assert await until_it_is(one, first, 401) < WITHIN
            assert await until_it_is(other, first, 401) < WITHIN
        assert "keys_loaded" in one.log_text()


async def test_while_the_store_is_away_the_last_keys_hold(backend: Backend, server: redis_servers.Server) -> None:
    key = await add(server)
    async with gateway_with(backend, policy=stored(server)) as gw:
        server.stop()
        await eventually(lambda: "keys_lost" in gw.log_text(), "nobody noticed", timeout=15)
        assert await status(gw, key) == 200
        await asyncio.sleep(1.2)
        assert gw.log_text().count("keys_lost") == 1
        # It comes back without its data, which is no reason to lock everybody out.
        server.start()
        await eventually(lambda: "keys_gone" in gw.log_text(), "nobody noticed", timeout=15)
        assert await status(gw, key) == 200
        fresh = await add(server)
        assert await until_it_is(gw, fresh, 200) < WITHIN
        assert await status(gw, key) == 401
        assert gw.log_text().count("keys_back") == 1
        assert gw.total("store_errors_total") > 0


async def test_a_gateway_starts_without_the_store_and_says_503_until_it_knows(
    backend: Backend, server: redis_servers.Server
) -> None:
    key = await add(server)
    server.freeze()
    try:
        async with gateway_with(backend, policy=stored(server)) as gw:
            answer = await gw.send(gw.chat_request(headers=[("authorization", f"Bearer {key}")]))
            assert (answer.status, answer.error["code"]) == (503, "identity_unavailable")
            assert answer.header("retry-after") == "2"
            assert gw.total("auth_failures_total") == 0
            server.thaw()
            await until_it_is(gw, key, 200)
            assert await status(gw, new_key()) == 401
    finally:
        server.thaw()


async def test_what_is_odd_in_the_store_changes_nothing(backend: Backend, server: redis_servers.Server) -> None:
    key = await add(server)
    async with gateway_with(backend, policy=stored(server)) as gw:
        server.ask("HSET", "sluice:keys:v1", "version", "odd", "0" * 64, "{}")
        await eventually(lambda: "keys_refused" in gw.log_text(), "nobody noticed", timeout=15)
        assert gw.total("store_errors_total", kind="other") > 0
        assert await status(gw, key) == 200
        server.ask("HSET", "sluice:keys:v1", "version", "even")
        server.ask("HDEL", "sluice:keys:v1", "0" * 64)
        await eventually(lambda: "keys_back" in gw.log_text(), "nobody noticed", timeout=15)
        assert await status(gw, key) == 200


async def test_a_reload_moves_the_keys_from_a_file_to_the_store(backend: Backend, server: redis_servers.Server) -> None:
    key = await add(server)
    async with gateway_with(backend) as gw:
        assert (await status(gw, gw.key), await status(gw, key)) == (200, 401)
        path = gw.folder / "policy.yaml"
        text = path.read_text()
        moved = text.replace('"api_keys": {"file": "keys.yaml"}', '"api_keys": {"store": true}')
        path.write_text(moved.replace('"version": 1', f'"version": 1, "store": {{"url": "{server.url}"}}'))
        await until_it_is(gw, key, 200)
        assert await status(gw, gw.key) == 401
        path.write_text(text)
        await until_it_is(gw, gw.key, 200)
        assert await status(gw, key) == 401
