"""The admin API of a running gateway: what it tells of pools and endpoints, and what an operator's order changes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.fakes.backend import Backend
from tests.fakes.client import Answer, Client, request
from tests.flow.harness import Running, eventually, gateway_with

JSON = ("content-type", "application/json")


async def ask(
    gw: Running, method: str, path: str, body: bytes | None = None, headers: list[tuple[str, str]] | None = None,
    *, host: str = "127.0.0.1:9901",
) -> Answer:  # fmt: skip
    """One request to the admin port."""
    async with await Client.to(gw.gateway.admin_address) as client:
        await client.send(request(method, path, body, headers, host=host))
        return await client.answer(method=method)


async def order(gw: Running, name: str, what: str, body: Any = None) -> Answer:
    data = b"" if body is None else json.dumps(body).encode()
    return await ask(gw, "POST", f"/api/endpoints/{name}/{what}", data, [JSON])


async def told(gw: Running, name: str = "pool-0") -> dict[str, Any]:
    """What the API says of one endpoint."""
    answer = await ask(gw, "GET", "/api/endpoints")
    (found,) = [one for one in answer.json["endpoints"] if one["name"] == name]
    assert isinstance(found, dict)
    return found


async def audited(gw: Running, count: int) -> list[str]:
    def lines() -> list[str]:
        return [line for line in gw.log_text().splitlines() if " operator_order " in line]

    await eventually(lambda: len(lines()) >= count, "no audit line")
    return [line.split(" ", 1)[1] for line in lines()]


# -- what it tells


async def test_pools_are_told_with_their_endpoints_and_states(backend: Backend, other: Backend) -> None:
    async with gateway_with(backend, other) as gw:
        answer = await ask(gw, "GET", "/api/pools")
        assert (answer.status, answer.header("content-type")) == (200, "application/json")
        (pool,) = answer.json["pools"]
        assert sum(pool.pop("states").values()) == 2
        assert pool == {
            "name": "pool", "engine": "vllm", "balance": "least_requests", "endpoints": ["pool-0", "pool-1"],
            "candidates": 2, "in_flight": 0,
        }  # fmt: skip


async def test_an_endpoint_is_told_with_all_that_it_has_come_to(backend: Backend) -> None:
    backend.streams("one", "two", hold=2)
    async with gateway_with(backend, endpoint={"weight": 2}) as gw, await gw.connect() as client:
        await client.send(gw.chat_request())
        await client.until(b"one")
        found = await told(gw)
        assert found.pop("state") in ("unknown", "up")
        assert found.pop("probes") in ("unknown", "up")
        found.pop("last_probe")
        assert found == {
            "name": "pool-0", "pool": "pool", "engine": "vllm", "address": backend.url, "reason": None,
            "drained": False, "in_flight": 1, "weight": 2.0, "warmth": 1.0, "paused_for": 0.0, "ejected_for": 0.0,
            "breaker": {"forced": None, "models": {}}, "worker": None,
        }  # fmt: skip
        backend.release.set()
        await client.until(b"[DONE]")
        await eventually(lambda: gw.gateway.plane.in_flight == 0, "it never ended")
        assert (await told(gw))["in_flight"] == 0


async def test_no_credential_of_an_endpoint_is_told(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLUICE_TEST_ENGINE_KEY", "engine-secret")
    pools = {"pool": {"engine": "vllm", "api_key": {"env": "SLUICE_TEST_ENGINE_KEY"}}}
    hidden = {"headers": {"x-upstream": "header-secret"}}
    async with gateway_with(backend, policy={"pools": pools}, endpoint=hidden) as gw:
        for path in ("/api/pools", "/api/endpoints"):
            body = (await ask(gw, "GET", path)).body
            assert b"secret" not in body, body


async def test_why_an_endpoint_is_out_is_told(backend: Backend) -> None:
    backend.answers(503, headers=[("retry-after", "20")])
    async with gateway_with(backend, route={"retry": "off"}) as gw:
        assert (await gw.ask()).status == 503
        found = await told(gw)
        assert found["state"] == "paused"
        assert 15 < found["paused_for"] <= 20
        assert found["reason"]
        (pool,) = (await ask(gw, "GET", "/api/pools")).json["pools"]
        assert (pool["states"], pool["candidates"]) == ({"paused": 1}, 0)


async def test_the_last_probe_is_told(backend: Backend) -> None:
    pools = {"pool": {"health": {"every": "50ms"}}}
    async with gateway_with(backend, policy={"pools": pools}) as gw:
        await eventually(lambda: gw.total("probes_total") > 0, "it was never probed")
        found = (await told(gw))["last_probe"]
        assert (found["ok"], found["found"]) == (True, "good")
        assert 0 <= found["seconds_ago"] < 5


async def test_a_worker_that_is_not_ready_is_an_endpoint_that_is_down() -> None:
    workers = {"command": ["sleep", "60"], "start_timeout": "30s", "count": 1, "stop": {"kill_after": "0s"}}
    pools = {"pool": {"engine": "http", "endpoints": [], "workers": workers}}
    async with gateway_with(policy={"pools": pools}) as gw:
        found = await told(gw, "pool-w0")
        assert (found["state"], found["address"], found["reason"]) == ("down", None, "the worker is starting")
        assert (found["worker"]["state"], found["worker"]["starts"]) == ("starting", 1)
        assert found["worker"]["pid"] > 0
        # An order for it holds from its first request on.
        assert (await order(gw, "pool-w0", "drain")).json["drained"] is True


# -- orders


async def test_a_drained_endpoint_gets_nothing_new_and_what_is_under_way_goes_on(
    backend: Backend, other: Backend
) -> None:
    backend.streams("one", "two", hold=2).then.streams("again")
    other.streams("other")
    async with gateway_with(backend, other) as gw, await gw.connect() as client:
        await order(gw, "pool-1", "drain")
        await client.send(gw.chat_request())
        await client.until(b"one")
        await order(gw, "pool-1", "resume")
        answer = await order(gw, "pool-0", "drain")
        assert (answer.status, answer.json["drained"], answer.json["state"]) == (200, True, "draining")
        assert (answer.json["reason"], answer.json["in_flight"]) == ("drained by an operator", 1)
        assert [await gw.chat() for _ in range(6)] == ["other"] * 6
        backend.release.set()
        assert b"[DONE]" in await client.until(b"0\r\n\r\n")
        answer = await order(gw, "pool-0", "resume")
        assert (answer.status, answer.json["drained"]) == (200, False)
        # It comes back slowly, as every endpoint does.
        await order(gw, "pool-1", "drain")
        assert await gw.chat() == "again"


async def test_a_drained_pool_says_that_nobody_is_there(backend: Backend) -> None:
    backend.streams("hello")
    async with gateway_with(backend) as gw:
        await order(gw, "pool-0", "drain")
        answer = await gw.ask()
        assert (answer.status, answer.error["code"]) == (503, "no_endpoint_available")
        await order(gw, "pool-0", "resume")
        assert await gw.chat() == "hello"


async def test_a_breaker_is_held_open_or_closed_until_it_is_left_to_the_outcomes(
    backend: Backend, other: Backend
) -> None:
    backend.streams("first")
    other.streams("other")
    async with gateway_with(backend, other) as gw:
        answer = await order(gw, "pool-0", "breaker", {"state": "open"})
        assert (answer.status, answer.json["breaker"]["forced"]) == (200, "open")
        assert [await gw.chat() for _ in range(4)] == ["other"] * 4
        assert gw.total("breaker_state", endpoint="pool-0", state="open") == 1
        # Nobody looks past a breaker that an operator holds open.
        await order(gw, "pool-1", "drain")
        assert (await gw.ask()).status == 503
        assert (await order(gw, "pool-0", "breaker", {"state": "auto"})).json["breaker"]["forced"] is None
        assert await gw.chat() == "first"
        assert (await order(gw, "pool-0", "breaker", {"state": "closed"})).json["breaker"]["forced"] == "closed"
        backend.answers(500)
        for _ in range(8):
            assert (await gw.ask()).status == 500
        assert gw.total("breaker_state", endpoint="pool-0", state="closed") == 1


async def test_orders_outlive_reloads_while_the_endpoint_is_there(backend: Backend, other: Backend) -> None:
    backend.streams("first")
    other.streams("other")
    # The counts of an endpoint go with it, so the harness would miss them.
    async with gateway_with(backend, other, quiet=False) as gw:
        await order(gw, "pool-0", "drain")
        await order(gw, "pool-0", "breaker", {"state": "open"})
        await gw.gateway.reload()
        found = await told(gw)
        assert (found["drained"], found["breaker"]["forced"]) == (True, "open")
        assert await gw.chat() == "other"
        # It goes, and one of that name that comes later is another.
        path = gw.folder / "policy.yaml"
        whole = json.loads(path.read_text())
        named = {**whole, "pools": {"pool": {"endpoints": [{"url": other.url, "name": "else"}]}}}
        for document in (named, whole):
            path.write_text(json.dumps(document))
            await gw.gateway.reload()
        found = await told(gw)
        assert (found["drained"], found["breaker"]["forced"]) == (False, None)


async def test_every_order_is_a_line_of_the_log_with_who_what_before_and_after(backend: Backend) -> None:
    async with gateway_with(backend, policy={"observe": {"log": {"level": "error"}}}) as gw:
        await order(gw, "pool-0", "drain")
        await order(gw, "pool-0", "drain")
        await order(gw, "pool-0", "resume")
        await order(gw, "pool-0", "breaker", {"state": "open"})
        await order(gw, "nobody", "drain")
        said = "INFO operator_order who=127.0.0.1 what={} pool=pool endpoint=pool-0 before={} after={}"
        assert await audited(gw, 4) == [
            said.format("drain", "serving", "drained"),
            said.format("drain", "drained", "drained"),
            said.format("resume", "drained", "serving"),
            said.format('"breaker open"', "auto", "open"),
        ]


# -- what is refused


async def test_an_unknown_endpoint_is_404_with_those_that_there_are(backend: Backend, other: Backend) -> None:
    async with gateway_with(backend, other) as gw:
        for what, body in (("drain", None), ("resume", {}), ("breaker", {"state": "open"})):
            answer = await order(gw, "pool-7", what, body)
            assert (answer.status, answer.error["code"]) == (404, "path_not_found")
            assert answer.error["message"] == 'No endpoint "pool-7" (known: pool-0, pool-1).'


WRONG_BODIES = [
    (b"", 400, "invalid_json"),
    (b"open", 400, "invalid_json"),
    (b"{}", 400, "invalid_request"),
    (b"[]", 400, "invalid_request"),
    (b'{"state": "ajar"}', 400, "invalid_request"),
    (b'{"state": true}', 400, "invalid_request"),
    (b'{"state": "open", "for": "1h"}', 400, "invalid_request"),
    (b'{"state": "open"' + b" " * 4096 + b"}", 413, "body_too_large"),
]


@pytest.mark.parametrize(("body", "status", "code"), WRONG_BODIES)
async def test_a_body_that_is_no_order_is_refused(backend: Backend, body: bytes, status: int, code: str) -> None:
    async with gateway_with(backend) as gw:
        answer = await ask(gw, "POST", "/api/endpoints/pool-0/breaker", body, [JSON])
        assert (answer.status, answer.error["code"]) == (status, code)
        assert (await told(gw))["breaker"]["forced"] is None


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([], 415),
        ([("content-type", "text/plain")], 415),
        ([("content-type", "application/x-www-form-urlencoded")], 415),
        ([("content-type", "application/json; charset=utf-8")], 200),
        ([JSON, ("origin", "http://evil.example")], 403),
        ([JSON, ("origin", "http://127.0.0.1:1")], 403),
        ([JSON, ("origin", "null")], 403),
        ([JSON, ("origin", "")], 403),
        ([JSON, ("origin", "http://127.0.0.1:9901")], 200),
        ([JSON, ("origin", "https://127.0.0.1:9901")], 200),
    ],
)
async def test_no_foreign_page_can_give_an_order(backend: Backend, headers: list[tuple[str, str]], status: int) -> None:
    async with gateway_with(backend) as gw:
        answer = await ask(gw, "POST", "/api/endpoints/pool-0/drain", b"{}", headers)
        assert answer.status == status
        assert (await told(gw))["drained"] is (status == 200)


async def test_a_name_that_leads_here_is_not_enough(backend: Backend) -> None:
    async with gateway_with(backend) as gw:
        for method, path in (("GET", "/api/endpoints"), ("POST", "/api/endpoints/pool-0/drain"), ("GET", "/metrics")):
            answer = await ask(gw, method, path, None, [JSON], host="evil.example:9901")
            assert (answer.status, answer.error["code"]) == (400, "bad_host")
        assert (await told(gw))["drained"] is False


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("path", ["/api/pools", "/api/endpoints"])
async def test_what_is_read_takes_no_other_method(backend: Backend, method: str, path: str) -> None:
    async with gateway_with(backend) as gw:
        answer = await ask(gw, method, path)
        assert (answer.status, answer.header("allow")) == (405, "GET, HEAD")


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
@pytest.mark.parametrize("what", ["breaker", "drain", "resume"])
async def test_an_order_is_a_post(backend: Backend, method: str, what: str) -> None:
    async with gateway_with(backend) as gw:
        answer = await ask(gw, method, f"/api/endpoints/pool-0/{what}")
        assert (answer.status, answer.header("allow")) == (405, "POST")


async def test_off_loopback_the_token_is_needed_and_the_client_port_has_none_of_it(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLUICE_TEST_ADMIN", "s3cret-token")
    server = {"admin": "0.0.0.0:0", "admin_token": {"env": "SLUICE_TEST_ADMIN"}}
    async with gateway_with(backend, policy={"server": server}) as gw:
        right = [("authorization", "Bearer s3cret-token")]
        assert (await ask(gw, "GET", "/api/pools")).status == 401
        assert (await ask(gw, "GET", "/api/pools", None, right)).status == 200
        assert (await ask(gw, "GET", "/api/pools", None, [("authorization", f"Bearer {gw.key}")])).status == 401
        assert (await ask(gw, "POST", "/api/endpoints/pool-0/drain", b"", [JSON])).status == 401
        assert (await ask(gw, "POST", "/api/endpoints/pool-0/drain", b"", [JSON, *right])).status == 200
        for path in ("/healthz", "/metrics"):
            assert (await ask(gw, "GET", path, host="sluice.svc")).status == 200
        assert (await gw.send(gw.request("GET", "/api/pools", headers=right), method="GET")).status == 404
        await eventually(lambda: "admin_refused who=127.0.0.1 path=/api/pools" in gw.log_text(), "nobody was told")
        assert "s3cret" not in gw.log_text()
        assert gw.key not in gw.log_text()


async def test_an_operator_that_leaves_in_the_midst_of_his_order_is_no_fault_of_ours(backend: Backend) -> None:
    async with gateway_with(backend) as gw:
        whole = request("POST", "/api/endpoints/pool-0/drain", b"{}", [JSON], host="127.0.0.1")
        async with await Client.to(gw.gateway.admin_address) as client:
            await client.send(whole[:-1])
        assert (await told(gw))["drained"] is False
