"""Faults 74 to 77 and 80 through the whole gateway: every hostile token and key is refused,
in either header, nothing is fetched for it and no file is opened."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from policies.identity.api_keys import new_key
from tests.fakes.backend import Backend
from tests.fakes.client import Answer, Client
from tests.fakes.hostile import EC, OTHER, RSA, Making, hostile
from tests.fakes.sealed import sealed
from tests.fakes.tokens import issuer_entry, jwk_set
from tests.flow.harness import Running, eventually, gateway_with

# A line of a head is so long at most (the parser's own limit): what is longer is refused before anybody reads it.
MAX_LINE = 16 * 1024
_addresses = count()


@pytest.fixture
async def sso() -> AsyncIterator[Backend]:
    """Who publishes the issuer's keys."""
    async with Backend() as one:
        yield one.answers(200, jwk_set(RSA.jwk(), EC.jwk()))


@pytest.fixture
async def trap() -> AsyncIterator[Backend]:
    """Where tokens would have us go; whoever connects is counted."""
    async with Backend() as one:
        yield one.answers(200, jwk_set(OTHER.jwk()))


@asynccontextmanager
async def issuing(sso: Backend, backend: Backend, server: Mapping[str, Any] | None = None) -> AsyncIterator[Running]:
    """A gateway with that issuer, whose keys it has."""
    issuer = issuer_entry({"url": f"{sso.url}/certs"})
    auth = {"jwt": [issuer], "anonymous": "free"}
    policy = {"auth": auth, "plans": {"free": {}}, "server": dict(server or {})}
    async with gateway_with(backend, policy=policy) as gw:
        view = gw.gateway.plane.view
        assert view is not None
        await eventually(lambda: gw.gateway.plane.view.table.issuers[0].keys is not None, "the keys never came")  # type: ignore[union-attr]
        yield gw


def asked(gw: Running, credential: str, header: str) -> bytes:
    """A request with this credential, of an address of its own: who fails often from one is held up."""
    number = next(_addresses)
    data = gw.chat_request(
        headers=[("x-forwarded-for", f"198.18.{number >> 8 & 255}.{number & 255}"), ("authorization", "-")]
    )
    line = f"{header}: {'Bearer ' if header == 'authorization' else ''}{credential}"
    return data.replace(b"authorization: -", line.encode("latin-1"))


async def tell(client: Client, gw: Running, credential: str, header: str) -> Answer:
    await client.send(asked(gw, credential, header))
    return await client.answer()


def sendable(token: str) -> bool:
    """Whether it can stand in a head at all, in a line that is not too long; the others are for a test of their own."""
    return token.isprintable() and len(token) < MAX_LINE - 100


@pytest.mark.parametrize("header", ["authorization", "x-api-key"])
async def test_every_hostile_token_is_401_and_nothing_is_fetched_or_opened(
    sso: Backend, backend: Backend, header: str
) -> None:
    tokens = {name: token for name, token in hostile(time.time(), 600.0).items() if sendable(token)}  # noqa: TID251
    assert len(tokens) > 150
    async with issuing(sso, backend) as gw, await gw.connect() as client:
        good = Making(time.time()).good  # noqa: TID251
        assert (await tell(client, gw, good, header)).status == 200
        with sealed(sockets=False):
            for name, token in tokens.items():
                answer = await tell(client, gw, token, header)
                over = name in ("time: expired", "time: expired long ago")
                code = "token_expired" if over else "invalid_api_key"
                assert (answer.status, answer.error["code"]) == (401, code), (name, answer)
        assert (await tell(client, gw, good, header)).status == 200
        assert (len(sso.requests), len(sso.accepted), backend.attempts) == (1, 1, 2)
        assert_untold(gw, await log_of(gw), [token for token in tokens.values() if len(token) > 40])


async def log_of(gw: Running) -> str:
    return json.dumps(await gw.access_lines()) + gw.log_text() + str(gw.series())


def assert_untold(gw: Running, text: str, secrets: list[str]) -> None:
    """Neither log nor metrics have anything of a credential, nor of a part of one."""
    parts = {part for secret in secrets for part in secret.split(".") if len(part) > 40}
    assert [part for part in parts if part in text] == []


