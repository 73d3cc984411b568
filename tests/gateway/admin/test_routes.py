"""The routes that are not inference: health, readiness, models; liveness and metrics on the admin port."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics

from backends.identity.keyfile import change_keys
from policies.identity.api_keys import KeyEntry, digest, new_key
from tests.fakes.backend import Backend
from tests.fakes.client import Answer, Client, request
from tests.flow.harness import Running, gateway_with

NAMED = {
    "plans": {"test": {}, "small": {"models": ["small-*", "org/small"]}},
    "routes": [
        {"model": "m", "pool": "pool", "aliases": ["gpt-4o-mini"]},
        {"model": "small-1", "pool": "pool"},
        {"model": "org/small", "pool": "pool"},
        {"model": "wild-*", "pool": "pool"},
    ],
}
# A pool of workers of which none is ever ready: it says nothing on its port.
NEVER_READY = {
    "pools": {
        "pool": {
            "engine": "http",
            "endpoints": [],
            "workers": {"command": ["sleep", "60"], "start_timeout": "30s", "stop": {"kill_after": "0s"}},
        }
    }
}


async def ask(address: str, method: str, path: str, headers: list[tuple[str, str]] | None = None) -> Answer:
    """One request on a connection of its own."""
    async with await Client.to(address) as client:
        await client.send(request(method, path, None, headers, host="localhost"))
        return await client.answer(method=method)


def bearer(key: str) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {key}")]


def small_key(gw: Running) -> str:
    """A second key, of the plan `small`; it holds once the keys file is read again."""
    key = new_key()
    entry = KeyEntry(id="k2", sha256=digest(key), tenant="tiny", plan="small", created=1_763_650_057.0)
    change_keys(gw.folder / "keys.yaml", lambda entries: [*entries, entry])
    return key


# -- the client port


async def test_health_needs_no_key_and_tells_what_runs(backend: Backend) -> None:
    backend.streams("one", "two", hold=2)
    async with gateway_with(backend) as gw:
        answer = await ask(gw.gateway.address, "GET", "/health")
        assert (answer.status, answer.header("content-type")) == (200, "application/json")
        expected = {"status": "ok", "active_requests": 0, "model_loaded": True, "gpu_memory_used": None}
        assert answer.json == expected
        async with await gw.connect() as client:
            await client.send(gw.chat_request())
            await client.until(b"one")
            assert (await ask(gw.gateway.address, "GET", "/health")).json == {**expected, "active_requests": 1}
            backend.release.set()
            await client.until(b"[DONE]")


async def test_ready_is_200_while_every_pool_has_a_candidate(backend: Backend) -> None:
    async with gateway_with(backend) as gw:
        answer = await ask(gw.gateway.address, "GET", "/ready")
        assert (answer.status, answer.header("content-type")) == (200, "application/json")
        admin = await ask(gw.gateway.admin_address, "GET", "/readyz")
        assert (admin.status, admin.body) == (200, b"ready\n")


async def test_ready_is_503_with_its_words_while_a_pool_has_none() -> None:
    async with gateway_with(policy=NEVER_READY) as gw:
        answer = await ask(gw.gateway.address, "GET", "/ready")
        assert (answer.status, answer.error["message"]) == (503, "Model not ready")
        assert answer.header("retry-after") == "1"
        health = await ask(gw.gateway.address, "GET", "/health")
        assert (health.status, health.json["model_loaded"]) == (200, False)
        admin = await ask(gw.gateway.admin_address, "GET", "/readyz")
        assert admin.status == 503
        assert b"pool" in admin.body
        assert (await ask(gw.gateway.admin_address, "GET", "/healthz")).status == 200


@pytest.mark.parametrize("path", ["/health", "/ready", "/v1/models", "/v1/models/m"])
async def test_head_is_get_without_the_body(backend: Backend, path: str) -> None:
    async with gateway_with(backend) as gw:
        got = await ask(gw.gateway.address, "GET", path, bearer(gw.key))
        headed = await ask(gw.gateway.address, "HEAD", path, bearer(gw.key))
        assert (headed.status, headed.body) == (got.status, b"")
        assert headed.header("content-length") == got.header("content-length") == str(len(got.body))


# -- the models


async def test_models_are_the_names_of_the_routes_without_their_globs(backend: Backend) -> None:
    async with gateway_with(backend, policy=NAMED) as gw:
        answer = await ask(gw.gateway.address, "GET", "/v1/models", bearer(gw.key))
        assert (answer.status, answer.header("content-type")) == (200, "application/json")
        assert answer.json["object"] == "list"
        assert [one["id"] for one in answer.json["data"]] == ["m", "gpt-4o-mini", "small-1", "org/small"]
        for one in answer.json["data"]:
            assert (one["object"], one["owned_by"], type(one["created"])) == ("model", "sluice", int)


async def test_models_are_those_that_the_key_may_use(backend: Backend) -> None:
    async with gateway_with(backend, policy=NAMED) as gw:
        key = small_key(gw)
        await gw.gateway.reload()
        listed = await ask(gw.gateway.address, "GET", "/v1/models", bearer(key))
        assert [one["id"] for one in listed.json["data"]] == ["small-1", "org/small"]
        assert (await ask(gw.gateway.address, "GET", "/v1/models/small-1", bearer(key))).status == 200
        refused = await ask(gw.gateway.address, "GET", "/v1/models/m", bearer(key))
        unknown = await ask(gw.gateway.address, "GET", "/v1/models/nothing", bearer(key))
        assert (refused.status, refused.error["code"]) == (404, "model_not_found")
        # Whoever may not use a model can't find out that it is there.
        assert refused.body.replace(b'\\"m\\"', b"") == unknown.body.replace(b'\\"nothing\\"', b"")


@pytest.mark.parametrize("path", ["/v1/models/m", "/v1/models/gpt-4o-mini", "/v1/models/org/small"])
async def test_a_model_is_found_by_its_name(backend: Backend, path: str) -> None:
    async with gateway_with(backend, policy=NAMED) as gw:
        answer = await ask(gw.gateway.address, "GET", path, bearer(gw.key))
        assert (answer.status, answer.json["id"]) == (200, path.removeprefix("/v1/models/"))


@pytest.mark.parametrize("path", ["/v1/models/org%2Fsmall", "/v1/models/%6D"])
async def test_a_models_name_may_be_percent_encoded(backend: Backend, path: str) -> None:
    """The openai SDK encodes the slash of `models.retrieve("org/small")`."""
    async with gateway_with(backend, policy=NAMED) as gw:
        answer = await ask(gw.gateway.address, "GET", path, bearer(gw.key))
        assert answer.status == 200


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/m", "/v1/models/nothing"])
@pytest.mark.parametrize("headers", [[], bearer("wrong"), [("x-api-key", "wrong")]], ids=["none", "wrong", "x-api-key"])
async def test_models_need_a_key(backend: Backend, path: str, headers: list[tuple[str, str]]) -> None:
    async with gateway_with(backend) as gw:
        answer = await ask(gw.gateway.address, "GET", path, headers)
        assert (answer.status, answer.error["code"]) == (401, "invalid_api_key")


async def test_two_credentials_of_one_name_are_none(backend: Backend) -> None:
    async with gateway_with(backend) as gw:
        answer = await ask(gw.gateway.address, "GET", "/v1/models", bearer(gw.key) * 2)
        assert answer.status == 401


async def test_models_go_by_x_api_key_too(backend: Backend) -> None:
    async with gateway_with(backend) as gw:
        assert (await ask(gw.gateway.address, "GET", "/v1/models", [("x-api-key", gw.key)])).status == 200


async def test_where_anonymous_is_allowed_models_need_no_key(backend: Backend) -> None:
    policy: dict[str, Any] = {**NAMED, "auth": {"anonymous": "small"}}
    async with gateway_with(backend, policy=policy) as gw:
        answer = await ask(gw.gateway.address, "GET", "/v1/models")
        assert [one["id"] for one in answer.json["data"]] == ["small-1", "org/small"]


# -- the admin port


async def test_healthz_is_alive_in_plain_text(backend: Backend) -> None:
    async with gateway_with(backend) as gw:
        answer = await ask(gw.gateway.admin_address, "GET", "/healthz")
        assert (answer.status, answer.body) == (200, b"ok\n")
        assert (answer.header("content-type") or "").startswith("text/plain")


async def test_metrics_come_as_text_and_as_openmetrics(backend: Backend) -> None:
    async with gateway_with(backend) as gw:
        await gw.ask(stream=False)
        text = await ask(gw.gateway.admin_address, "GET", "/metrics")
        assert text.status == 200
        assert (text.header("content-type") or "").startswith("text/plain; version=")
        assert b"sluice_requests_total{" in text.body
        accept = [("accept", "application/openmetrics-text; version=1.0.0")]
        opened = await ask(gw.gateway.admin_address, "GET", "/metrics", accept)
        assert (opened.header("content-type") or "").startswith("application/openmetrics-text")
        families = openmetrics(opened.body.decode())  # type: ignore[no-untyped-call]
        assert {"sluice_requests", "sluice_policy_generation"} <= {family.name for family in families}


@pytest.mark.parametrize("path", ["/", "/health", "/v1/models", "/v1/chat/completions", "/metrics/", "/api/nothing"])
async def test_the_admin_port_serves_nothing_else(backend: Backend, path: str) -> None:
    async with gateway_with(backend) as gw:
        answer = await ask(gw.gateway.admin_address, "GET", path)
        assert (answer.status, answer.error["code"]) == (404, "path_not_found")
        assert answer.header("content-type") == "application/json"


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
async def test_the_client_port_serves_nothing_of_the_admin_ports(backend: Backend, path: str) -> None:
    async with gateway_with(backend) as gw:
        assert (await ask(gw.gateway.address, "GET", path)).status == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY"])
async def test_a_wrong_method_is_405_and_says_which_are_right(backend: Backend, method: str) -> None:
    async with gateway_with(backend) as gw:
        for address, path in ((gw.gateway.admin_address, "/metrics"), (gw.gateway.address, "/health")):
            answer = await ask(address, method, path)
            assert (answer.status, answer.header("allow")) == (405, "GET, HEAD")
            assert answer.error["code"] == "method_not_allowed"
            assert answer.header("content-type") == "application/json"
