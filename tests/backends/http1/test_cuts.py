"""However the network cuts a response, the sink gets the same head, the same body bytes and the same end."""

import asyncio
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.http1.connection import UpstreamConnection
from backends.http1.connection_pool import read_buffer
from tests.backends.http1.rig import BODY, HEAD, Answer, Peer, Server, ask, pool_to

EVENTS = (
    'data: {"choices":[{"delta":{"content":"Grüße, 世界 🌍"}}]}\n\n'.encode(),
    b": a comment\n\n",
    b'event: message_start\r\ndata: {"type":"message_start"}\r\n\r\n',
    b"id: 7\ndata:no blank\ndata:  two\n\n",
    b"data: 0\r\n\r\n",
    b"\r\n",
    b"data: [DONE]\n\n",
)


class Wire(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def get_write_buffer_size(self) -> int:
        return 0

    def abort(self) -> None:
        self.aborted = True


class Pool:
    """An owner that remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def opened(self, connection: UpstreamConnection) -> None:
        self.told.append("opened")

    def freed(self, connection: UpstreamConnection) -> None:
        self.told.append("freed")

    def closed(self, connection: UpstreamConnection) -> None:
        self.told.append("closed")


def receive(segments: list[bytes]) -> tuple[Answer, Pool]:
    pool, answer, buffer = Pool(), Answer(), read_buffer()
    connection = UpstreamConnection(pool, buffer)
    connection.connection_made(Wire())
    connection.send(HEAD, BODY, answer)
    for segment in segments:
        into = connection.get_buffer(-1)
        into[: len(segment)] = segment
        connection.buffer_updated(len(segment))
    return answer, pool


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({place % len(data) for place in places} | {len(data)} - {0})
    starts = [0, *ends[:-1]]
    return [data[start:end] for start, end in zip(starts, ends, strict=True) if start < end]


def chunked(pieces: list[bytes], *, extension: bytes = b"", trailer: bytes = b"") -> bytes:
    chunks = b"".join(b"%x%b\r\n%b\r\n" % (len(piece), extension, piece) for piece in pieces if piece)
    return chunks + b"0\r\n" + trailer + b"\r\n"


def response(body: bytes, framing: str, pieces: list[bytes], interim: bool) -> bytes:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
    if interim:
        head = b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" + head
    if framing == "length":
        return head + b"content-length: %d\r\n\r\n%b" % (len(body), body)
    extension = b';a=b;c="d;e"' if framing == "extensions" else b""
    trailer = b"x-late: 1\r\nx-later: 2\r\n" if framing == "trailers" else b""
    return head + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(pieces, extension=extension, trailer=trailer)


places = st.lists(st.integers(0, 1 << 20), max_size=40)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from(EVENTS), max_size=12),
    st.sampled_from(["length", "chunked", "extensions", "trailers"]),
    places,
    places,
    st.booleans(),
)
def test_every_cut_gives_the_same_answer(
    events: list[bytes], framing: str, chunk_places: list[int], segment_places: list[int], interim: bool
) -> None:
    body = b"".join(events)
    pieces = cut(body, chunk_places) if body else []
    segments = cut(response(body, framing, pieces, interim), segment_places)
    answer, pool = receive(segments)
    assert (answer.status, answer.body, answer.ended) == (200, body, True)
    assert answer.headers[0] == (b"content-type", b"text/event-stream")
    assert answer.calls.count("data") <= len(segments), "one call for each read"
    assert pool.told == ["opened", "freed"]


@pytest.mark.parametrize("framing", ["length", "chunked", "extensions", "trailers"])
def test_every_place_of_one_cut_and_single_bytes(framing: str) -> None:
    events = list(EVENTS) * 15
    body = b"".join(events)
    assert len(body) > 2500
    raw = response(body, framing, events, interim=True)
    for place in range(1, len(raw)):
        answer, _ = receive([raw[:place], raw[place:]])
        assert (answer.body, answer.ended) == (body, True), place
    answer, pool = receive([raw[n : n + 1] for n in range(len(raw))])
    assert (answer.body, answer.ended, pool.told) == (body, True, ["opened", "freed"])


@settings(max_examples=200, deadline=None)
@given(st.binary(min_size=1, max_size=400), places)
def test_no_bytes_at_all_bring_more_than_an_error_or_an_answer(noise: bytes, segment_places: list[int]) -> None:
    for raw in (
        noise,
        b"HTTP/1.1 200 OK\r\n" + noise,
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + noise,
    ):
        whole, _ = receive([raw])
        parts, pool = receive(cut(raw, segment_places))
        assert (parts.status, parts.body, parts.kind) == (whole.status, whole.body, whole.kind)
        assert pool.told.count("closed") <= 1


async def test_single_bytes_on_a_real_socket() -> None:
    body = b"".join(EVENTS)
    raw = response(body, "chunked", list(EVENTS), interim=False)

    async def drips(peer: Peer) -> None:
        await peer.request()
        for n in range(len(raw)):
            await peer.say(raw[n : n + 1])
            await asyncio.sleep(0)
        await peer.gone()

    async with Server(drips) as server, pool_to(server.port) as pool:
        answer = await ask(pool)
        assert (answer.body, answer.ended, pool.idle) == (body, True, 1)
        assert len(answer.reads) > len(body) // 2


def test_a_request_leaves_in_one_piece() -> None:
    wire = Wire()
    connection = UpstreamConnection(Pool(), read_buffer())
    connection.connection_made(cast(asyncio.BaseTransport, wire))
    connection.send(HEAD, BODY, Answer())
    assert wire.written == HEAD + BODY
