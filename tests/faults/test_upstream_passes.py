"""Faults 19, 22, 23, 25, 26 and 83: unusual answers that are none of our business to change."""

from __future__ import annotations

import asyncio
import gzip
from pathlib import Path

import pytest

from policies.config.document import load
from tests.fakes.backend import STREAM_HEAD, Backend, Connection, Request, Said, chunked, plain
from tests.flow.harness import gateway_with

# -- row 19

ERROR = b'{"error":{"message":"ex\xc3\xa4ct  \\u00e4","type":"InternalServerError","param":null,"code":500}}\n '


@pytest.mark.parametrize("status", [400, 404, 408, 422, 429, 500, 501, 502, 503, 504])
async def test_an_error_of_the_engine_passes_byte_for_byte(backend: Backend, other: Backend, status: int) -> None:
    backend.answers(status, ERROR, [("x-engine", "vllm"), ("retry-after", "7")])
    other.answers(status, ERROR, [("x-engine", "vllm"), ("retry-after", "7")])
    async with gateway_with(backend, other, route={"retry": "off"}) as gw:
        answer = await gw.ask()
        assert (answer.status, answer.body, answer.framing) == (status, ERROR, "length")
        assert answer.header("x-engine") == "vllm"
        assert answer.header("retry-after") == "7"
        assert backend.attempts + other.attempts == 1
        (line,) = await gw.access_lines()
        assert (line["status"], line["outcome"], line["code"]) == (status, str(status), None)


@pytest.mark.parametrize("status", [400, 404, 408, 422, 500, 501])
async def test_an_error_that_may_be_the_requests_own_fault_is_asked_for_once(
    backend: Backend, other: Backend, status: int
) -> None:
    """A 500 of vLLM is often the input's fault."""
    backend.answers(status, ERROR)
    other.answers(status, ERROR)
    async with gateway_with(backend, other) as gw:
        answer = await gw.ask()
        assert (answer.status, answer.body, answer.header("x-should-retry")) == (status, ERROR, None)
        assert backend.attempts + other.attempts == 1


async def test_a_500_is_asked_for_again_where_the_route_lists_it(backend: Backend, other: Backend) -> None:
    backend.answers(500, ERROR)
    other.answers(500, ERROR)
    async with gateway_with(backend, other, route={"retry": {"retries": 1, "when": [500]}}) as gw:
        answer = await gw.ask()
        assert (answer.status, answer.body, answer.header("x-should-retry")) == (500, ERROR, "false")
        assert (backend.attempts, other.attempts) == (1, 1)


# -- row 22


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("location", ["/elsewhere", "https://engine.example/v1/x", "http://169.254.169.254/latest/"])
async def test_a_redirect_passes_and_is_never_followed(
    backend: Backend, other: Backend, status: int, location: str
) -> None:
    backend.answers(status, b"", [("location", location)])
    async with gateway_with(backend) as gw:
        answer = await gw.ask(stream=False)
        assert (answer.status, answer.header("location")) == (status, location)
        assert (backend.attempts, other.attempts) == (1, 0)


async def test_a_redirect_to_the_endpoint_itself_does_not_tell_its_address(backend: Backend) -> None:
    """FastAPI sends a path with a slash too many to `http://<our Host header>/...`."""
    backend.answers(307, b"", [("location", f"{backend.url}/v1/chat/completions")])
    async with gateway_with(backend) as gw:
        answer = await gw.ask(stream=False)
        assert answer.status == 307
        assert str(backend.port) not in str(answer.headers)


# -- row 23


async def test_an_encoded_body_stays_as_it_is(backend: Backend) -> None:
    body = gzip.compress(b'{"choices": []}' * 50)
    backend.answers(200, body, [("content-encoding", "gzip"), ("vary", "accept-encoding")])
    async with gateway_with(backend) as gw:
        answer = await gw.ask(stream=False)
        assert answer.body == body
        assert answer.header("content-encoding") == "gzip"
        assert answer.header("content-length") == str(len(body))


