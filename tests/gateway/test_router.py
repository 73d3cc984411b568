"""The door of the client port: who is believed, and how what is not served is refused."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from gateway.router import TrustedProxies
from tests.fakes.backend import Backend
from tests.fakes.client import Answer, Client
from tests.flow.harness import Running, gateway_with

OURS = ("10.0.0.0/8", "192.0.2.7/32", "2001:db8::/32")
TRUSTING: dict[str, Any] = {"server": {"trusted_proxies": ["127.0.0.0/8", "10.0.0.0/8"]}}


# -- TrustedProxies


@pytest.mark.parametrize(
    ("address", "trusted"),
    [
        ("10.1.2.3", True),
        ("11.1.2.3", False),
        ("192.0.2.7", True),
        ("192.0.2.8", False),
        ("2001:db8::1", True),
        ("2001:db9::1", False),
        ("unix", True),
        ("", False),
        ("nonsense", False),
        ("10.1.2.3:80", False),
        # How a socket that listens on [::] shows an IPv4 peer (RFC 4291, 2.5.5.2).
        ("::ffff:10.1.2.3", True),
        ("::ffff:11.1.2.3", False),
    ],
)
def test_who_is_one_of_ours(address: str, trusted: bool) -> None:
    proxies = TrustedProxies(OURS)
    assert proxies.trusts(address) is trusted
    assert proxies.trusts(address) is trusted, "the second answer comes from memory"


def test_without_trusted_proxies_nobody_is_one_of_ours_but_a_unix_sockets_peer() -> None:
    proxies = TrustedProxies(())
    assert not proxies.trusts("127.0.0.1")
    assert proxies.trusts("unix")


def test_a_network_may_be_written_by_any_of_its_addresses() -> None:
    assert TrustedProxies(("10.1.2.3/8",)).trusts("10.9.9.9")


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        (b"203.0.113.9", "203.0.113.9"),
        (b"203.0.113.9, 10.0.0.1", "203.0.113.9"),
        (b"203.0.113.9,10.0.0.1,192.0.2.7", "203.0.113.9"),
        # The left-most hop is what a client can make up.
        (b"198.51.100.1, 203.0.113.9, 10.0.0.1", "203.0.113.9"),
        (b"2001:db9::1, 2001:db8::1", "2001:db9::1"),
        # All are ours: the peer is all that is known.
        (b"10.0.0.1, 10.0.0.2", "10.0.0.9"),
        # From what is nonsense nothing to the left of it is believed.
        (b"203.0.113.9, nonsense", "10.0.0.9"),
        (b"203.0.113.9, nonsense, 10.0.0.1", "10.0.0.9"),
        (b"", "10.0.0.9"),
        (b",", "10.0.0.9"),
        (b"\xff\xfe", "10.0.0.9"),
        (b"  203.0.113.9  ", "203.0.113.9"),
    ],
)
def test_the_client_is_the_right_most_hop_that_is_not_one_of_ours(forwarded: bytes, client: str) -> None:
    assert TrustedProxies(OURS).client("10.0.0.9", forwarded) == client


def test_addresses_that_clients_make_up_are_not_remembered_without_end() -> None:
    proxies = TrustedProxies(OURS)
    for number in range(10_000):
        proxies.client("10.0.0.9", f"203.0.{number >> 8}.{number & 255}".encode())
    assert proxies.trusts("10.0.0.1")
    remembered = max(len(getattr(proxies, name)) for name in vars(proxies))
    assert remembered <= 4096


# -- the same on the wire


async def client_and_ids(gw: Running, headers: list[tuple[str, str]]) -> tuple[Answer, dict[str, Any]]:
    """The answer to a chat request and its line in the access log."""
    answer = await gw.send(gw.chat_request(stream=False, headers=headers))
    (line,) = await gw.access_lines()
    return answer, line


@pytest.mark.parametrize("sent", ["a", "A.b-c_9", "x" * 64])
async def test_a_trusted_proxys_request_id_is_kept(backend: Backend, sent: str) -> None:
    async with gateway_with(backend, policy=TRUSTING) as gw:
        answer, line = await client_and_ids(gw, [("x-request-id", sent)])
        assert answer.header("x-request-id") == line["request_id"] == sent
        assert backend.requests[0].header("x-request-id") == sent
        assert line["client_request_id"] is None


@pytest.mark.parametrize("sent", ["x" * 65, "a b", "ä", "a/b", "a,b", ""], ids=repr)
async def test_a_request_id_that_is_none_is_replaced_whoever_sends_it(backend: Backend, sent: str) -> None:
    async with gateway_with(backend, policy=TRUSTING) as gw:
        answer, line = await client_and_ids(gw, [("x-request-id", sent)])
        ours = answer.header("x-request-id")
        assert ours is not None
        assert len(ours) == 32
        assert set(ours) <= set("0123456789abcdef")
        assert line["request_id"] == ours
        assert line["client_request_id"] == sent[:64]


async def test_every_request_has_an_id_of_its_own(backend: Backend) -> None:
    async with gateway_with(backend) as gw:
        ids = {(await gw.ask(stream=False)).header("x-request-id") for _ in range(20)}
        assert len(ids) == 20


async def test_what_we_refuse_has_its_request_id_too(backend: Backend) -> None:
    async with gateway_with(backend) as gw:
        answer = await gw.post("/nowhere", {})
        (line,) = await gw.access_lines()
        assert answer.header("x-request-id") == line["request_id"]


async def test_hops_in_several_headers_are_one_list(backend: Backend) -> None:
    # RFC 9110, 5.3: lines of one name are joined in their order.
    headers = [("x-forwarded-for", "198.51.100.1, 203.0.113.9"), ("x-forwarded-for", "10.0.0.1")]
    async with gateway_with(backend, policy=TRUSTING) as gw:
        _, line = await client_and_ids(gw, headers)
        assert line["client"] == "203.0.113.9"


async def test_the_trusted_proxies_peer_counts_where_it_forwards_nothing(backend: Backend) -> None:
    async with gateway_with(backend, policy=TRUSTING) as gw:
        _, line = await client_and_ids(gw, [])
        assert line["client"] == "127.0.0.1"


async def test_a_unix_sockets_peer_is_a_trusted_proxy(backend: Backend, tmp_path: Path) -> None:
    path = tmp_path / "gw.sock"
    async with gateway_with(backend, policy={"server": {"listen": f"unix:{path}"}}) as gw:
        headers = [("x-forwarded-for", "203.0.113.9"), ("x-request-id", "from-nginx")]
        async with await unix_client(path) as client:
            await client.send(gw.chat_request(stream=False, headers=headers))
            assert (await client.answer()).header("x-request-id") == "from-nginx"
        (line,) = await gw.access_lines()
        assert line["client"] == "203.0.113.9"


async def unix_client(path: Path) -> Client:
    """A client on a unix socket."""
    return Client(*await asyncio.open_unix_connection(path, limit=1 << 26))


# -- what is not served

# Path, family; nothing serves POST there.
NOWHERE = [
    ("/", "openai"),
    ("/nowhere", "openai"),
    ("/v1", "openai"),
    ("/v1/chat", "openai"),
    ("/v1/chat/completions/", "openai"),
    ("/metrics", "openai"),
    ("/admin", "openai"),
    ("/v1/messages/nothing", "anthropic"),
    ("/v2/nothing", "triton"),
    ("/v2/models/a%2Fb/infer", "triton"),
    ("/generate/nothing", "openai"),
]
# Path, family, a method that is not allowed, those that are.
WRONG_METHOD = [
    ("/v1/chat/completions", "openai", "GET", {"POST"}),
    ("/v1/embeddings", "openai", "DELETE", {"POST"}),
    ("/v1/messages", "anthropic", "GET", {"POST"}),
    ("/v2/models/m/infer", "triton", "GET", {"POST"}),
    ("/v2/models/m", "triton", "POST", {"GET", "HEAD"}),
    ("/v2/health/ready", "triton", "POST", {"GET", "HEAD"}),
    ("/generate", "tgi", "GET", {"POST"}),
    ("/generate_stream", "tgi", "PUT", {"POST"}),
    ("/health", "openai", "POST", {"GET", "HEAD"}),
    ("/v1/models", "openai", "POST", {"GET", "HEAD"}),
    ("/v1/models/m", "openai", "DELETE", {"GET", "HEAD"}),
    ("/v1/chat/completions", "openai", "PATCH", {"POST"}),
    ("/v1/chat/completions", "openai", "OPTIONS", {"POST"}),
]


def shaped(answer: Answer, family: str, kind: str) -> None:
    """The body has the shape of the path's family."""
    assert answer.header("content-type") == "application/json"
    body = json.loads(answer.body)
    if family == "openai":
        assert set(body) == {"error"}
        assert set(body["error"]) == {"message", "type", "param", "code"}
        assert body["error"]["type"] == kind
    elif family == "anthropic":
        assert (body["type"], set(body["error"]), body["error"]["type"]) == ("error", {"type", "message"}, kind)
    elif family == "triton":
        assert set(body) == {"error"}
        assert isinstance(body["error"], str)
    else:
        assert set(body) == {"error", "error_type"}


