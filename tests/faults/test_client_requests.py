"""Faults 40, 42 to 47 and 50 to 53: what clients send, by mistake or on purpose."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from pathlib import Path

import pytest

from tests.fakes.backend import Backend
from tests.fakes.client import Answer, Client, request
from tests.flow.harness import CHAT, Running, gateway_with, resident
from tests.pace import slowdown

SMALL = {"server": {"max_body": "64KiB"}}
MESSAGES = b'"messages": [{"role": "user", "content": "hi"}]'


def refused(answer: Answer, status: int, code: str) -> None:
    """An error of ours in OpenAI's shape."""
    assert (answer.status, answer.error["code"]) == (status, code), answer
    assert set(answer.error) == {"message", "type", "param", "code"}
    assert answer.error["type"] == ("authentication_error" if status == 401 else "invalid_request_error")
    assert answer.header("content-type") == "application/json"


# -- row 40


async def test_a_declared_length_over_the_limit_is_413_before_a_byte_is_asked_for(backend: Backend) -> None:
    async with gateway_with(backend, policy=SMALL) as gw, await gw.connect() as client:
        head = gw.request("POST", CHAT, b"", [("expect", "100-continue")]).replace(b"length: 0", b"length: 65537")
        await client.send(head)
        refused(await client.answer(), 413, "body_too_large")
        assert backend.connections == []


async def test_a_chunked_body_is_413_at_the_limit(backend: Backend) -> None:
    async with gateway_with(backend, policy=SMALL) as gw, await gw.connect() as client:
        head = gw.request("POST", CHAT, None, [("transfer-encoding", "chunked")])
        await client.send(head + b"10000\r\n" + b"x" * 65536 + b"\r\n1\r\nx\r\n")
        refused(await client.answer(), 413, "body_too_large")
        assert backend.connections == []


async def test_a_body_at_the_limit_passes(backend: Backend) -> None:
    async with gateway_with(backend, policy=SMALL) as gw:
        body = b'{"model": "m", "messages": [], "prefix": ""}'
        padded = body.replace(b'""', b'"%b"' % (b"x" * (65536 - len(body))))
        assert len(padded) == 65536
        assert (await gw.send(gw.request("POST", CHAT, padded))).status == 200
        assert backend.requests[0].body == padded


async def test_a_compressed_body_is_never_unpacked(backend: Backend) -> None:
    async with gateway_with(backend) as gw:
        headers = [("content-encoding", "gzip")]
        refused(await gw.send(gw.request("POST", CHAT, b"\x1f\x8b\x08", headers)), 415, "unsupported_media_type")
        assert backend.connections == []


# -- row 42


async def test_a_bad_key_is_401_without_100_continue(backend: Backend) -> None:
    async with gateway_with(backend) as gw, await gw.connect() as client:
        wrong = gw.key[:-1] + ("a" if gw.key[-1] != "a" else "b")
        headers = [("expect", "100-continue"), ("authorization", f"Bearer {wrong}")]
        await client.send(gw.request("POST", CHAT, b"{}", headers)[:-2])
        refused(await client.answer(), 401, "invalid_api_key")
        assert backend.connections == []
        assert wrong not in str(await gw.access_lines())


async def test_a_good_key_gets_100_continue_and_then_its_answer(backend: Backend) -> None:
    async with gateway_with(backend) as gw, await gw.connect() as client:
        whole = gw.request("POST", CHAT, b'{"model": "m", "messages": []}', [("expect", "100-continue")])
        head, body = whole.split(b"\r\n\r\n", 1)
        await client.send(head + b"\r\n\r\n")
        assert (await client.head())[0] == 100
        await client.send(body)
        assert (await client.answer()).status == 200
        assert backend.requests[0].body == body
        assert backend.requests[0].header("expect") is None


# -- row 43


async def test_pipelined_requests_are_answered_in_their_order_and_none_is_lost(backend: Backend) -> None:
    backend.streams("one", "two", hold=2).then.answers(200, b'"second"')
    async with gateway_with(backend) as gw, await gw.connect() as client:
        await client.send(gw.chat_request() + gw.chat_request(stream=False))
        status, _ = await client.head()
        assert status == 200
        await client.until(b"one")
        await asyncio.sleep(0.05)
        # The second waits its turn: the first one's stream is not over.
        assert backend.attempts == 1
        backend.release.set()
        await client.until(b"\r\n0\r\n\r\n")
        assert (await client.answer()).body == b'"second"'
        assert gw.total("requests_total", code="200") == 2


