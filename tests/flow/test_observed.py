"""What a request leaves behind: one line in the access log, and counts under the documented names."""

from __future__ import annotations

import httpx
from prometheus_client.parser import text_string_to_metric_families

from gateway.observe.metrics import METRICS
from tests.fakes.backend import Backend
from tests.flow.harness import gateway_with


async def test_a_stream_is_told_in_one_line(backend: Backend) -> None:
    backend.streams("a", "b", "c", usage=True, gap=0.02)
    async with gateway_with(backend) as gw:
        answer = await gw.ask()
        (line,) = await gw.access_lines()
        assert line["request_id"] == answer.header("x-request-id")
        told = {
            name: line[name]
            for name in ("key", "tenant", "plan", "method", "path", "model", "route", "pool", "endpoint")
        }
        assert told == {
            "key": "k1",
            "tenant": "acme",
            "plan": "test",
            "method": "POST",
            "path": "/v1/chat/completions",
            "model": "m",
            "route": "m",
            "pool": "pool",
            "endpoint": "pool-0",
        }
        assert (line["status"], line["code"], line["outcome"], line["attempts"]) == (200, None, "ok", 1)
        assert (line["stream"], line["client"], line["client_gone"]) == (True, "127.0.0.1", None)
        assert (line["prompt_tokens"], line["completion_tokens"]) == (3, 3)
        assert line["bytes_in"] == len(backend.requests[0].body)
        assert line["bytes_out"] == len(answer.body)
        # The first content is the second event: the first one has only the role.
        assert 30 < line["first_byte_ms"] < line["ms"]
        assert 0 < line["overhead_ms"] < line["first_byte_ms"]


async def test_a_stream_is_counted_under_the_documented_names(backend: Backend) -> None:
    backend.streams("a", "b", "c", usage=True, gap=0.005)
    async with gateway_with(backend) as gw:
        await gw.ask()
        labels = {"model": "m", "pool": "pool"}
        assert gw.total("requests_total", route="m", tenant="acme", stream="true", code="200", **labels) == 1
        assert gw.total("request_seconds_count", stream="true", **labels) == 1
        assert gw.total("first_byte_seconds_count", **labels) == 1
        assert gw.total("gap_seconds_count", **labels) >= 1
        assert gw.total("output_token_seconds_count", **labels) == 1
        assert gw.total("overhead_seconds_count") == 1
        assert gw.total("tokens_total", kind="completion", model="m", tenant="acme") == 3
        assert gw.total("attempts_total", pool="pool", endpoint="pool-0", outcome="ok") == 1


async def test_a_refused_request_is_counted_without_what_is_not_known(backend: Backend) -> None:
    async with gateway_with(backend) as gw:
        await gw.ask(model="nobody's")
        labels = {"stream": "true", "code": "404", "tenant": "acme"}
        assert gw.series()["requests_total", frozenset(labels.items())] == 1
        (line,) = await gw.access_lines()
        assert (line["status"], line["code"], line["pool"]) == (404, "model_not_found", None)


async def test_names_that_clients_invent_do_not_grow_the_metrics(backend: Backend) -> None:
    async with gateway_with(backend) as gw, await gw.connect() as client:
        before = len(gw.series())
        for number in range(300):
            await client.send(
                gw.chat_request(model=f"invented-{number}") + gw.request("POST", f"/v1/invented-{number}", b"{}")
            )
            assert [(await client.answer()).status, (await client.answer()).status] == [404, 404]
        assert len(gw.series()) < before + 10


async def test_every_series_of_an_endpoint_is_there_before_the_first_request(backend: Backend, other: Backend) -> None:
    async with gateway_with(backend, other) as gw:
        for endpoint in ("pool-0", "pool-1"):
            assert ("endpoint_in_flight", frozenset({("pool", "pool"), ("endpoint", endpoint)})) in gw.series()
            assert gw.total("endpoint_state", endpoint=endpoint) == 1
            # Nobody has looked whether it is up.
            assert gw.total("endpoint_state", endpoint=endpoint, state="unknown") == 1
        assert ("gap_seconds_count", frozenset({("model", "m"), ("pool", "pool")})) in gw.series()
        assert gw.total("policy_generation") == 1


async def test_the_admin_port_shows_them_to_anybody_on_loopback(backend: Backend) -> None:
    async with gateway_with(backend) as gw, httpx.AsyncClient() as client:
        answer = await client.get(f"http://{gw.gateway.admin_address}/metrics")
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        shown = {family.name for family in text_string_to_metric_families(answer.text)}
        names = {f"sluice_{metric.name.removesuffix('_total')}" for metric in METRICS}
        assert names <= shown | {name.removesuffix("_total") for name in shown}
        assert "_created" not in answer.text
        wanted = {"accept": "application/openmetrics-text; version=1.0.0"}
        answer = await client.get(f"http://{gw.gateway.admin_address}/metrics", headers=wanted)
        assert answer.headers["content-type"].startswith("application/openmetrics-text")
        assert answer.text.endswith("# EOF\n")
