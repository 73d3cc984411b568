"""fault 70: SIGTERM with open streams. Not ready first, then no new work, then the streams, and nobody is cut
without a word."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.backend import Backend, Request
from tests.fakes.client import Answer, Client, request
from tests.flow.harness import Running, eventually, gateway_with
from tests.gateway.served import engine, policy, serving
from tests.pace import own_timeout


def times(lame_duck: str = "0", drain: str = "20s") -> dict[str, Any]:
    return {"server": {"lame_duck": lame_duck, "drain": drain}}


class Leaving:
    """A gateway on its way out."""

    def __init__(self, gw: Running) -> None:
        self.gw = gw
        self.hurry = asyncio.Event()
        self.task = asyncio.get_running_loop().create_task(gw.gateway.leave("SIGTERM", self.hurry))

    async def said(self, event: str) -> dict[str, str]:
        """The fields of the log's line for a step, once it is there."""
        await eventually(lambda: f" {event} " in self.gw.log_text(), f"never said {event}")
        (line,) = [line for line in self.gw.log_text().splitlines() if f" {event} " in line]
        return dict(pair.split("=", 1) for pair in shlex.split(line)[3:])

    async def ended(self, within: float = 3.0) -> None:
        async with own_timeout(within):
            await self.task


@contextlib.asynccontextmanager
async def leaving(gw: Running) -> AsyncIterator[Leaving]:
    """SIGTERM has come. It has to end by itself or by the test."""
    one = Leaving(gw)
    try:
        yield one
    finally:
        one.hurry.set()
        await one.ended()


async def get(address: str, path: str) -> Answer:
    async with await Client.to(address) as client:
        await client.send(request("GET", path, host="localhost"))
        return await client.answer(method="GET")


# -- lame duck: not ready, but at work


async def test_readiness_fails_first_and_new_work_is_still_taken(backend: Backend) -> None:
    backend.streams("hello")
    async with gateway_with(backend, policy=times("20s"), quiet=False) as gw, await gw.connect() as kept:
        await kept.send(gw.chat_request())
        assert (await kept.answer()).text == "hello"
        async with leaving(gw) as end:
            assert await end.said("shutdown_began")
            ready = await get(gw.gateway.address, "/ready")
            assert (ready.status, ready.error["message"], ready.error["code"]) == (
                503, "Model not ready", "shutting_down",
            )  # fmt: skip
            assert ready.header("retry-after") == "1"
            readyz = await get(gw.gateway.admin_address, "/readyz")
            assert (readyz.status, readyz.body) == (503, b"shutting down\n")
            assert (await get(gw.gateway.admin_address, "/healthz")).status == 200
            # On fresh connections and on those that were there, and none of them is told to go yet.
            fresh = await gw.ask()
            await kept.send(gw.chat_request())
            for answer in (fresh, await kept.answer()):
                assert (answer.status, answer.text, answer.header("connection")) == (200, "hello", None)


async def test_a_policy_is_not_read_any_more(backend: Backend) -> None:
    async with gateway_with(backend, policy=times("20s"), quiet=False) as gw, leaving(gw) as end:
        await end.said("shutdown_began")
        await gw.gateway.reload()
        assert gw.total("policy_generation") == 1
        await end.said("policy_not_read")


# -- draining: no new work


async def test_once_draining_nobody_is_let_in_and_idle_clients_are_closed(backend: Backend) -> None:
    backend.streams("one", "two", hold=2)
    async with gateway_with(backend, policy=times(), quiet=False) as gw:
        async with await gw.connect() as busy, await gw.connect() as idle:
            await busy.send(gw.chat_request())
            await busy.until(b"one")
            async with leaving(gw) as end:
                await end.said("shutdown_draining")
                with pytest.raises(OSError):
                    await gw.connect()
                assert await idle.rest(timeout=1) == b""
                # Operators may look on.
                assert (await get(gw.gateway.admin_address, "/readyz")).status == 503
                assert b"sluice_open_streams 1" in (await get(gw.gateway.admin_address, "/metrics")).body
                backend.release.set()
                assert b"[DONE]" in await busy.rest()


SHAPES: dict[str, Callable[[Any], bool]] = {
    "/v1/chat/completions": lambda body: body["error"]["code"] == "shutting_down",
    "/v1/messages": lambda body: body["error"]["type"] == "overloaded_error",
    "/generate": lambda body: body["error_type"] == "shutting_down",
    "/v2/models/m/infer": lambda body: isinstance(body["error"], str),
    "/ready": lambda body: body["error"]["code"] == "shutting_down",
}


