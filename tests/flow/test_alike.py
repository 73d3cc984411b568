"""Nothing tells whether a key exists, or was one once: every credential that is no good is refused in the same words,
on every kind of route and in the same time. Of tokens: nothing tells whether an issuer has a key of that name, or knows
whom a forged one names."""

from __future__ import annotations

import json
import statistics
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from backends.identity.keyfile import change_keys
from policies.config.settings import PlanSettings
from policies.identity.api_keys import KeyEntry, digest, new_key
from policies.identity.authenticator import Authenticator, records
from policies.identity.principal import AuthenticationError
from policies.request.paths import SERVED
from tests.fakes.backend import Backend
from tests.fakes.client import Answer
from tests.fakes.tokens import Signer, issuer_entry, jwk_set, valid_now
from tests.flow.harness import Running, gateway_with
from tests.pace import Watch, cpu, slowdown

ROUTES = [
    *((kind.methods[0], kind.path) for kind in SERVED),
    *(("POST", f"/v2/models/m/{verb}") for verb in ("infer", "generate", "generate_stream")),
    *(("GET", path) for path in ("/v2/models/m", "/v2/models/m/versions/1/ready", "/v1/responses/resp_1")),
    *(("GET", path) for path in ("/v1/models", "/v1/models/m", "/v1/models/none", "/v1/usage")),
    ("POST", "/v1/responses/resp_1/cancel"), ("POST", "/predict/x"), ("HEAD", "/v1/models"),
]  # fmt: skip
ENTRY = KeyEntry(id="k2", sha256=b"", tenant="acme", plan="test", created=1.0)
Told = tuple[int, tuple[tuple[str, str], ...], bytes, str]
"""What a client sees of an answer, save what differs in any two: status, headers, body, and how it ended."""
_addresses = count()


def other_end(key: str) -> str:
    return key[:-1] + ("A" if key[-1] != "A" else "B")


def bad_keys() -> tuple[dict[str, str], list[KeyEntry]]:
    """Keys that are no good, by what is wrong with them, and what is written down of them."""
    revoked, expired, planless = new_key(), new_key(), new_key()
    entries = [
        replace(ENTRY, id="revoked", sha256=digest(revoked), revoked=2.0),
        replace(ENTRY, id="expired", sha256=digest(expired), expires=2.0),
        replace(ENTRY, id="planless", sha256=digest(planless), plan="gone"),
    ]
    keys = {
        "revoked": revoked, "expired": expired, "of a plan that is gone": planless, "unknown": new_key(),
        "wrong checksum": other_end(new_key()), "wrong checksum of a revoked one": other_end(revoked),
        "too short": "sk-sluice-short", "another prefix": "sk-other-" + new_key()[10:], "a word": "dummy",
        "odd characters": "sk-sluice-\xe9\x80", "two": f"{revoked} {expired}",
    }  # fmt: skip
    return keys, entries


async def answer(gw: Running, route: tuple[str, str], credential: str, header: str) -> Told:
    method, path = route
    body = b'{"model": "m", "messages": []}' if method == "POST" else None
    # Of an address of its own each: who fails often from one is held up, and that is another test.
    number = next(_addresses)
    pairs = [("x-forwarded-for", f"198.18.{number >> 8 & 255}.{number & 255}")]
    if header == "authorization":
        pairs.append((header, f"Bearer {credential}"))
    data = gw.request(method, path, body, [*pairs, *([] if header == "authorization" else [("authorization", "-")])])
    if header != "authorization":
        data = data.replace(b"authorization: -", header.encode() + b": " + credential.encode("latin-1"))
    told: Answer = await gw.send(data, method=method)
    headers = sorted((name, value) for name, value in told.headers if name not in ("x-request-id", "date"))
    return told.status, tuple(headers), told.body, told.end


async def differ(gw: Running, credentials: Mapping[str, str], route: tuple[str, str]) -> dict[Told, list[str]]:
    """Which answers there are to these, each with what was answered so."""
    found: dict[Told, list[str]] = {}
    for header in ("authorization", "x-api-key"):
        for name, credential in credentials.items():
            found.setdefault(await answer(gw, route, credential, header), []).append(f"{name} in {header}")
    return found


@pytest.mark.parametrize("jwt", [False, True], ids=["keys alone", "keys and issuers"])
async def test_bad_keys_are_refused_alike_on_every_kind_of_route(backend: Backend, tmp_path: Path, jwt: bool) -> None:
    keys, entries = bad_keys()
    policy: dict[str, Any] = {"routes": [{"path": "/predict/*", "pool": "pool"}, {"model": "m", "pool": "pool"}]}
    if jwt:
        policy["auth"] = {"jwt": [issuer(tmp_path)]}
    async with gateway_with(backend, policy=policy) as gw:
        await written(gw, entries)
        keys["near a good one"] = other_end(gw.key)
        keys["beyond a good one"] = gw.key + "A"
        for route in ROUTES:
            found = await differ(gw, keys, route)
            assert len(found) == 1, (route, found)
            assert next(iter(found))[0] == 401, (route, found)
        assert backend.attempts == 0