# -- row 44

BAD_JSON = {
    "cut off": b'{"model": "m", ' + MESSAGES,
    "empty": b"",
    "blank": b"  ",
    "a byte order mark": b'\xef\xbb\xbf{"model": "m", ' + MESSAGES + b"}",
    "NaN": b'{"model": "m", "temperature": NaN, ' + MESSAGES + b"}",
    "Infinity": b'{"model": "m", "temperature": -Infinity, ' + MESSAGES + b"}",
    "something after it": b'{"model": "m", ' + MESSAGES + b"} {}",
    "single quotes": b"{'model': 'm'}",
    "UTF-16": '{"model": "m"}'.encode("utf-16"),
    "bad UTF-8 in the model": b'{"model": "m\xff", ' + MESSAGES + b"}",
}
BAD_SHAPES = {
    "a list": b"[]",
    "a string": b'"m"',
    "null": b"null",
    "a number": b"1",
    "no model": b"{" + MESSAGES + b"}",
    "a model that is a number": b'{"model": 1, ' + MESSAGES + b"}",
    "a model that is null": b'{"model": null, ' + MESSAGES + b"}",
    "a stream that is a string": b'{"model": "m", "stream": "yes", ' + MESSAGES + b"}",
}


@pytest.mark.parametrize("body", [*BAD_JSON.values(), *BAD_SHAPES.values()], ids=[*BAD_JSON, *BAD_SHAPES])
async def test_a_body_that_we_cannot_read_is_400_and_never_500(backend: Backend, body: bytes) -> None:
    async with gateway_with(backend) as gw:
        answer = await gw.send(gw.request("POST", CHAT, body))
        refused(answer, 400, "invalid_json" if body in BAD_JSON.values() else "invalid_request")
        assert backend.connections == []


async def test_bad_utf8_in_a_field_that_we_do_not_read_is_the_engines_to_refuse(backend: Backend) -> None:
    body = b'{"model": "m", "messages": [{"role": "user", "content": "\xff\xfe"}]}'
    async with gateway_with(backend) as gw:
        assert (await gw.send(gw.request("POST", CHAT, body))).status == 200
        assert backend.requests[0].body == body


# -- row 45

HEAVY = {
    "deep lists": b'{"model": "m", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep objects": b'{"model": "m", "x": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}",
    "100,000 keys": b'{"model": "m"' + b"".join(b', "k%d": %d' % (n, n) for n in range(100_000)) + b"}",
    "a string of 10 MB": b'{"model": "m", "x": "' + b"\\n" * 5_000_000 + b'"}',
    "a huge integer": b'{"model": "m", "x": ' + b"9" * 1_000_000 + b"}",
    "a huge integer that we read": b'{"model": "m", "max_tokens": ' + b"9" * 100_000 + b"}",
    "a huge exponent": b'{"model": "m", "max_tokens": 1e999999999}',
}


@pytest.mark.parametrize("body", HEAVY.values(), ids=HEAVY)
async def test_a_heavy_body_is_400_or_passes_and_holds_the_loop_for_15_ms_at_most(
    backend: Backend, body: bytes
) -> None:
    async with gateway_with(backend) as gw:
        data = gw.request("POST", CHAT, body)
        delays = []
        for _ in range(8):
            delay, status = await longest_delay(gw, data)
            assert status in (200, 400), status
            delays.append(delay / slowdown())
            if delays[-1] < 0.015:
                break
        # Others use this machine: one quiet run of eight shows what the work takes.
        assert min(delays) < 0.015, delays


async def longest_delay(gw: Running, data: bytes) -> tuple[float, int]:
    """How late the loop ran while a client on another thread sent this, and the answer's status. What others on this
    machine take of the processor does not count: no delay is longer than the CPU seconds that this process without the
    client's thread used in it."""
    loop = asyncio.get_running_loop()
    worst = 0.0
    status: list[int] = []

    def client() -> None:
        status.append(asyncio.run(gw.send(data)).status)

    thread = threading.Thread(target=client)
    thread.start()
    assert thread.ident is not None
    clock = time.pthread_getcpuclockid(thread.ident)

    def ours() -> float:
        with contextlib.suppress(OSError):  # The thread has just ended.
            return time.process_time() - time.clock_gettime(clock)
        return float("inf")

    while thread.is_alive():
        before, used = loop.time(), ours()
        await asyncio.sleep(0.001)
        worst = max(worst, min(loop.time() - before - 0.001, max(0.0, ours() - used)))
    thread.join()
    return worst, status[0]