async def test_nobody_goes_where_a_token_points(sso: Backend, backend: Backend, trap: Backend, tmp_path: Path) -> None:
    """The signature is right where the key that the token brings along, or names, is believed."""
    key = tmp_path / "key.pem"
    key.write_text("secret")
    made = Making(time.time())  # noqa: TID251
    headers: list[dict[str, Any]] = [
        {"jku": f"{trap.url}/certs"}, {"x5u": f"{trap.url}/cert.pem"}, {"jwk": OTHER.jwk()},
        {"jku": f"{trap.url}/certs", "kid": OTHER.kid, "jwk": OTHER.jwk(), "x5u": f"{trap.url}/x"},
        {"jku": f"http://localhost:{trap.url.rpartition(':')[2]}/"}, {"jku": f"file://{key}"}, {"x5c": ["MIIB"]},
        *({"kid": kid} for kid in (str(key), f"../..{key}", "/proc/self/environ", "/dev/zero", "..%2f..%2fetc/passwd")),
        *({"kid": kid} for kid in ("' OR '1'='1", "k1' UNION SELECT 'k1' --", "k1; DROP TABLE keys", "k" * 10_000)),
    ]  # fmt: skip
    async with issuing(sso, backend) as gw, await gw.connect() as client:
        with sealed(sockets=False):
            for header in headers:
                for name in ("authorization", "x-api-key"):
                    answer = await tell(client, gw, made.token(header=header, by=OTHER), name)
                    assert (answer.status, answer.error["code"]) == (401, "invalid_api_key"), header
        assert (len(sso.accepted), len(trap.accepted)) == (1, 0)
        # A URL may be a key's name. It is looked for where the policy says, once, and nowhere else.
        for kid in (f"{trap.url}/certs", f"{trap.url}/other"):
            answer = await tell(client, gw, made.token(by=replace(OTHER, kid=kid)), "authorization")
            assert answer.status == 401
        assert (len(sso.requests), len(trap.accepted)) == (2, 0)


@pytest.mark.parametrize("max_head", ["32KiB", "4MiB"])
@pytest.mark.parametrize("header", ["authorization", "x-api-key"])
async def test_a_credential_of_1_mb_is_431_before_anybody_reads_it(
    sso: Backend, backend: Backend, header: str, max_head: str
) -> None:
    """Of a token, of a key and of anything else; 431 and not 401, since the head is over its limit before there is a
    request (DESIGN, "What differs from the first design")."""
    made = Making(time.time())  # noqa: TID251
    async with issuing(sso, backend, {"max_head": max_head}) as gw:
        for credential in (made.token({"x": "y" * 1_000_000}), new_key() + "A" * 1_000_000, "x" * 1_000_000):
            async with await gw.connect() as client:
                answer = await tell(client, gw, credential, header)
                assert (answer.status, answer.error["code"]) == (431, "headers_too_large"), answer
                assert await client.rest() == b"", "the connection is closed"
        assert (len(sso.accepted), backend.attempts) == (1, 0)
        assert_untold(gw, await log_of(gw), ["y" * 50, "A" * 50, "x" * 50])


@pytest.mark.parametrize("size", [8193, 12_000, MAX_LINE - 200])
@pytest.mark.parametrize("header", ["authorization", "x-api-key"])
async def test_a_credential_that_fits_into_a_head_and_is_too_long_is_401(
    sso: Backend, backend: Backend, header: str, size: int
) -> None:
    good = Making(time.time()).good  # noqa: TID251
    async with issuing(sso, backend) as gw, await gw.connect() as client:
        with sealed(sockets=False):
            for begin in (good, gw.key, "dummy"):
                answer = await tell(client, gw, begin + "A" * (size - len(begin)), header)
                assert (answer.status, answer.error["code"]) == (401, "invalid_api_key"), answer
        assert (len(sso.accepted), backend.attempts) == (1, 0)


@pytest.mark.parametrize("header", ["authorization", "x-api-key"])
@pytest.mark.parametrize("odd", ["\r", "\0", "\n", "\x7f", "\r\n"])
async def test_what_cannot_stand_in_a_head_is_no_way_in(sso: Backend, backend: Backend, header: str, odd: str) -> None:
    """With a good token before it: refused, as a request or as a credential."""
    good = Making(time.time()).good  # noqa: TID251
    async with issuing(sso, backend) as gw:
        for credential in (good + odd + "x", good[:20] + odd + good[20:], odd + good):
            async with await gw.connect() as client:
                answer = await tell(client, gw, credential, header)
                assert answer.status in (400, 401), (answer, credential)
        assert backend.attempts == 0


async def test_a_key_in_the_query_a_cookie_or_the_body_is_none_and_is_not_logged(backend: Backend) -> None:
    async with gateway_with(backend) as gw:
        key = quote(gw.key)
        places = [
            ("cookie", f"key={key}"),
            ("api-key", key),
            ("x-goog-api-key", key),
            ("proxy-authorization", f"Bearer {key}"),
        ]
        for path in (f"/v1/chat/completions?api_key={key}", f"/v1/chat/completions?key={key}&access_token={key}"):
            data = gw.request(
                "POST", path, json.dumps({"model": "m", "api_key": key}).encode(), [*places, ("authorization", "")]
            )
            answer = await gw.send(data)
            assert (answer.status, answer.error["code"]) == (401, "invalid_api_key")
        assert gw.total("auth_failures_total", reason="missing") == 2
        assert gw.key not in await log_of(gw) and backend.attempts == 0
