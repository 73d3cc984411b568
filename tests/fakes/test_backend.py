"""The scripted backend does what it is told: otherwise every test that leans on it says nothing."""

from __future__ import annotations

import asyncio
import ssl
import time
from pathlib import Path

import httpx
import pytest

from tests.fakes.backend import STREAM_HEAD, Backend, Connection, Request, plain
from tests.fakes.certificates import Authority
from tests.fakes.client import Client, request
from tests.fakes.listeners import full_backlog, silent
from tests.pace import Watch


async def send(backend: Backend, data: bytes) -> Client:
    client = await Client.to(f"127.0.0.1:{backend.port}")
    await client.send(data)
    return client


async def test_it_answers_and_remembers_what_it_was_sent(backend: Backend) -> None:
    backend.answers(503, b"busy", [("retry-after", "7")])
    async with httpx.AsyncClient() as client:
        answer = await client.post(f"{backend.url}/v1/x?q=1", json={"a": 1}, headers={"X-Thing": "one"})
    assert (answer.status_code, answer.content, answer.headers["retry-after"]) == (503, b"busy", "7")
    (seen,) = backend.requests
    assert seen.line == "POST /v1/x?q=1 HTTP/1.1"
    assert seen.header("x-thing") == "one"
    assert seen.body == b'{"a":1}'


async def test_a_stream_is_what_an_openai_client_reads(backend: Backend) -> None:
    backend.streams("a", "ü", usage=True)
    async with await send(backend, request("POST", "/", b"{}")) as client:
        answer = await client.answer()
    assert (answer.text, answer.end) == ("aü", "complete")
    assert answer.body.endswith(b"data: [DONE]\n\n")
    assert answer.chunks[-1]["usage"]["completion_tokens"] == 2


async def test_a_stream_can_be_held_back(backend: Backend) -> None:
    backend.streams("a", "b", hold=2)
    async with await send(backend, request("POST", "/", b"{}")) as client:
        await client.until(b'"a"}')
        with pytest.raises(TimeoutError):
            await client.until(b'"b"}', timeout=0.05)
        backend.release.set()
        await client.until(b"0\r\n\r\n")


async def test_scripts_come_in_their_order_and_the_last_one_stays(backend: Backend) -> None:
    backend.answers(500).then.answers(429).then.answers(200)
    async with httpx.AsyncClient() as client:
        assert [(await client.get(backend.url)).status_code for _ in range(4)] == [500, 429, 200, 200]
    assert len(backend.connections) == 1


async def test_it_cuts_where_it_is_told_and_closes_stalls_or_resets(backend: Backend) -> None:
    whole = plain(200, b"x" * 100)
    backend.raw(whole, cut=90)
    async with await send(backend, request("GET", "/")) as client:
        assert await client.rest() == whole[:90]
    backend.raw(whole, cut=90, rst=True)
    async with await send(backend, request("GET", "/")) as client:
        assert await client.until(whole[80:90]) == whole[:90]
        with pytest.raises(ConnectionResetError):
            await client.reader.read()
    backend.raw(whole, cut=90, stall=True)
    async with await send(backend, request("GET", "/")) as client:
        assert len(await client.reader.readexactly(90)) == 90
        with pytest.raises(TimeoutError):
            await client.rest(timeout=0.05)
    await backend.all_closed()


async def test_it_knows_when_a_connection_was_closed(backend: Backend) -> None:
    backend.raw(b"", stall=True)
    client = await send(backend, request("POST", "/", b"{}"))
    await backend.requested()
    assert len(backend.open) == 1
    at, watch = asyncio.get_running_loop().time(), Watch()
    client.writer.close()
    await backend.all_closed()
    closed_at = backend.connections[0].closed_at
    assert closed_at is not None
    assert 0 <= closed_at - at < 0.1 + watch.waited


async def test_a_script_may_do_anything(backend: Backend) -> None:
    async def drips(c: Connection, _: Request) -> None:
        await c.send(STREAM_HEAD)
        await c.drip(b"abc", 0.01)
        c.fin()

    backend.does(drips)
    started = time.monotonic()
    async with await send(backend, request("POST", "/", b"{}")) as client:
        assert (await client.rest()).endswith(b"\r\n\r\nabc")
    assert time.monotonic() - started >= 0.03


async def test_requests_on_one_connection_are_answered_in_their_order(backend: Backend) -> None:
    backend.answers(200, b"1").then.answers(200, b"2")
    async with await send(backend, request("POST", "/", b"{}") + request("GET", "/")) as client:
        assert [(await client.answer()).body, (await client.answer()).body] == [b"1", b"2"]
    assert [each.line[:4] for each in backend.requests] == ["POST", "GET "]


@pytest.mark.parametrize(
    ("name", "expired", "fault"),
    [("127.0.0.1", False, ""), ("127.0.0.1", True, "expired"), ("elsewhere.example", False, "mismatch")],
)
async def test_certificates_are_good_expired_or_for_another_name(
    tmp_path: Path, name: str, expired: bool, fault: str
) -> None:
    authority = Authority(tmp_path)
    trusting = ssl.create_default_context(cafile=authority.ca)
    async with Backend(tls=authority.server(name, expired=expired)) as backend:
        backend.answers(200)
        async with httpx.AsyncClient(verify=trusting) as client:
            if fault:
                with pytest.raises(httpx.ConnectError, match=fault):
                    await client.get(backend.url)
            else:
                assert (await client.get(backend.url)).status_code == 200


async def test_a_full_backlog_lets_a_connect_hang() -> None:
    with full_backlog() as port, pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await asyncio.open_connection("127.0.0.1", port)


async def test_a_silent_listener_stalls_a_handshake() -> None:
    async with silent() as port:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await asyncio.open_connection("127.0.0.1", port, ssl=ssl.create_default_context())
