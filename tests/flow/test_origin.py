"""One address for all that is counted by address: guesses on every kind of route, and limits `per: ip`. It is whom a
trusted proxy names, else the peer; of IPv6 its /64."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from typing import Any

import pytest

from policies.identity.api_keys import new_key
from tests.fakes.backend import Backend
from tests.fakes.client import Answer
from tests.flow.harness import Running, gateway_with

PROXY: dict[str, Any] = {"trusted_proxies": ["127.0.0.0/8"]}
NO_PROXY: dict[str, Any] = {"trusted_proxies": []}
ROUTES = (("POST", "/v1/chat/completions"), ("GET", "/v1/models"), ("GET", "/v1/models/m"), ("GET", "/v1/usage"))


def policy(server: dict[str, Any], **plan: Any) -> dict[str, Any]:
    return {"server": server, "plans": {"test": plan}}


async def ask(gw: Running, route: tuple[str, str], forwarded: str, key: str | None = None) -> Answer:
    method, path = route
    headers = [("authorization", f"Bearer {key or new_key()}"), ("x-forwarded-for", forwarded)]
    body = b'{"model": "m", "messages": []}' if method == "POST" else None
    return await gw.send(gw.request(method, path, body, headers), method=method)


async def guesses(gw: Running, addresses: Sequence[str], routes: Sequence[tuple[str, str]] = ROUTES) -> list[int]:
    """What twenty guesses are told, from these addresses and on these routes in turn."""
    places = itertools.islice(zip(itertools.cycle(routes), itertools.cycle(addresses)), 20)
    return [answer.status for answer in await asyncio.gather(*(ask(gw, *place) for place in places))]


async def slowed(gw: Running, route: tuple[str, str], forwarded: str) -> bool:
    """Whether this address is told 429. On a machine that is slow a guess more is within the limit: one every 3 s."""
    for _ in range(5):
        if (await ask(gw, route, forwarded)).status == 429:
            return True
    return False


@pytest.mark.parametrize("last", ROUTES, ids=[path for _, path in ROUTES])
async def test_guesses_on_all_routes_count_for_the_client_that_the_trusted_proxy_names(
    backend: Backend, last: tuple[str, str]
) -> None:
    async with gateway_with(backend, policy=policy(PROXY)) as gw:
        # What the client itself wrote before it does not count.
        assert set(await guesses(gw, ["198.51.100.1, 203.0.113.9", "203.0.113.9", "evil, 203.0.113.9"])) == {401}
        assert await slowed(gw, last, "203.0.113.9")
        assert (await ask(gw, last, "203.0.113.10")).status == 401
        assert (await ask(gw, last, "203.0.113.9", gw.key)).status == 200


@pytest.mark.parametrize("last", ROUTES, ids=[path for _, path in ROUTES])
async def test_without_a_trusted_proxy_nobody_guesses_under_another_address(
    backend: Backend, last: tuple[str, str]
) -> None:
    async with gateway_with(backend, policy=policy(NO_PROXY)) as gw:
        assert set(await guesses(gw, [f"203.0.113.{n}" for n in range(20)])) == {401}
        assert await slowed(gw, last, "203.0.113.99")


@pytest.mark.parametrize("route", ROUTES, ids=[path for _, path in ROUTES])
async def test_a_host_of_ipv6_guesses_from_one_address(backend: Backend, route: tuple[str, str]) -> None:
    async with gateway_with(backend, policy=policy(PROXY)) as gw:
        mine = ["2001:db8::1", "2001:DB8:0:0::2", "2001:db8::ffff:ffff:ffff:ffff"]
        assert set(await guesses(gw, mine, [route])) == {401}
        assert await slowed(gw, route, "2001:db8::3")
        assert (await ask(gw, route, "2001:db8:0:1::1")).status == 401


TWO_A_DAY = [{"requests": "2/day", "per": "ip"}]


async def left(gw: Running, forwarded: str) -> int:
    """What /v1/usage says is left for an address."""
    usage = await ask(gw, ("GET", "/v1/usage"), forwarded, gw.key)
    assert usage.status == 200
    remaining: int = usage.json["limits"][0]["remaining"]
    return remaining


async def chats(gw: Running, forwarded: str) -> int:
    return (await ask(gw, ROUTES[0], forwarded, gw.key)).status


async def test_limits_per_ip_are_of_the_client_that_the_trusted_proxy_names(backend: Backend) -> None:
    async with gateway_with(backend, policy=policy(PROXY, limits=TWO_A_DAY)) as gw:
        assert [await chats(gw, "203.0.113.9") for _ in range(3)] == [200, 200, 429]
        assert [await left(gw, address) for address in ("203.0.113.9", "::ffff:203.0.113.9", "203.0.113.10")] == [
            0, 0, 2,
        ]  # fmt: skip
        assert await chats(gw, "203.0.113.10") == 200
        assert [await chats(gw, f"2001:db8::{n}") for n in range(3)] == [200, 200, 429]
        assert (await left(gw, "2001:db8::9"), await left(gw, "2001:db8:0:1::9")) == (0, 2)


async def test_without_a_trusted_proxy_limits_per_ip_are_of_the_peer(backend: Backend) -> None:
    async with gateway_with(backend, policy=policy(NO_PROXY, limits=TWO_A_DAY)) as gw:
        assert [await chats(gw, f"203.0.113.{n}") for n in range(3)] == [200, 200, 429]
        assert await left(gw, "203.0.113.77") == 0