@pytest.mark.parametrize("path", SHAPES)
async def test_a_request_that_comes_all_the_same_gets_503_and_the_connection_ends(backend: Backend, path: str) -> None:
    async with gateway_with(backend, policy=times(), quiet=False) as gw, await gw.connect() as client:
        whole = gw.request("GET", path) if path == "/ready" else gw.request("POST", path, b'{"model": "m"}')
        await client.send(whole[:20])
        await eventually(lambda: gw.gateway.client_connections == 1, "it never came")
        await asyncio.sleep(0.02)
        # A request that is half here is waited for: somebody has sent it to us.
        backend.raw(b"", stall=True)
        async with await gw.connect() as other:
            await other.send(gw.chat_request())
            await backend.requested()
            async with leaving(gw) as end:
                await end.said("shutdown_draining")
                await asyncio.sleep(0.1)
                await client.send(whole[20:])
                answer = await client.answer()
                assert (answer.status, answer.header("connection"), answer.header("retry-after")) == (503, "close", "1")
                assert SHAPES[path](answer.json), answer
                assert await client.rest(timeout=1) == b""


async def test_a_request_that_crosses_with_the_end_is_told_and_not_reset(backend: Backend) -> None:
    """What is on its way when the door closes is read before an idle connection is closed under it."""
    async with gateway_with(backend, policy=times(), quiet=False) as gw, await gw.connect() as client:
        await client.send(gw.chat_request(stream=False))
        assert (await client.answer()).status == 200
        async with leaving(gw) as end:
            await asyncio.sleep(0)
            await client.send(gw.chat_request(stream=False))
            answer = await client.answer()
            assert (answer.status, answer.error["code"], answer.header("connection")) == (503, "shutting_down", "close")
            await end.ended()
        assert backend.attempts == 1
        lines = await gw.access_lines(2)
        assert [(line["status"], line["code"]) for line in lines] == [(200, None), (503, "shutting_down")]


async def test_work_that_was_taken_before_is_answered_and_told_that_the_connection_ends(backend: Backend) -> None:
    async def late(connection: Any, asked: Request) -> None:
        await backend.release.wait()
        await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")

    backend.does(late)
    async with gateway_with(backend, policy=times(), quiet=False) as gw:
        async with await gw.connect() as waits, await gw.connect() as sends:
            whole = gw.chat_request(stream=False)
            await waits.send(whole)
            await sends.send(whole[:-10])
            await eventually(lambda: gw.gateway.client_requests == 2, "they never came")
            async with leaving(gw) as end:
                await end.said("shutdown_draining")
                await sends.send(whole[-10:])
                await backend.requested(2)
                backend.release.set()
                for client in (waits, sends):
                    answer = await client.answer()
                    assert (answer.status, answer.body, answer.header("connection")) == (200, b"{}", "close")
                    assert await client.rest(timeout=1) == b""
                await end.ended()
                assert (await end.said("shutdown_drained"))["requests"] == "0"


# -- the streams


async def test_no_stream_is_cut_while_the_drain_lasts_and_the_end_does_not_wait_longer_than_they_do(
    backend: Backend,
) -> None:
    backend.streams("one", "two", "three", hold=2)
    async with gateway_with(backend, policy=times("100ms"), quiet=False) as gw:
        async with contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(await gw.connect()) for _ in range(5)]
            for client in clients:
                await client.send(gw.chat_request())
                await client.until(b"one")
            async with leaving(gw) as end:
                figures = await end.said("shutdown_draining")
                assert (figures["requests"], figures["streams"], figures["connections"]) == ("5", "5", "5")
                await asyncio.sleep(0.3)
                assert gw.gateway.client_requests == 5
                backend.release.set()
                for client in clients:
                    rest = await client.rest()
                    assert b"three" in rest
                    assert b"data: [DONE]" in rest
                    assert rest.endswith(b"0\r\n\r\n"), "whole, with its clean end"
                await end.ended(within=1.0)
                assert (await end.said("shutdown_drained"))["streams"] == "0"
                assert (await end.said("shutdown_done"))["streams"] == "0"
        lines = await gw.access_lines(5)
        assert {(line["status"], line["code"], line["outcome"]) for line in lines} == {(200, None, "ok")}


async def test_a_client_that_reads_slowly_has_all_of_its_answer(backend: Backend) -> None:
    body = b"x" * 3_000_000
    backend.answers(200, body)
    async with gateway_with(backend, policy=times(), quiet=False) as gw, await gw.connect() as client:
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await client.send(gw.chat_request(stream=False))
        await backend.requested()
        async with leaving(gw) as end:
            await end.said("shutdown_draining")
            await asyncio.sleep(0.2)
            client.writer.transport.resume_reading()  # type: ignore[attr-defined]
            answer = await client.answer()
            assert (answer.status, answer.end, len(answer.body)) == (200, "complete", len(body))
            await end.ended(within=2.0)


DIALECTS = {
    "/v1/chat/completions": b"data: ",
    "/v1/completions": b"data: ",
    "/v1/messages": b"event: error\ndata: ",
    "/v1/responses": b"event: error\ndata: ",
}


