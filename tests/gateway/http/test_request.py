"""One request with its reply: when its body is asked for, and what a client gets that is refused while it sends."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import httpx
import pytest

from gateway.errors import BodyTooLarge
from gateway.http.request import ClientRequest
from tests.fakes.client import Client, request
from tests.flow.harness import eventually
from tests.gateway.wire import Door, echo, listening, plain
from tests.pace import Watch

LIMIT = 65536


async def reads(cycle: ClientRequest) -> None:
    """Answers with the size of the body, 413 when it is too large."""
    try:
        body = await cycle.read_body(LIMIT)
    except BodyTooLarge:
        plain(cycle, b"too large", 413)
    else:
        plain(cycle, b"%d" % len(body))


async def refuses(cycle: ClientRequest) -> None:
    """Answers without a look at the body."""
    plain(cycle, b"who are you?", 401)


def expecting(body: bytes) -> tuple[bytes, bytes]:
    """A request's head, which asks to be asked, and its body."""
    head, _, rest = request("POST", "/a", body, [("expect", "100-continue")]).partition(b"\r\n\r\n")
    return head + b"\r\n\r\n", rest


def chunks(*parts: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)


CHUNKED = request("POST", "/a", None, [("transfer-encoding", "chunked")])


# -- the body


async def test_a_body_is_asked_for_when_it_is_wanted_and_not_before() -> None:
    wanted = asyncio.Event()

    async def later(cycle: ClientRequest) -> None:
        await asyncio.get_running_loop().create_task(wanted.wait())
        await reads(cycle)

    head, body = expecting(b"hello")
    async with listening(door := Door(later)) as listener, await Client.to(listener.address) as client:
        await client.send(head)
        await door.opened()
        with pytest.raises(TimeoutError):
            await client.head(timeout=0.05)
        wanted.set()
        assert await client.head() == (100, [])
        await client.send(body)
        assert (await client.answer()).body == b"5"


async def test_a_client_that_is_refused_is_never_asked_for_its_body() -> None:
    head, _ = expecting(b"hello")
    async with listening(Door(refuses)) as listener, await Client.to(listener.address) as client:
        await client.send(head)
        answer = await client.answer()
        assert (answer.status, answer.header("connection")) == (401, "close")
        assert await client.rest() == b""


async def test_a_client_that_does_not_wait_to_be_asked_is_served_all_the_same() -> None:
    head, body = expecting(b"hello")
    async with listening(Door(reads)) as listener, await Client.to(listener.address) as client:
        await client.send(head + body)
        data = await client.until(b"\r\n\r\n5")
        assert data.count(b"HTTP/1.1 ") - data.count(b"HTTP/1.1 100 ") == 1


@pytest.mark.parametrize("sizes", [(5,), (1, 1, 1), (LIMIT,), (LIMIT - 1, 1)])
async def test_a_chunked_body_up_to_the_limit_is_read_whole(sizes: tuple[int, ...]) -> None:
    async with listening(Door(reads)) as listener, await Client.to(listener.address) as client:
        for _ in range(2):
            await client.send(CHUNKED + chunks(*(b"x" * size for size in sizes)) + b"0\r\n\r\n")
            assert (await client.answer()).body == b"%d" % sum(sizes)


async def test_a_chunked_body_is_refused_as_soon_as_it_is_over_the_limit() -> None:
    async with listening(Door(reads)) as listener, await Client.to(listener.address) as client:
        await client.send(CHUNKED + chunks(b"x" * LIMIT, b"x"))
        answer = await client.answer()
        assert (answer.status, answer.header("connection")) == (413, "close")
        # It never said that it has ended, and need not.
        assert await client.rest() == b""


async def test_the_trailers_of_a_chunked_body_are_dropped() -> None:
    async with listening(Door(reads)) as listener, await Client.to(listener.address) as client:
        for _ in range(2):
            await client.send(CHUNKED + chunks(b"abc") + b"0\r\nauthorization: Bearer x\r\n\r\n")
            assert (await client.answer()).body == b"3"