async def test_an_encoded_stream_stays_as_it_is(backend: Backend) -> None:
    body = gzip.compress(b"".join(Said(("a", "b")).events()))
    head = STREAM_HEAD.replace(b"\r\n\r\n", b"\r\ncontent-encoding: gzip\r\n\r\n")
    backend.raw(head + b"".join(chunked(body[i : i + 7]) for i in range(0, len(body), 7)) + b"0\r\n\r\n", keep=True)
    async with gateway_with(backend) as gw:
        answer = await gw.ask()
        assert (answer.body, answer.end) == (body, "complete")
        assert answer.header("content-encoding") == "gzip"


# -- row 25


async def test_trailers_are_dropped_and_the_connection_is_used_again(backend: Backend) -> None:
    trailers = b"trailer: x-sum\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx-sum: 1\r\nx-more: 2\r\n\r\n"
    backend.raw(b"HTTP/1.1 200 OK\r\n" + trailers, keep=True)
    async with gateway_with(backend) as gw, await gw.connect() as client:
        for _ in range(3):
            await client.send(gw.chat_request(stream=False))
            answer = await client.answer()
            assert (answer.body, answer.end, answer.framing) == (b"hello", "complete", "chunked")
            assert answer.header("x-sum") is None
            assert answer.header("trailer") is None
        assert len(backend.connections) == 1


# -- row 26


@pytest.mark.parametrize(
    "head", [b"HTTP/1.0 200 OK\r\n", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nconnection: close\r\n"]
)
async def test_a_body_that_ends_with_its_connection_is_chunked_for_the_client_and_counted(
    backend: Backend, head: bytes
) -> None:
    backend.raw(head + b"content-type: application/json\r\n\r\n" + b'{"a": 1}')
    async with gateway_with(backend) as gw:
        for _ in range(2):
            answer = await gw.ask(stream=False)
            assert (answer.status, answer.body, answer.framing, answer.end) == (200, b'{"a": 1}', "chunked", "complete")
        assert len(backend.connections) == 2
        assert gw.total("unframed_ends_total", pool="pool") == 2


async def test_http_1_0_with_a_length_is_an_answer_like_any_other(backend: Backend) -> None:
    backend.raw(b"HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\nhello")
    async with gateway_with(backend) as gw:
        answer = await gw.ask(stream=False)
        assert (answer.body, answer.framing, answer.end) == (b"hello", "length", "complete")
        assert gw.total("unframed_ends_total") == 0


# -- row 83


async def test_a_plain_answer_that_takes_its_time_passes_and_is_asked_for_once(
    backend: Backend, other: Backend
) -> None:
    async def script(c: Connection, request: Request) -> None:
        await asyncio.sleep(3.0)
        await c.send(plain(200, b'{"slow": true}'))

    backend.does(script)
    other.does(script)
    async with gateway_with(backend, other) as gw:
        started = asyncio.get_running_loop().time()
        answer = await gw.ask(stream=False)
        assert asyncio.get_running_loop().time() - started >= 3.0
        assert (answer.status, answer.json) == (200, {"slow": True})
        assert backend.attempts + other.attempts == 1
        assert (await gw.ask(stream=False)).status == 200


def test_under_the_defaults_nothing_ends_a_plain_answer_before_30_minutes(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    pool = "{engine: vllm, endpoints: [{url: 'http://127.0.0.1:8000'}]}"
    path.write_text(
        f"version: 1\nplans: {{p: {{}}}}\nauth: {{anonymous: p}}\n"
        f"pools: {{a: {pool}}}\nroutes: [{{model: m, pool: a}}]\n"
    )
    timeouts = load(str(path), secrets=False).routes[0].timeouts
    assert timeouts.attempt == 30 * 60
    assert timeouts.total == 60 * 60
    # first_byte and idle are for streams.
    assert timeouts.first_byte_plain is None