# -- row 46


@pytest.mark.parametrize(
    "body",
    [
        b'{"model": "m", "model": "m", ' + MESSAGES + b"}",
        b'{"model": "m", ' + MESSAGES + b', "model": "secret"}',
        b'{"model": "m", "stream": true, "stream": false, ' + MESSAGES + b"}",
        b'{"model": "m", "mod\\u0065l": "secret", ' + MESSAGES + b"}",
        b'{"\\u006dodel": "secret", "model": "m", ' + MESSAGES + b"}",
        b'{"model": "m", "user": "a", "user": "b", ' + MESSAGES + b"}",
    ],
)
async def test_two_top_level_keys_of_one_name_are_refused(backend: Backend, body: bytes) -> None:
    async with gateway_with(backend) as gw:
        answer = await gw.send(gw.request("POST", CHAT, body))
        assert answer.status == 400
        assert answer.error["type"] == "invalid_request_error"
        assert backend.connections == []


async def test_a_name_twice_further_down_is_the_engines_business(backend: Backend) -> None:
    body = (
        b'{"model": "m", "messages": [{"role": "user", "model": "a", "model": "b"}], "x": {"stream": 1, "stream": 2}}'
    )
    async with gateway_with(backend) as gw:
        assert (await gw.send(gw.request("POST", CHAT, body))).status == 200
        assert backend.requests[0].body == body


# -- row 47


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (request("POST", CHAT, b"{}", [("x-h", "v" * 20_000_000)]), 431, "headers_too_large"),
        (request("POST", CHAT, b"{}", [("x-h", "v")] * 20_000), 431, "headers_too_large"),
        (request("POST", CHAT + "?" + "v" * 200_000, b"{}"), 414, "uri_too_long"),
        (request("POST", "/" + "v" * 200_000, b"{}"), 414, "uri_too_long"),
    ],
    ids=["a header of 20 MB", "20,000 headers", "a query of 200 KB", "a path of 200 KB"],
)
async def test_a_head_over_the_limit_is_refused_and_the_connection_closed(
    backend: Backend, data: bytes, status: int, code: str
) -> None:
    async with gateway_with(backend) as gw, await gw.connect() as client:
        client.writer.write(data)
        answer = await client.answer()
        refused(answer, status, code)
        assert await client.rest() == b""
        assert backend.connections == []


async def test_a_head_without_end_costs_no_memory(backend: Backend) -> None:
    data = request("POST", CHAT, b"{}", [("x-h", "v" * 20_000_000)])
    async with gateway_with(backend) as gw:
        host, _, port = gw.gateway.address.rpartition(":")

        def send() -> bytes:
            """All of it, or until we are thrown out, and what was answered."""
            with socket.create_connection((host, int(port)), timeout=5) as sock:
                with contextlib.suppress(ConnectionError):
                    sock.sendall(data)
                with contextlib.suppress(ConnectionError):
                    return sock.recv(1 << 16)
                return b""

        await asyncio.to_thread(send)
        before = resident()
        for _ in range(5):
            answer = await asyncio.to_thread(send)
            assert answer == b"" or answer.startswith(b"HTTP/1.1 431 ")
        assert resident() - before < 4 << 20


# -- row 50

TARGETS = [
    "//v1/chat/completions",
    "/v1//chat/completions",
    "/v1/../v1/chat/completions",
    "/v1/%2e%2e/v1/chat/completions",
    "/v1/chat/completions%00",
    "/v1/chat/completions/%2e%2e/%2e%2e/metrics",
    "/v1/chat/completions;x",
    "/v1/chat\\completions",
    "http://evil.example/v1/chat/completions",
    "http://evil.example:80@127.0.0.1/v1/chat/completions",
    "*",
    "v1/chat/completions",
    "/v1/chat/completions/",
    "/v1/chat/completions%2f",
    "/v1/%63hat/completions",
    "/v1/chat/completions#x",
    "/V1/chat/completions",
    "//evil.example/v1/chat/completions",
    "http://127.0.0.1:1/v1/chat/completions",
    "/v1/chat/completions?x=%00&y=../..",
    "/v1/chat/completions?http://evil.example/",
]