async def test_a_broken_chunk_is_400_and_a_close() -> None:
    async with listening(Door(reads)) as listener, await Client.to(listener.address) as client:
        await client.send(CHUNKED + chunks(b"abc") + b"zz\r\n")
        answer = await client.answer()
        assert (answer.status, answer.header("connection")) == (400, "close")
        assert await client.rest() == b""


# -- a client that is refused while it sends (RFC 9112, 9.6)


def blocking(address: str, data: bytes, *, pieces: int = 1) -> tuple[bytes, BaseException | None]:
    """What a client gets that sends everything before it looks, and what went wrong on its way."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=5) as sock:
        answer = b""
        try:
            for start in range(0, len(data), size := -(-len(data) // pieces)):
                sock.sendall(data[start : start + size])
            while part := sock.recv(65536):
                answer += part
        except OSError as error:
            return answer, error
        return answer, None


@pytest.mark.parametrize("size", [100_000, 600_000], ids=lambda size: f"{size} bytes")
@pytest.mark.parametrize("answer", [reads, refuses], ids=["413", "401"])
async def test_a_client_that_is_refused_while_it_sends_can_read_why(answer: Any, size: int) -> None:
    async with listening(Door(answer)) as listener:
        for data in (CHUNKED + chunks(b"x" * size) + b"0\r\n\r\n", request("POST", "/a", b"x" * size)):
            # If the whole body was there before it was refused, the connection could serve on.
            last = data.replace(b"\r\n", b"\r\nconnection: close\r\n", 1)
            got, wrong = await asyncio.to_thread(blocking, listener.address, last, pieces=10)
            assert wrong is None, f"{wrong!r}, after {got!r}"
            assert got.startswith((b"HTTP/1.1 413 ", b"HTTP/1.1 401 "))


@pytest.mark.parametrize("answer", [reads, refuses], ids=["413", "401"])
async def test_an_sdk_that_sends_a_body_of_20_mb_is_told_why_it_is_refused(answer: Any) -> None:
    """httpx (under the openai and anthropic SDKs) reads no answer before it has sent its body."""
    async with listening(Door(answer)) as listener, httpx.AsyncClient() as client:
        told = await client.post(f"http://{listener.address}/a", content=b"x" * 20_000_000)
        assert told.status_code in (413, 401)


async def test_a_refused_client_that_sends_slowly_is_listened_to_while_it_does() -> None:
    async with listening(Door(reads)) as listener, await Client.to(listener.address) as client:
        await client.send(CHUNKED + chunks(b"x" * 2 * LIMIT))
        for _ in range(10):
            await client.send(chunks(b"x" * 10_000))
            await asyncio.sleep(0.02)
        assert (await client.answer()).status == 413
        assert await client.rest() == b""


async def test_a_refused_client_that_never_ends_is_cut_off() -> None:
    async with listening(Door(reads)) as listener, await Client.to(listener.address) as client:
        watch = Watch()
        client.writer.write(CHUNKED)
        with pytest.raises(OSError):
            while watch.own < 5:
                await client.send(chunks(b"x" * LIMIT))
        assert watch.own < 3
        await eventually(lambda: listener.connections == 0, "its connection is still open")


async def test_nothing_that_follows_a_refused_body_is_taken_for_a_request() -> None:
    async with listening(door := Door(refuses)) as listener, await Client.to(listener.address) as client:
        await client.send(request("POST", "/a", b"x" * 1000)[:-500])
        assert (await client.answer()).status == 401
        await client.send(request("GET", "/smuggled") * 10)
        assert await client.rest() == b""
        assert len(door.cycles) == 1


# -- the reply


async def test_a_reply_that_is_cut_never_looks_complete() -> None:
    async def cuts(cycle: ClientRequest) -> None:
        cycle.start(200, [], length_known=False)
        cycle.write(b"the beginning")
        cycle.cut()

    async with listening(Door(cuts)) as listener, await Client.to(listener.address) as client:
        await client.send(request("GET", "/a"))
        answer = await client.answer()
        assert (answer.body, answer.end) == (b"the beginning", "cut")


async def test_the_first_bytes_do_not_wait_for_the_next_ones() -> None:
    go = asyncio.Event()

    async def slow(cycle: ClientRequest) -> None:
        cycle.start(200, [], length_known=False)
        cycle.write(b"first")
        await asyncio.get_running_loop().create_task(go.wait())
        cycle.finish(b"last")

    async with listening(Door(slow)) as listener, await Client.to(listener.address) as client:
        await client.send(request("GET", "/a"))
        await client.until(b"first")
        go.set()
        await client.until(b"last\r\n0\r\n\r\n")


# -- what control routes see of it (ASGI)


async def test_a_control_route_gets_the_request_as_asgi_says() -> None:
    seen: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        seen.append({**scope, **message})
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        await send({"type": "http.response.body", "body": b"b"})
        assert await receive() == {"type": "http.disconnect"}

    async with listening(Door(None), app=app) as listener, await Client.to(listener.address) as client:
        await client.send(request("POST", "/v1/models/org%2Fm%20x?limit=1", b"body", [("X-Mixed", "V")]))
        answer = await client.answer()
        assert (answer.body, answer.framing) == (b"ab", "chunked")
        await eventually(lambda: listener.requests == 0, "it has not ended")
    (scope,) = seen
    assert (scope["method"], scope["http_version"], scope["type"]) == ("POST", "1.1", "http.request")
    assert scope["query_string"] == b"limit=1"
    assert scope["raw_path"] == b"/v1/models/org%2Fm%20x"
    # "with percent-encoded sequences and UTF-8 byte sequences decoded" (ASGI, HTTP connection scope).
    assert scope["path"] == "/v1/models/org/m x"
    assert (b"x-mixed", b"V") in scope["headers"]
    assert (scope["body"], scope["more_body"]) == (b"body", False)
    assert scope["client"][0] == "127.0.0.1"
    assert f"{scope['server'][0]}:{scope['server'][1]}" == listener.address


async def test_a_control_route_is_told_that_its_client_has_left() -> None:
    told: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while not told:
            message = await receive()
            if message["type"] == "http.disconnect":
                told.append("left")
        # Sending into the void is no error.
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x"})

    async with listening(Door(None), app=app) as listener, await Client.to(listener.address) as client:
        await client.send(request("POST", "/health", b"x" * 100)[:-1])
        await eventually(lambda: listener.requests == 1, "it never came")
        client.half_close()
        await eventually(lambda: told == ["left"] and listener.requests == 0, "nobody told it")


async def test_a_large_body_for_a_control_route_costs_no_memory() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.1)
        await send({"type": "http.response.start", "status": 405, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    async with listening(door := Door(None), app=app) as listener, await Client.to(listener.address) as client:
        client.writer.write(request("POST", "/health", b"x" * (8 << 20)))
        cycle = await door.opened()
        await asyncio.sleep(0.05)
        assert sum(map(len, cycle.parts)) < 1 << 20
        assert (await client.answer()).status == 405


async def test_a_mirror_of_the_body_is_the_body() -> None:
    async with listening(Door(echo)) as listener, await Client.to(listener.address) as client:
        body = bytes(range(256)) * 1000
        await client.send(CHUNKED + chunks(body[:1000], body[1000:1001], body[1001:]) + b"0\r\n\r\n")
        assert (await client.answer()).body == b"/a " + body


async def test_a_head_that_cannot_be_written_leaves_room_for_one_that_says_so() -> None:
    async def answer(cycle: ClientRequest) -> None:
        with pytest.raises(Exception, match="malformed"):
            cycle.start(200, [(b"x", b"a\nb")], length_known=False)
        assert not cycle.begun
        cycle.start(502, [(b"content-length", b"2")], length_known=True)
        cycle.finish(b"no")

    async with listening(Door(answer)) as listener, await Client.to(listener.address) as client:
        await client.send(request("GET", "/a"))
        told = await client.answer()
        assert (told.status, told.body, told.framing) == (502, b"no", "length")