@pytest.mark.parametrize("path", DIALECTS)
async def test_what_is_left_after_the_drain_is_ended_honestly(backend: Backend, path: str) -> None:
    backend.streams("one", "two", hold=2)
    async with gateway_with(backend, policy=times(drain="150ms"), quiet=False) as gw, await gw.connect() as client:
        await client.send(gw.request("POST", path, json.dumps({"model": "m", "stream": True}).encode()))
        await client.until(b"one")
        await client.until(b"\n\n")
        async with leaving(gw) as end:
            began = time.monotonic()
            rest = await client.rest()
            assert time.monotonic() - began > 0.14, "cut before the drain was over"
            assert b"[DONE]" not in rest
            assert not rest.endswith(b"0\r\n\r\n"), "a stream that was broken off must not look complete"
            event = rest.split(b"\r\n", 2)[2].removesuffix(b"\r\n")
            assert event.startswith(DIALECTS[path])
            assert b"shutting down" in event
            assert event.endswith(b"\n\n")
            await backend.all_closed(timeout=1.0)
            await end.ended()
            figures = await end.said("shutdown_cutting")
            assert (figures["requests"], figures["streams"]) == ("1", "1")
        (line,) = await gw.access_lines(1)
        assert (line["status"], line["code"]) == (200, "shutting_down")
        assert gw.total("endpoint_in_flight") == gw.total("open_streams") == 0


async def test_a_request_between_two_attempts_is_told_too(backend: Backend) -> None:
    backend.answers(502)
    retry = {"retries": 1, "backoff": "20s", "max": "20s", "jitter": "none", "when": [502]}
    async with gateway_with(backend, policy=times(drain="100ms"), route={"retry": retry}, quiet=False) as gw:
        async with await gw.connect() as client:
            await client.send(gw.chat_request(stream=False))
            await backend.requested()
            async with leaving(gw) as end:
                answer = await client.answer()
                assert (answer.status, answer.error["code"]) == (503, "shutting_down")
                await end.ended()
            assert backend.attempts == 1


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "plain"])
async def test_whoever_still_waits_for_an_answer_after_the_drain_gets_503(backend: Backend, stream: bool) -> None:
    backend.raw(b"", stall=True)
    async with gateway_with(backend, policy=times(drain="100ms"), quiet=False) as gw, await gw.connect() as client:
        await client.send(gw.chat_request(stream=stream))
        await backend.requested()
        async with leaving(gw) as end:
            answer = await client.answer()
            assert (answer.status, answer.error["code"]) == (503, "shutting_down")
            assert (answer.header("retry-after"), answer.header("connection")) == ("1", "close")
            await end.ended()
        assert backend.attempts == 1, "it is no failure to try again after"
        assert gw.total("endpoint_in_flight") == 0


async def test_a_drain_of_0_cuts_at_once_and_a_lame_duck_of_0_is_none(backend: Backend) -> None:
    backend.streams("one", "two", hold=2)
    async with gateway_with(backend, policy=times(drain="0"), quiet=False) as gw, await gw.connect() as client:
        await client.send(gw.chat_request())
        await client.until(b"one")
        async with leaving(gw) as end:
            await end.ended(within=1.0)
        assert b"shutting_down" in await client.rest()


# -- in a hurry


@pytest.mark.parametrize("step", ["shutdown_began", "shutdown_draining"])
async def test_a_hurry_ends_the_waiting_of_every_step(backend: Backend, step: str) -> None:
    backend.streams("one", "two", hold=2)
    lame_duck = "20s" if step == "shutdown_began" else "0"
    async with gateway_with(backend, policy=times(lame_duck), quiet=False) as gw, await gw.connect() as client:
        await client.send(gw.chat_request())
        await client.until(b"one")
        async with leaving(gw) as end:
            await end.said(step)
            assert not end.task.done()
            end.hurry.set()
            await end.ended(within=1.0)
        rest = await client.rest()
        assert b"shutting_down" in rest
        assert b"[DONE]" not in rest


async def test_an_end_without_anybody_takes_no_longer_than_its_lame_duck(backend: Backend) -> None:
    async with gateway_with(backend, policy=times("200ms"), quiet=False) as gw:
        async with leaving(gw) as end:
            began = time.monotonic()
            await end.ended(within=1.0)
            assert time.monotonic() - began >= 0.2


# -- as processes: `sluice serve` with simulators behind it


