"""The whole program as a process: it starts or says why not, says when it is ready, and ends when it is told to."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from gateway.control.policy_loader import StartError
from gateway.process.app import Gateway
from tests.fakes.backend import Backend
from tests.flow.harness import Footprint, eventually, gateway_with
from tests.gateway.served import engine, policy, serving
from tests.gateway.wire import Door, echo, listening
from tests.pace import Watch

# -- it starts, or says why not


def bad_port(folder: Path, port: int) -> Path:
    return policy(folder, server={"listen": f"127.0.0.1:{port}", "admin": "127.0.0.1:0"})


def bad_admin_port(folder: Path, port: int) -> Path:
    return policy(folder, server={"listen": "127.0.0.1:0", "admin": f"127.0.0.1:{port}"})


def bad_policy(folder: Path, port: int) -> Path:
    return policy(folder, routes=[{"model": "m", "pool": "nowhere"}], wrong=1)


def no_keys_file(folder: Path, port: int) -> Path:
    return policy(folder, auth={"api_keys": {"file": "keys.yaml"}})


def no_secret(folder: Path, port: int) -> Path:
    return policy(folder, pools={"pool": {**engine(), "api_key": {"env": "SLUICE_TEST_NOT_SET"}}})


def no_ca_file(folder: Path, port: int, **more: Any) -> Path:
    endpoint = {"url": "https://127.0.0.1:1", "tls": {"ca": "nowhere.pem"}}
    return policy(folder, pools={"pool": {"engine": "http", **more, "endpoints": [endpoint]}})


def no_ca_in_the_file(folder: Path, port: int) -> Path:
    (folder / "nowhere.pem").write_text("this is no certificate")
    return no_ca_file(folder, port)


def no_ca_file_but_workers(folder: Path, port: int) -> Path:
    return no_ca_file(folder, port, **engine())


def no_folder_for_the_log(folder: Path, port: int) -> Path:
    return policy(folder, observe={"access_log": {"path": "nowhere/access.log"}})


# What is wrong -> what has to be in the text.
NO_START = {
    bad_policy: (b"policy.yaml:", b"nowhere", b"wrong"),
    bad_port: (b"127.0.0.1:", b"in use"),
    bad_admin_port: (b"127.0.0.1:", b"in use"),
    no_keys_file: (b"keys.yaml", b"sluice keys create"),
    no_secret: (b"policy.yaml:", b"SLUICE_TEST_NOT_SET"),
    no_ca_file: (b"nowhere.pem",),
    no_ca_in_the_file: (b"nowhere.pem",),
    no_folder_for_the_log: (b"nowhere", b"no folder"),
}
WITH_WORKERS = {no_ca_file_but_workers: (b"nowhere.pem",)}


@pytest.mark.parametrize("wrong", [*NO_START, *WITH_WORKERS], ids=lambda wrong: wrong.__name__)
def test_what_keeps_it_from_starting_is_said_plainly_with_exit_code_1_and_nothing_is_left(
    tmp_path: Path, wrong: Any
) -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as taken:
        with serving(wrong(tmp_path, taken.getsockname()[1])) as served:
            out, said = served.process.communicate(timeout=15)
            assert served.process.returncode == 1
            assert all(word in said for word in (NO_START | WITH_WORKERS)[wrong]), said
            assert b"Traceback" not in said, said.decode()
            assert b"ready on" not in said
            assert out == b""
            assert served.ends(within=2) == 1


@pytest.mark.parametrize("wrong", NO_START, ids=lambda wrong: wrong.__name__)
async def test_a_gateway_that_does_not_start_holds_nothing(tmp_path: Path, wrong: Any) -> None:
    before, handlers = Footprint.now(), logging.getLogger("sluice").handlers[:]
    threads = set(threading.enumerate())
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as taken:
        with pytest.raises(StartError):
            await Gateway(wrong(tmp_path, taken.getsockname()[1])).start()
        assert logging.getLogger("sluice").handlers == handlers
        # The loop's own pool of threads is the loop's.
        new = [thread.name for thread in set(threading.enumerate()) - threads]
        assert [name for name in new if not name.startswith(("uvloop_", "asyncio_"))] == []
    await before.restored([])


# -- it says when it is ready


def test_ready_is_said_only_once_its_workers_are_ready(tmp_path: Path) -> None:
    with serving(policy(tmp_path, pools={"pool": engine("late")})) as served:
        host, port = served.ready()
        with socket.create_connection((host, port), timeout=5) as client:
            client.sendall(b"GET /ready HTTP/1.1\r\nhost: x\r\n\r\n")
            assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
        assert len(served.workers()) >= 2
        served.process.send_signal(signal.SIGINT)
        assert served.ends(within=3) == 0


def test_ready_is_said_after_a_workers_first_failure_too_for_the_other_pools_sake(tmp_path: Path) -> None:
    with serving(policy(tmp_path, pools={"pool": engine("crash", count=1), "other": engine(count=1)})) as served:
        host, port = served.ready()
        with socket.create_connection((host, port), timeout=5) as client:
            client.sendall(b"GET /ready HTTP/1.1\r\nhost: x\r\n\r\n")
            assert client.recv(65536).startswith(b"HTTP/1.1 503 ")
        served.process.send_signal(signal.SIGINT)
        assert served.ends(within=3) == 0


def test_before_its_workers_are_ready_it_is_not_said(tmp_path: Path) -> None:
    with serving(policy(tmp_path, pools={"pool": engine("silent")})) as served:
        served.until(rb"worker_starting")
        with pytest.raises(AssertionError, match="never said"):
            served.until(rb"ready on", timeout=1.0)
        # It can be ended before it was ever ready.
        served.process.send_signal(signal.SIGINT)
        assert served.ends(within=3) == 0


def test_what_it_has_to_say_of_the_policy_at_the_start_is_a_whole_line_of_its_log(tmp_path: Path) -> None:
    with serving(policy(tmp_path, pools={"pool": engine(count=1)})) as served:
        served.ready()
        # Anonymous is allowed, so the missing keys file is only worth a warning: one that says which file.
        served.until(rb"WARNING keys_file_missing file=\S*keys\.yaml", timeout=1.0)


# -- it ends


def test_sigint_ends_it_and_its_workers_within_3_seconds_with_exit_code_0(tmp_path: Path) -> None:
    # The workers ignore SIGTERM, and one helper of each too. How SIGTERM ends it: tests/faults/test_shutdown.py.
    with serving(policy(tmp_path, pools={"pool": engine("ignore_term", "fork")})) as served:
        served.ready()
        assert len(served.workers()) >= 4
        served.process.send_signal(signal.SIGINT)
        assert served.ends(within=3) == 0


def test_signals_that_come_again_and_again_end_it_once(tmp_path: Path) -> None:
    with serving(policy(tmp_path)) as served:
        served.ready()
        for _ in range(20):
            with contextlib.suppress(ProcessLookupError):
                served.process.send_signal(signal.SIGINT)
            time.sleep(0.005)
        assert served.ends(within=3) == 0
        assert b"Traceback" not in served.said


def test_ctrl_c_for_the_whole_group_ends_it_in_order(tmp_path: Path) -> None:
    with serving(policy(tmp_path)) as served:
        served.ready()
        os.killpg(served.process.pid, signal.SIGINT)
        assert served.ends(within=3) == 0


def test_sighup_reads_the_policy_again_and_ends_nothing(tmp_path: Path) -> None:
    path = policy(tmp_path)
    with serving(path) as served:
        served.ready()
        workers = set(served.workers())
        served.process.send_signal(signal.SIGHUP)
        served.until(rb"policy_loaded .*generation=2 .*SIGHUP")
        assert workers <= set(served.workers())
        served.process.send_signal(signal.SIGINT)
        assert served.ends(within=3) == 0


async def test_a_client_with_an_open_stream_is_told_of_the_end_and_gets_no_done(backend: Backend) -> None:
    backend.streams("one", "two", hold=2)
    async with gateway_with(backend, quiet=False) as gw, await gw.connect() as client:
        await client.send(gw.chat_request())
        await client.until(b"one")
        await client.until(b"\n\n")
        await gw.gateway.stop()
        rest = await client.rest(timeout=2)
        assert b"[DONE]" not in rest
        assert not rest.endswith(b"0\r\n\r\n"), "a stream that was broken off must not look complete"
        (event,) = [line for line in rest.split(b"\n") if line.startswith(b"data: ")]
        assert json.loads(event.removeprefix(b"data: "))["error"]["code"] == "shutting_down"
        await backend.all_closed(timeout=1.0)
        (line,) = await gw.access_lines(1)
        assert (line["status"], line["code"]) == (200, "shutting_down")


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "plain"])
async def test_a_client_that_waits_for_its_answer_at_the_end_gets_503(backend: Backend, stream: bool) -> None:
    backend.raw(b"", stall=True)
    async with gateway_with(backend, quiet=False) as gw, await gw.connect() as client:
        await client.send(gw.chat_request(stream=stream))
        await backend.requested()
        await gw.gateway.stop()
        answer = await client.answer()
        assert (answer.status, answer.error["code"]) == (503, "shutting_down")
        assert answer.header("retry-after") is not None
        assert await client.rest() == b""


async def test_idle_clients_are_closed_at_the_end_and_nobody_is_let_in(backend: Backend) -> None:
    async with gateway_with(backend, quiet=False) as gw, await gw.connect() as client:
        await client.send(gw.chat_request(stream=False))
        assert (await client.answer()).status == 200
        await gw.gateway.stop()
        assert await client.rest(timeout=1) == b""
        with pytest.raises(OSError):
            await gw.connect()


async def test_a_client_that_reads_nothing_does_not_keep_it_from_ending(backend: Backend) -> None:
    async def floods(connection: Any, request: Any) -> None:
        await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n")
        while not connection.closed.is_set():
            await connection.send(b"x" * 65536)

    backend.does(floods)
    async with gateway_with(backend, quiet=False) as gw, await gw.connect() as client:
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await client.send(gw.chat_request(stream=False))
        await backend.requested()
        watch = Watch()
        await gw.gateway.stop()
        assert watch.own < 3


# -- what it observes


async def test_its_log_is_json_where_the_policy_says_so(backend: Backend) -> None:
    async with gateway_with(backend, policy={"observe": {"log": {"format": "json"}}}) as gw:
        await gw.gateway.reload()
        await eventually(lambda: "policy_loaded" in gw.log_text(), "the reload was never told")
        (line,) = [json.loads(line) for line in gw.log_text().splitlines() if "policy_loaded" in line]
        assert (line["level"], line["event"], line["generation"]) == ("INFO", "policy_loaded", 2)


async def test_only_the_policys_share_of_requests_gets_an_access_line(backend: Backend) -> None:
    backend.streams("hello")
    async with gateway_with(backend, policy={"observe": {"access_log": {"sample": 0.0}}}, quiet=False) as gw:
        for _ in range(5):
            assert await gw.chat() == "hello"
        assert gw.total("requests_total") == 5
        await gw.gateway.stop()
        assert await gw.access_lines(0) == []


async def test_labels_that_the_policy_leaves_out_are_not_counted_by(backend: Backend) -> None:
    backend.streams("hello")
    async with gateway_with(backend, policy={"observe": {"metrics": {"labels": ["pool"]}}}) as gw:
        assert await gw.chat() == "hello"
        (labels,) = [dict(labels) for name, labels in gw.series() if name == "requests_total"]
        assert labels.keys() == {"route", "pool", "stream", "code"}


# -- where it listens


async def test_it_listens_on_ipv6(backend: Backend) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"this machine has no IPv6: {error}")
    async with gateway_with(backend, policy={"server": {"listen": "[::1]:0"}}) as gw:
        assert gw.gateway.address.startswith("[::1]:")
        assert (await gw_get(gw.gateway.address, "/health")).startswith(b"HTTP/1.1 200 ")


async def gw_get(address: str, path: str) -> bytes:
    """What a client at `[HOST]:PORT` or `unix:PATH` gets."""
    if address.startswith("unix:"):
        reader, writer = await asyncio.open_unix_connection(address.removeprefix("unix:"))
    else:
        host, _, port = address.rpartition(":")
        reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
    data = await reader.read()
    writer.close()
    await writer.wait_closed()
    return data


async def test_it_listens_on_a_unix_socket_and_takes_the_file_away(backend: Backend, tmp_path: Path) -> None:
    path = tmp_path / "gw.sock"
    async with gateway_with(backend, policy={"server": {"listen": f"unix:{path}"}}) as gw:
        assert gw.gateway.address == f"unix:{path}"
        assert (await gw_get(gw.gateway.address, "/health")).startswith(b"HTTP/1.1 200 ")
    assert not path.exists()


async def test_a_socket_file_that_nobody_answers_on_is_taken_over(backend: Backend, tmp_path: Path) -> None:
    path = tmp_path / "gw.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert path.is_socket()
    async with gateway_with(backend, policy={"server": {"listen": f"unix:{path}"}}) as gw:
        assert (await gw_get(gw.gateway.address, "/health")).startswith(b"HTTP/1.1 200 ")


async def test_a_socket_file_that_somebody_answers_on_is_left_to_him(backend: Backend, tmp_path: Path) -> None:
    path = tmp_path / "gw.sock"
    with socket.socket(socket.AF_UNIX) as alive:
        alive.bind(str(path))
        alive.listen()
        with pytest.raises(StartError, match=r"gw\.sock"):
            async with gateway_with(backend, policy={"server": {"listen": f"unix:{path}"}}):
                pass
        assert path.is_socket()


async def test_a_file_that_is_no_socket_is_never_taken_away(backend: Backend, tmp_path: Path) -> None:
    path = tmp_path / "gw.sock"
    path.write_text("somebody's diary")
    with pytest.raises(StartError, match=r"gw\.sock"):
        async with gateway_with(backend, policy={"server": {"listen": f"unix:{path}"}}):
            pass
    assert path.read_text() == "somebody's diary"


async def test_a_socket_file_that_vanished_is_no_reason_not_to_end(tmp_path: Path) -> None:
    path = tmp_path / "gw.sock"
    async with listening(Door(echo), address=f"unix:{path}"):
        path.unlink()


async def test_a_socket_file_that_another_gateway_has_made_since_is_left_to_it(tmp_path: Path) -> None:
    path = tmp_path / "gw.sock"
    async with listening(Door(echo), address=f"unix:{path}"):
        path.unlink()
        with socket.socket(socket.AF_UNIX) as another:
            another.bind(str(path))
    assert path.is_socket()
