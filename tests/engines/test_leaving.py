"""A client that leaves frees the engine within a second, in every phase, with a FIN and with a reset."""

import json
import socket
import struct
import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from tests.engines.clients import Target
from tests.engines.conftest import House
from tests.engines.payloads import CHAT, LONG_TEXT, MESSAGES, ask

pytestmark = [pytest.mark.engine, pytest.mark.timeout(240)]

FREED_WITHIN = 1.0
# DESIGN's bar is 0.1 s for a gateway that has its core to itself; here two engines compute on two cores.
CLOSED_WITHIN = 0.5
_ENDLESS = {"max_tokens": 4000, "ignore_eos": True}


def send(target: Target, path: str, payload: dict[str, Any]) -> socket.socket:
    """A request on a new connection, none of its answer read."""
    body = json.dumps(payload).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: {target.url[7:]}\r\nauthorization: Bearer {target.key}\r\n"
    head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    connection = socket.create_connection(("127.0.0.1", target.port), 10)
    connection.sendall(head.encode() + body)
    return connection


def read_events(connection: socket.socket, count: int) -> bytes:
    """Read until so many events have come."""
    got = b""
    while got.count(b"\ndata:") < count:
        data = connection.recv(1 << 16)
        assert data, f"the stream ended: {got!r}"
        got += data
    return got


def fin(connection: socket.socket) -> None:
    """Say that nothing more will be sent, and go on reading nothing."""
    connection.shutdown(socket.SHUT_WR)


def rst(connection: socket.socket) -> None:
    """Close with a reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def until(what: str, true: Callable[[], bool], within: float) -> float:
    """Seconds until `true()`; an AssertionError when that takes longer than `within`."""
    began = time.monotonic()
    while True:
        if true():
            return time.monotonic() - began
        assert time.monotonic() - began < within, f"{what}: not within {within} s"
        time.sleep(0.01)


def _streaming(house: House, mark: str) -> socket.socket:
    connection = send(house.through, CHAT, ask(CHAT, mark, _ENDLESS | {"stream": True}).payload)
    read_events(connection, 5)
    return connection


def _anthropic_streaming(house: House, mark: str) -> socket.socket:
    payload = ask(MESSAGES, mark, {"max_tokens": 4000, "stream": True}).payload
    connection = send(house.through, MESSAGES, payload)
    read_events(connection, 5)
    return connection


def _in_prefill(house: House, mark: str, *, stream: bool) -> socket.socket:
    payload = ask(CHAT, mark, {"max_tokens": 500, "ignore_eos": True, "stream": stream}).payload
    payload["messages"][0]["content"] += LONG_TEXT * 350
    connection = send(house.through, CHAT, payload)
    until("the prefill begins", lambda: house.busy() > 0, 10)
    return connection


def _plain(house: House, mark: str) -> socket.socket:
    connection = send(house.through, CHAT, ask(CHAT, mark, _ENDLESS).payload)
    until("the answer is being computed", lambda: house.busy() > 0, 10)
    time.sleep(0.3)
    return connection


PHASES: dict[str, Callable[[House, str], socket.socket]] = {
    "mid-stream": _streaming,
    "mid-stream-of-messages": _anthropic_streaming,
    "mid-prefill": lambda house, mark: _in_prefill(house, mark, stream=True),
    "mid-prefill-of-a-plain-answer": lambda house, mark: _in_prefill(house, mark, stream=False),
    "plain-answer": _plain,
}


@pytest.mark.parametrize("leave", [fin, rst], ids=["fin", "rst"])
@pytest.mark.parametrize("phase", PHASES)
def test_the_engine_is_free_within_a_second(house: House, phase: str, leave: Callable[[socket.socket], None]) -> None:
    until("the engines are idle before", lambda: house.busy() == 0, 5)
    mark = uuid.uuid4().hex
    connection = PHASES[phase](house, mark)
    seen = house.post_with(mark)
    # Beside it there may be a probe, for a moment.
    until("it alone is at work", lambda: house.busy() == 1, 1)
    if "prefill" in phase:
        assert seen.answer is None or seen.answer.body == b""
    left = time.monotonic()
    leave(connection)
    until("the engine is free", lambda: house.busy() == 0, FREED_WITHIN)
    connection.close()
    assert seen.answer is None or not seen.answer.whole
    assert seen.on.client_left is not None and seen.on.client_left - left < CLOSED_WITHIN
    until("the gateway's own counts are back", lambda: house.gateway.metric("sluice_endpoint_in_flight") == 0, 2)
    assert house.gateway.metric("sluice_open_streams") == 0


def test_nobody_is_punished_for_clients_that_leave(house: House) -> None:
    for _ in range(10):
        connection = _streaming(house, uuid.uuid4().hex)
        rst(connection)
    until("the engines are free", lambda: house.busy() == 0, FREED_WITHIN)
    for _ in range(4):
        with send(house.through, CHAT, ask(CHAT, uuid.uuid4().hex, {"max_tokens": 2}).payload) as connection:
            assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
