"""fault 49: whatever is said about where a message ends, the engine gets one request for one, in our framing, or
the client a refusal and the end of its connection. What came behind it is never read in another way than it was meant.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from tests.fakes.backend import Backend, Request
from tests.fakes.client import Client
from tests.faults.smuggling import BODY, CORPORA, Case, cases, one
from tests.flow.harness import CHAT, Running, gateway_with

NEXT = BODY.replace('"hi"', '"next"')


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a case, and of the request behind it."""

    statuses: list[int]
    ended: bool
    upstream: list[Request]

    @property
    def verdict(self) -> str:
        """`refused`, `passed` or `declined` (see `smuggling`), or what it was instead."""
        bodies = [request.body.decode("latin-1") for request in self.upstream]
        if not all(map(ours, self.upstream)):
            return f"not our framing: {[request.head for request in self.upstream]}"
        well = self.statuses[0] == 200
        expected = ([BODY] if well else []) + ([] if self.ended else [NEXT])
        if bodies != expected or (not self.ended and self.statuses[1] != 200):
            return f"{self.statuses}, ended {self.ended}, upstream {bodies}"
        if well:
            return "passed"
        if not 400 <= self.statuses[0] < 600:
            return f"answered {self.statuses}"
        return "refused" if self.ended else "declined"


def ours(request: Request) -> bool:
    """One request line of ours, one length, and that is the body's."""
    names = [name for name, _ in request.headers]
    return (
        request.line == f"POST {CHAT} HTTP/1.1"
        and names.count("content-length") == 1
        and request.header("content-length") == str(len(request.body))
        and names.count("host") == 1
        and not any("transfer" in name or name == "trailer" for name in names)
    )


async def result(gw: Running, backend: Backend, case: Case) -> Result:
    """Send a case, and right behind it a request with which nothing is wrong."""
    before = len(backend.requests)
    method = case.data.split(b" ", 1)[0].decode("latin-1")
    async with await Client.to(gw.gateway.address) as client:
        client.writer.write(case.data + gw.request("POST", CHAT, NEXT.encode()))
        first = await client.answer(method=method)
        if first.header("connection") == "close":
            rest = await client.rest()
            statuses = [first.status] if not rest else [first.status, -1]
            return Result(statuses, True, backend.requests[before:])
        second = await client.answer()
    return Result([first.status, second.status], False, backend.requests[before:])


@pytest.mark.parametrize("corpus", CORPORA)
async def test_a_corpus_never_makes_two_requests_of_one(backend: Backend, corpus: str) -> None:
    backend.answers(200)
    async with gateway_with(backend) as gw:
        wrong = []
        count = 0
        for case in cases(corpus, CHAT, gw.key):
            count += 1
            verdict = (await result(gw, backend, case)).verdict
            if verdict != case.expect:
                wrong.append(f"{case.name}: {verdict}, expected {case.expect}")
        assert wrong == []
        assert gw.total("requests_total") >= count, "each is counted"


HTTP_1_0 = [
    ["Transfer-Encoding: chunked"],
    ["Transfer-Encoding: chunked", "Connection: keep-alive"],
]


@pytest.mark.parametrize("lines", HTTP_1_0, ids=["and a close", "and keep-alive"])
async def test_http_1_0_has_no_codings(backend: Backend, lines: list[str]) -> None:
    """RFC 9112 section 6.1: whoever sends one does not know where its message ends."""
    async with gateway_with(backend) as gw:
        data = one({"line": "POST {path} HTTP/1.0", "lines": lines, "body": "{chunks}"}, CHAT, gw.key)
        assert (await result(gw, backend, Case("ours", "", data, "refused"))).verdict == "refused"


async def test_two_equal_content_lengths_are_refused_and_the_connection_ends(backend: Backend) -> None:
    """The parser takes them for one; somebody before us may have added the second."""
    async with gateway_with(backend) as gw:
        lines = ["Content-Length: {length}", "Content-Length: {length}"]
        data = one({"lines": lines, "body": "{json}"}, CHAT, gw.key)
        assert (await result(gw, backend, Case("ours", "", data, "refused"))).verdict == "refused"
