"""fault 30: an engine behind TLS is whom it says it is, or it is not spoken to."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fakes.backend import Backend
from tests.fakes.certificates import Authority
from tests.fakes.listeners import full_backlog, silent
from tests.flow.harness import gateway_with
from tests.pace import Watch


async def test_a_good_certificate_is_spoken_to(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    async with Backend(tls=authority.server()) as backend:
        backend.streams("a", "b")
        async with gateway_with(backend, endpoint={"tls": {"ca": str(authority.ca)}}) as gw:
            assert await gw.chat() == "ab"
            assert await gw.chat() == "ab"
            assert len(backend.connections) == 1


async def test_a_server_name_of_its_own_is_what_the_certificate_must_bear(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    async with Backend(tls=authority.server("vllm-b.internal")) as backend:
        backend.answers(200)
        tls = {"ca": str(authority.ca), "server_name": "vllm-b.internal"}
        async with gateway_with(backend, endpoint={"tls": tls}) as gw:
            assert (await gw.ask(stream=False)).status == 200


@pytest.mark.parametrize(
    ("name", "expired", "trusted"),
    [("127.0.0.1", True, True), ("elsewhere.example", False, True), ("127.0.0.1", False, False)],
    ids=["expired", "another name", "an unknown authority"],
)
async def test_a_wrong_certificate_is_502_and_nothing_is_sent(
    tmp_path: Path, name: str, expired: bool, trusted: bool
) -> None:
    authority = Authority(tmp_path)
    async with Backend(tls=authority.server(name, expired=expired)) as backend:
        backend.answers(200)
        endpoint = {"tls": {"ca": str(authority.ca)}} if trusted else {}
        async with gateway_with(backend, endpoint=endpoint, route={"retry": "off"}) as gw:
            answer = await gw.ask()
            assert (answer.status, answer.error["code"]) == (502, "upstream_unreachable")
            assert backend.attempts == backend.received == 0
            (line,) = await gw.access_lines()
            assert line["outcome"] == "not_sent"


async def test_tls_on_a_plain_port_is_502_and_no_downgrade(backend: Backend) -> None:
    backend.answers(200)
    async with gateway_with(
        f"https://127.0.0.1:{backend.port}", route={"timeouts": {"connect": "300ms"}, "retry": "off"}
    ) as gw:
        answer = await gw.ask()
        assert answer.status in (502, 504)
        assert backend.attempts == 0


@pytest.mark.parametrize("kind", ["handshake", "backlog"])
async def test_a_connect_that_hangs_ends_in_the_connect_timeout(kind: str) -> None:
    """The handshake is inside it."""
    async with silent() as quiet:
        with full_backlog() as full:
            url = f"https://127.0.0.1:{quiet}" if kind == "handshake" else f"http://127.0.0.1:{full}"
            async with gateway_with(url, route={"timeouts": {"connect": "300ms"}, "retry": "off"}) as gw:
                watch = Watch()
                answer = await gw.ask()
                assert watch.within(0.25, 1.0)
                assert (answer.status, answer.error["code"]) == (504, "connect_timeout")
                (line,) = await gw.access_lines()
                assert line["outcome"] == "not_sent"
