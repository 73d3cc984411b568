"""The tap and the reader of captures are what the proofs here rest on: they are tested themselves."""

import socket
import struct
import time
from collections.abc import Iterator

import pytest

from tests.engines.wire import dechunked, exchanges
from tests.fakes.tap import Tap


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(5)
        yield server


def _pair(tap: Tap, listener: socket.socket) -> tuple[socket.socket, socket.socket]:
    client = socket.create_connection(("127.0.0.1", tap.port), 5)
    server, _ = listener.accept()
    server.settimeout(5)
    return client, server


def test_bytes_go_through_unchanged_and_are_kept(listener: socket.socket) -> None:
    with Tap(*listener.getsockname()) as tap:
        client, server = _pair(tap, listener)
        with client, server:
            sent = bytes(range(256)) * 4096
            client.sendall(sent)
            got = b""
            while len(got) < len(sent):
                got += server.recv(1 << 16)
            server.sendall(b"answer")
            assert client.recv(100) == b"answer"
        assert got == sent == bytes(tap.connections[0].to_server)
        assert bytes(tap.connections[0].to_client) == b"answer"


def test_a_half_close_is_handed_on_as_a_half_close(listener: socket.socket) -> None:
    with Tap(*listener.getsockname()) as tap:
        client, server = _pair(tap, listener)
        with client, server:
            client.sendall(b"question")
            client.shutdown(socket.SHUT_WR)
            assert server.recv(100) == b"question"
            assert server.recv(100) == b""
            assert tap.connections[0].client_left is not None
            server.sendall(b"answer all the same")
            assert client.recv(100) == b"answer all the same"
            assert tap.connections[0].server_left is None


def test_a_reset_is_handed_on_as_a_reset(listener: socket.socket) -> None:
    with Tap(*listener.getsockname()) as tap:
        client, server = _pair(tap, listener)
        with server:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
            with pytest.raises(ConnectionResetError):
                server.recv(100)


def test_a_refusing_server_is_a_reset() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    # The reset may be there before `connect` has returned.
    with Tap("127.0.0.1", port) as tap, pytest.raises(ConnectionResetError):
        with socket.create_connection(("127.0.0.1", tap.port), 5) as client:
            client.recv(100)


def test_several_exchanges_are_read_out_of_one_connection(listener: socket.socket) -> None:
    with Tap(*listener.getsockname()) as tap:
        client, server = _pair(tap, listener)
        with client, server:
            client.sendall(b"POST /a HTTP/1.1\r\nContent-Length: 3\r\n\r\nxyzGET /b HTTP/1.1\r\nHost: h\r\n\r\n")
            server.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n")
            server.sendall(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\nno")
            end = time.monotonic() + 5
            while b"\r\n\r\nno" not in tap.connections[0].to_client or b"Host" not in tap.connections[0].to_server:
                assert time.monotonic() < end
                time.sleep(0.001)
            first, second = exchanges(tap.connections[0])
    assert (first.request.start, first.request.body) == ("POST /a HTTP/1.1", b"xyz")
    assert first.answer is not None and second.answer is not None
    assert (first.answer.body, first.answer.whole, first.answer.status) == (b"abc", True, 200)
    assert (second.answer.body, second.answer.whole, second.answer.status) == (b"no", False, 404)


@pytest.mark.parametrize("coded", [b"2\r\nabc\r\n0\r\n\r\n", b"g\r\nab\r\n", b"2;x=1\r\nab\r\n0\r\n\r\n"])
def test_bad_chunks_are_not_read_past(coded: bytes) -> None:
    with pytest.raises(ValueError, match=r"chunk"):
        dechunked(coded)