@pytest.mark.parametrize("target", TARGETS)
async def test_a_strange_target_is_refused_or_means_the_configured_origin(backend: Backend, target: str) -> None:
    async with gateway_with(backend) as gw:
        body = b'{"model": "m", "messages": []}'
        answer = await gw.send(gw.request("POST", target, body))
        assert answer.status in (200, 400, 404), answer
        if answer.status == 200:
            (seen,) = backend.requests
            assert seen.line.split("?")[0].removesuffix(" HTTP/1.1") == f"POST {CHAT}"
            assert seen.header("host") == f"127.0.0.1:{backend.port}"
        else:
            assert answer.error["type"] in ("invalid_request_error", "not_found_error")
            assert backend.connections == []


@pytest.mark.parametrize(
    "hosts",
    ["", "host: a\r\nhost: b\r\n", "host: a\r\nhost: a\r\n", "host: a b\r\n", "host: a/b\r\n", "host: a@b\r\n"],
    ids=["none", "two", "the same twice", "a blank", "a slash", "an at sign"],
)
async def test_a_missing_double_or_malformed_host_is_400(backend: Backend, hosts: str) -> None:
    async with gateway_with(backend) as gw, await gw.connect() as client:
        await client.send(gw.chat_request().replace(b"host: gateway\r\n", hosts.encode()))
        refused(await client.answer(), 400, "bad_host")
        assert backend.connections == []


async def test_the_engine_sees_its_own_host_whatever_the_client_said(backend: Backend) -> None:
    async with gateway_with(backend) as gw, await gw.connect() as client:
        await client.send(gw.chat_request(stream=False).replace(b"host: gateway", b"host: evil.example"))
        assert (await client.answer()).status == 200
        assert backend.requests[0].header("host") == f"127.0.0.1:{backend.port}"


# -- rows 51 to 53


async def test_an_upgrade_to_h2c_is_stripped_and_the_body_is_delivered(backend: Backend) -> None:
    headers = [
        ("connection", "Upgrade, HTTP2-Settings"),
        ("upgrade", "h2c"),
        ("http2-settings", "AAMAAABkAAQCAAAAAAIAAAAA"),
    ]
    async with gateway_with(backend) as gw:
        body = b'{"model": "m", "messages": []}'
        answer = await gw.send(gw.request("POST", CHAT, body, headers))
        assert answer.status == 200
        (seen,) = backend.requests
        assert seen.body == body
        names = {name for name, _ in seen.headers}
        assert names.isdisjoint({"upgrade", "http2-settings", "connection"})


async def test_connection_cannot_take_away_what_we_set(backend: Backend, tmp_path: Path) -> None:
    secret = tmp_path / "engine.key"
    secret.write_text("engine-secret")
    policy = {"pools": {"pool": {"api_key": {"file": str(secret)}}}}
    named = "authorization, x-tenant, x-request-id, host, content-length, x-api-key"
    headers = [("connection", named), ("x-tenant", "other")]
    async with gateway_with(backend, policy=policy, endpoint={"headers": {"x-team": "ml"}}) as gw:
        assert (await gw.send(gw.chat_request(stream=False, headers=headers))).status == 200
        (seen,) = backend.requests
        assert seen.header("authorization") == "Bearer engine-secret"
        assert seen.header("x-tenant") is None
        assert seen.header("x-team") == "ml"
        assert seen.header("host") == f"127.0.0.1:{backend.port}"
        assert seen.header("content-length") == str(len(seen.body))
        (line,) = await gw.access_lines()
        assert line["tenant"] == "acme"
        assert line["request_id"] == seen.header("x-request-id")


async def test_what_the_operator_tells_an_engine_no_client_tells_it_too(backend: Backend) -> None:
    headers = [("X-Team", "forged"), ("x_team", "forged"), ("x-other", "1")]
    async with gateway_with(backend, endpoint={"headers": {"X-Team": "ml"}}) as gw:
        assert (await gw.send(gw.chat_request(stream=False, headers=headers))).status == 200
        (seen,) = backend.requests
        assert b"forged" not in seen.head
        assert (seen.header("x-team"), seen.header("x-other")) == ("ml", "1")


async def test_connection_strips_what_it_names(backend: Backend) -> None:
    headers = [
        ("connection", "close, X-Hop"),
        ("x-hop", "1"),
        ("te", "trailers"),
        ("keep-alive", "timeout=5"),
        ("x-end", "1"),
    ]
    async with gateway_with(backend) as gw:
        assert (await gw.send(gw.chat_request(stream=False, headers=headers))).status == 200
        names = {name for name, _ in backend.requests[0].headers}
        assert names.isdisjoint({"x-hop", "te", "keep-alive", "connection"})
        assert "x-end" in names