def simulators(folder: Path, *, lame_duck: str, drain: str, tokens: int) -> Path:
    """A policy whose answers take `tokens` times 20 ms."""
    workers = {"count": 2, "served_name": "m", "args": {"tokens": tokens, "gap": "20ms"}}
    server = {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0", "lame_duck": lame_duck, "drain": drain}
    return policy(folder, server=server, pools={"pool": {"engine": "simulator", "workers": workers}})


class Stream:
    """A chat stream over a blocking socket, that has begun."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address, timeout=10)
        body = json.dumps({"model": "m", "stream": True, "messages": [{"role": "user", "content": "hi"}]}).encode()
        self.socket.sendall(request("POST", "/v1/chat/completions", body, [("content-type", "application/json")]))
        self.seen = b""
        while b'"content":"' not in self.seen.replace(b'"content":""', b""):
            self.seen += self._more()

    def _more(self) -> bytes:
        part = self.socket.recv(65536)
        assert part, self.seen
        return part

    def rest(self) -> bytes:
        """Everything to the end of the connection."""
        parts = []
        with self.socket, contextlib.suppress(ConnectionError):
            while part := self.socket.recv(65536):
                parts.append(part)
        return b"".join(parts)


def alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if os.path.exists(f"/proc/{pid}/exe")]


def test_sigterm_lets_open_streams_finish_and_ends_the_workers_after_them(tmp_path: Path) -> None:
    with serving(simulators(tmp_path, lame_duck="300ms", drain="20s", tokens=60)) as served:
        address = served.ready()
        streams = [Stream(address) for _ in range(3)]
        workers = served.workers()
        served.process.send_signal(signal.SIGTERM)
        served.until(rb"shutdown_began why=SIGTERM")
        late = Stream(address)
        served.until(rb"shutdown_draining .*streams=4")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address, timeout=1)
        assert len(alive(workers)) == len(workers)
        for stream in (*streams, late):
            rest = stream.rest()
            assert b"data: [DONE]" in rest
            assert rest.endswith(b"0\r\n\r\n")
        served.until(rb"shutdown_drained .*streams=0")
        served.until(rb"worker_stopped(.|\n)*worker_stopped(.|\n)*shutdown_done")
        assert served.ends(within=5) == 0
        assert b"shutdown_cutting" not in served.said
        assert b"Traceback" not in served.said


def test_a_stream_that_outlasts_the_drain_is_told_and_the_exit_code_is_still_0(tmp_path: Path) -> None:
    with serving(simulators(tmp_path, lame_duck="0", drain="300ms", tokens=3000)) as served:
        stream = Stream(served.ready())
        served.process.send_signal(signal.SIGTERM)
        rest = stream.rest()
        assert b"shutting_down" in rest
        assert b"[DONE]" not in rest
        assert not rest.endswith(b"0\r\n\r\n")
        served.until(rb"WARNING shutdown_cutting requests=1 streams=1")
        assert served.ends(within=5) == 0


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
@pytest.mark.parametrize("step", [b"shutdown_began", b"shutdown_draining"], ids=["lame duck", "drain"])
def test_a_second_signal_hurries(tmp_path: Path, step: bytes, second: signal.Signals) -> None:
    lame_duck = "30s" if step == b"shutdown_began" else "0"
    with serving(simulators(tmp_path, lame_duck=lame_duck, drain="30s", tokens=3000)) as served:
        stream = Stream(served.ready())
        served.process.send_signal(signal.SIGTERM)
        served.until(step)
        served.process.send_signal(second)
        assert b"shutting_down" in stream.rest()
        served.until(rb"shutdown_hurried why=" + second.name.encode())
        assert served.ends(within=3) == 0


def test_sigint_skips_both(tmp_path: Path) -> None:
    with serving(simulators(tmp_path, lame_duck="30s", drain="30s", tokens=3000)) as served:
        stream = Stream(served.ready())
        served.process.send_signal(signal.SIGINT)
        assert b"shutting_down" in stream.rest()
        assert served.ends(within=3) == 0


def test_workers_that_ignore_sigterm_are_killed_after_their_time_or_in_a_hurry(tmp_path: Path) -> None:
    server = {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0", "lame_duck": "0", "drain": "0"}
    # The engine's `kill_after` is 10 s.
    with serving(policy(tmp_path, server=server, pools={"pool": engine("ignore_term", "fork")})) as served:
        served.ready()
        assert len(served.workers()) >= 4
        served.process.send_signal(signal.SIGTERM)
        served.until(rb"shutdown_drained")
        served.until(rb"worker_stopping")
        with pytest.raises(AssertionError, match="never said"):
            served.until(rb"worker_stopped", timeout=0.5)
        served.process.send_signal(signal.SIGTERM)
        assert served.ends(within=3) == 0


def test_a_signal_before_it_was_ever_ready_ends_it_all_the_same(tmp_path: Path) -> None:
    server = {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0", "lame_duck": "100ms", "drain": "30s"}
    with serving(policy(tmp_path, server=server, pools={"pool": engine("silent")})) as served:
        served.until(rb"worker_starting")
        served.process.send_signal(signal.SIGTERM)
        assert served.ends(within=5) == 0
        assert b"ready on" not in served.said