async def written(gw: Running, entries: list[KeyEntry]) -> None:
    change_keys(gw.folder / "keys.yaml", lambda before: [*before, *entries])
    await gw.gateway.reload()
    view = gw.gateway.plane.view
    assert view is not None and len(view.table.keys) == 1 + len(entries) - 1, "all but the one of a plan that is gone"


async def test_bad_keys_are_refused_in_the_same_time(backend: Backend) -> None:
    """Over a real socket, in turns: what the machine is busy with meets all of them."""
    keys, entries = bad_keys()
    async with gateway_with(backend) as gw:
        await written(gw, entries)
        kinds = {name: keys[name] for name in ("revoked", "expired", "unknown", "wrong checksum", "a word")}
        took: dict[str, list[float]] = {name: [] for name in kinds}
        for _ in range(60):
            for name, key in kinds.items():
                watch = Watch()
                assert (await answer(gw, ("POST", "/v1/chat/completions"), key, "authorization"))[0] == 401
                took[name].append(watch.own)
        medians = {name: statistics.median(times) for name, times in took.items()}
        assert max(medians.values()) < 2 * min(medians.values()) + 0.002 * slowdown(), medians


def test_to_refuse_one_takes_as_much_as_to_refuse_another() -> None:
    """By itself: 2 to 6 us each. Over a network nobody sees a difference of some microseconds."""
    keys, entries = bad_keys()
    gate = Authenticator(records(entries, {"test": PlanSettings()})[0], None, lambda: 10.0)

    def refuse(key: str) -> None:
        for _ in range(1000):
            try:
                gate.authenticate(b"Bearer " + key.encode("latin-1"), None)
            except AuthenticationError:
                continue
            raise AssertionError("it was let in")

    took = {name: cpu(lambda: refuse(key)) * 1000 for name, key in keys.items()}  # noqa: B023  called at once
    assert max(took.values()) - min(took.values()) < 15 * slowdown(), took


# -- tokens


RSA, FORGER = Signer(), Signer(name="forger")


def issuer(folder: Path) -> dict[str, Any]:
    file = folder / "jwks.json"
    file.write_bytes(jwk_set(RSA.jwk()))
    return issuer_entry({"file": str(file)})


@asynccontextmanager
async def with_issuer(backend: Backend, folder: Path) -> AsyncIterator[Running]:
    policy = {"auth": {"jwt": [issuer(folder)]}, "plans": {"free": {}}}
    async with gateway_with(backend, policy=policy) as gw:
        good = await gw.send(
            gw.chat_request(headers=[("authorization", f"Bearer {RSA.token(valid_now())}")], stream=False)
        )
        assert good.status == 200
        yield gw


def forged(over: Mapping[str, Any]) -> dict[str, str]:
    """Tokens that the issuer has not signed, with these claims."""
    return {
        "a known kid": FORGER.token(over),
        "an unknown kid": replace(FORGER, kid="k9").token(over),
        "a kid that is a path": replace(FORGER, kid="../k1").token(over),
        "no kid": replace(FORGER, kid=None).token(over),
        "known people": FORGER.token({**over, "sub": "alice", "org_id": "acme", "tier": "free"}),
        "unknown people": FORGER.token({**over, "sub": "eve", "org_id": "evil", "tier": "none"}),
        "no people": FORGER.token({**over, "sub": ..., "org_id": ..., "tier": ...}),
    }


@pytest.mark.parametrize("over", [False, True], ids=["valid now", "over"])
async def test_forged_tokens_are_refused_alike_on_every_kind_of_route(
    backend: Backend, tmp_path: Path, over: bool
) -> None:
    claims = valid_now(exp=1, iat=...) if over else valid_now()
    async with with_issuer(backend, tmp_path) as gw:
        tokens = forged(claims)
        if over:
            # Also one that the issuer has signed: the date is told, and not who has signed it.
            tokens["the issuer's own"] = RSA.token(claims)
        for route in ROUTES:
            if route[1].startswith("/predict"):
                continue
            found = await differ(gw, tokens, route)
            assert len(found) == 1, (route, found)
            assert next(iter(found))[0] == 401, (route, found)
        (told,) = await differ(gw, tokens, ROUTES[0])
        assert json.loads(told[2])["error"]["code"] == ("token_expired" if over else "invalid_api_key")
        assert backend.attempts == 1