async def test_every_connection_line_strips_what_it_names(backend: Backend) -> None:
    headers = [("connection", "x-hop"), ("connection", "keep-alive"), ("x-hop", "1"), ("x-end", "1")]
    async with gateway_with(backend) as gw:
        assert (await gw.send(gw.chat_request(stream=False, headers=headers))).status == 200
        names = {name for name, _ in backend.requests[0].headers}
        assert names.isdisjoint({"x-hop", "connection"})
        assert "x-end" in names


@pytest.mark.parametrize("name", ["content-type", "content-encoding"])
async def test_what_says_how_to_read_the_body_may_stand_once(backend: Backend, name: str) -> None:
    """We would read the last one and the engine perhaps the first: two requests in one."""
    headers = [(name, "identity"), (name, "identity")]
    async with gateway_with(backend) as gw:
        answer = await gw.send(gw.chat_request(stream=False, headers=headers))
        assert (answer.status, answer.error["code"]) == (400, "invalid_request")
        assert backend.requests == []


SPOOFED = [
    ("x-forwarded-for", "203.0.113.9"),
    ("x-forwarded-host", "evil.example"),
    ("x-forwarded-proto", "https"),
    ("forwarded", "for=203.0.113.9"),
    ("x-real-ip", "203.0.113.9"),
    ("x-request-id", "spoofed-id"),
    ("x-sluice-pool", "other"),
    ("x-sluice-endpoint", "other"),
    ("x-data-parallel-rank", "3"),
]


async def test_what_only_a_trusted_proxy_may_say_is_not_believed_from_others(backend: Backend) -> None:
    async with gateway_with(backend, policy={"server": {"trusted_proxies": ["192.0.2.0/24"]}}) as gw:
        answer = await gw.send(gw.chat_request(stream=False, headers=SPOOFED))
        (seen,) = backend.requests
        (line,) = await gw.access_lines()
        assert line["client"] == "127.0.0.1"
        assert line["client_request_id"] == "spoofed-id"
        ours = answer.header("x-request-id")
        assert ours is not None
        assert len(ours) == 32
        assert set(ours) <= set("0123456789abcdef")
        assert ours == line["request_id"] == seen.header("x-request-id")
        text = seen.head.decode()
        for leaked in ("203.0.113.9", "evil.example", "spoofed", "x-sluice", "x-data-parallel-rank"):
            assert leaked not in text


async def test_what_a_trusted_proxy_says_is_believed(backend: Backend) -> None:
    async with gateway_with(backend, policy={"server": {"trusted_proxies": ["127.0.0.1/32"]}}) as gw:
        headers = [("x-forwarded-for", "198.51.100.1, 203.0.113.9, 127.0.0.1"), ("x-request-id", "from-nginx.1")]
        answer = await gw.send(gw.chat_request(stream=False, headers=headers))
        assert answer.header("x-request-id") == "from-nginx.1"
        (line,) = await gw.access_lines()
        # The right-most hop that is not one of ours.
        assert line["client"] == "203.0.113.9"
        assert line["request_id"] == "from-nginx.1"


async def test_an_engine_cannot_speak_for_us(backend: Backend) -> None:
    headers = [
        ("x-request-id", "engine"),
        ("x-sluice-pool", "forged"),
        ("x-ratelimit-limit-requests", "1"),
        ("server", "uvicorn"),
    ]
    backend.answers(200, json.dumps({"ok": True}), headers)
    async with gateway_with(backend) as gw:
        answer = await gw.ask(stream=False)
        assert answer.header("x-sluice-pool") == "pool"
        assert answer.header("x-sluice-endpoint") == "pool-0"
        assert answer.header("x-sluice-attempts") == "1"
        assert answer.header("x-request-id") not in (None, "engine")
        assert answer.header("x-ratelimit-limit-requests") is None


async def test_marker_secrets_never_cross(backend: Backend) -> None:
    backend.answers(200, b"{}", [("set-cookie", "session=UPSTREAM-SECRET"), ("authorization", "UPSTREAM-SECRET")])
    async with gateway_with(backend) as gw, await Client.to(gw.gateway.address) as client:
        headers = [
            ("cookie", "CLIENT-SECRET"),
            ("x-api-key", "CLIENT-SECRET"),
            ("proxy-authorization", "CLIENT-SECRET"),
        ]
        await client.send(gw.chat_request(stream=False, headers=headers))
        answer = await client.answer()
        assert "SECRET" not in str(answer.headers)
        assert b"SECRET" not in backend.requests[0].head
        assert gw.key.encode() not in backend.requests[0].head
        assert gw.key not in str(await gw.access_lines())