@pytest.mark.parametrize(("path", "family"), NOWHERE)
async def test_a_path_that_nobody_serves_is_404_in_its_familys_shape(backend: Backend, path: str, family: str) -> None:
    async with gateway_with(backend) as gw:
        answer = await gw.post(path, {"model": "m"})
        assert answer.status == 404
        shaped(answer, family, "not_found_error")
        (line,) = await gw.access_lines()
        assert (line["status"], line["code"], line["route"]) == (404, "path_not_found", None)
        assert backend.connections == []


@pytest.mark.parametrize(("path", "family", "method", "allowed"), WRONG_METHOD)
async def test_a_wrong_method_is_405_in_its_familys_shape_and_says_which_are_right(
    backend: Backend, path: str, family: str, method: str, allowed: set[str]
) -> None:
    async with gateway_with(backend) as gw:
        answer = await gw.send(gw.request(method, path))
        assert answer.status == 405
        shaped(answer, family, "invalid_request_error")
        assert set((answer.header("allow") or "").split(", ")) == allowed
        assert backend.connections == []


async def test_a_path_is_looked_at_before_the_key_is(backend: Backend) -> None:
    async with gateway_with(backend) as gw:
        answer = await gw.send(gw.request("POST", "/nowhere", b"{}", [("authorization", "Bearer wrong")]))
        assert answer.status == 404


async def test_a_refused_key_has_its_familys_shape(backend: Backend) -> None:
    async with gateway_with(backend) as gw:
        for path, family in (("/v1/messages", "anthropic"), ("/v2/models/m/infer", "triton"), ("/generate", "tgi")):
            wrong = [("authorization", "Bearer wrong")]
            answer = await gw.send(gw.request("POST", path, b'{"model": "m"}', wrong))
            assert answer.status == 401
            shaped(answer, family, "authentication_error")


async def test_a_path_route_serves_what_the_table_does_not_and_by_its_methods_only(backend: Backend) -> None:
    routes = [{"path": "/predict/*", "pool": "pool", "methods": ["POST"]}, {"model": "m", "pool": "pool"}]
    async with gateway_with(backend, policy={"routes": routes}) as gw:
        answer = await gw.post("/predict/cats", {"x": 1})
        assert (answer.status, backend.requests[0].line) == (200, "POST /predict/cats HTTP/1.1")
        refused = await gw.send(gw.request("GET", "/predict/cats"))
        assert (refused.status, refused.header("allow")) == (405, "POST")
        assert (await gw.post("/predict", {})).status == 404
