"""What is known of a head that is not whole, and what its client is told."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import zttp
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.bad_requests import MAX_HEADERS, MAX_LINE, PartialHead, nothing_waits, refusal
from gateway.http.request import ClientRequest
from tests.fakes.client import request

HEAD = b"POST /v1/messages?a=b HTTP/1.1\r\nhost: gw\r\nx: y\r\n\r\n"
LIMIT = 1024


def fed(data: bytes, *cuts: int) -> PartialHead:
    """A head that has come in these pieces."""
    partial = PartialHead(0.0)
    edges = [0, *sorted(cuts), len(data)]
    for start, end in itertools.pairwise(edges):
        partial.feed(data[start:end], LIMIT)
    return partial


@given(st.lists(st.integers(0, len(HEAD)), max_size=8))
def test_method_and_path_are_known_however_the_head_is_cut(cuts: list[int]) -> None:
    partial = fed(HEAD, *cuts)
    assert (partial.request().method, partial.request().path) == (b"POST", b"/v1/messages")
    assert partial.line_whole
    assert not partial.host_missing


@given(st.lists(st.integers(0, 200), max_size=8))
def test_hosts_are_counted_however_the_head_is_cut(cuts: list[int]) -> None:
    def missing(data: bytes) -> bool:
        return fed(data, *(cut for cut in cuts if cut <= len(data))).host_missing

    assert missing(HEAD.replace(b"host", b"x-host"))
    assert missing(HEAD.replace(b"x: y", b"HOST: b"))
    assert not missing(HEAD + b"\r\nhost: this is the body")
    assert not missing(b"POST / HTTP/1.1\r\nx: y"), "it may still come"


@pytest.mark.parametrize(
    ("line", "method", "path"),
    [
        (b"GET /a HTTP/1.1\r", b"GET", b"/a"),
        (b"GET /a", b"GET", b"/a"),
        (b"GET /a?key=secret", b"GET", b"/a"),
        (b"GET ", b"GET", b""),
        (b"GE", b"", b""),
        (b"", b"", b""),
        (b"\x16\x03\x01\x02", b"", b""),
        (b"GET  /a HTTP/1.1", b"GET", b""),
        (b"x" * 100 + b" /a HTTP/1.1", b"", b""),
    ],
)
def test_what_is_read_of_a_first_line(line: bytes, method: bytes, path: bytes) -> None:
    partial = PartialHead(0.0)
    partial.feed(line, LIMIT)
    found = partial.request()
    assert (found.method, found.path) == (method, path)


@given(st.binary(max_size=300))
def test_no_bytes_are_too_strange_for_it(data: bytes) -> None:
    partial = fed(data, len(data) // 3)
    assert len(partial.request().path) <= 300
    assert refusal("malformed header field", partial, LIMIT).status == 400


def test_only_a_line_over_the_limit_is_a_url_too_long() -> None:
    for size, whole in ((LIMIT - 10, True), (LIMIT + 10, False)):
        partial = fed(b"GET /" + b"x" * size + b"\r\nhost: a\r\n", 100, 700)
        assert partial.line_whole is whole
        assert refusal("message exceeded configured size limit", partial, LIMIT).status == (431 if whole else 414)


def test_memory_of_a_head_is_bounded() -> None:
    partial = PartialHead(0.0)
    for _ in range(1000):
        partial.feed(b"x" * 65536, MAX_LINE)
    assert len(partial.line) <= 1024


def parses(data: bytes) -> bool:
    try:
        return type(zttp.Connection(zttp.SERVER).receive_event(data)) is zttp.Request
    except zttp.RemoteProtocolError:
        return False


def test_the_parsers_own_limits_are_what_we_say_they_are() -> None:
    """A new version with other limits should be noticed here and not by clients."""
    for count, taken in ((MAX_HEADERS - 1, True), (MAX_HEADERS, False)):
        assert parses(request("GET", "/a", headers=[("x", "y")] * count)) is taken
    for size, taken in ((MAX_LINE - 20, True), (MAX_LINE + 1, False)):
        assert parses(request("GET", "/a", headers=[("x", "y" * size)])) is taken
        assert parses(request("GET", "/" + "a" * size)) is taken


def cycle_of(data: bytes) -> ClientRequest:
    event: Any = zttp.Connection(zttp.SERVER).receive_event(data)
    wire: Any = None
    return ClientRequest(wire, event, event.headers.to_list(lowercase_names=True), 0.0)


@pytest.mark.parametrize("body", [None, b"", b"hello"])
@pytest.mark.parametrize("target", ["/a", "/a?b=c"])
def test_what_a_request_leaves_in_the_parser_is_known(target: str, body: bytes | None) -> None:
    data = request("POST", target, body, [("x-a", "1"), ("x-b", "")])
    cycle = cycle_of(data)
    assert nothing_waits(cycle, len(data))
    assert not nothing_waits(cycle, len(data) + len(b"GET / HTTP/1.1"))
