"""Who may ask the admin port for what: the Host, and the token."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.admin.guard import OPEN, AdminGuard
from policies.config.addresses import Address, read_address

TOKEN = "s3cret-token"
LOOPBACK = "127.0.0.1:9901"
EVERYWHERE = "0.0.0.0:9901"


async def asked(
    bound: str, path: str, *, host: str | None = LOOPBACK, token: str | None = None, sent: list[str] | None = None
) -> tuple[int, dict[str, str], str]:
    """Status, headers and error code of a GET; 299 where it was let through."""
    headers = [(b"authorization", one.encode("latin-1")) for one in sent or []]
    if host is not None:
        headers.append((b"host", host.encode("latin-1")))
    told: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 299, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    async def send(message: Any) -> None:
        told.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    scope = {"type": "http", "method": "GET", "path": path, "headers": headers}
    await AdminGuard(app, bound=read_address(bound), token=token)(scope, receive, send)
    start, body = told
    found = {name.decode(): value.decode() for name, value in start["headers"]}
    return start["status"], found, json.loads(body["body"]).get("error", {}).get("code", "")


# -- the Host

OURS = ["127.0.0.1", "127.0.0.1:9901", "[::1]:9901", "[::1]", "localhost", "LocalHost:9901", "10.1.2.3", "192.0.2.1:1"]
FOREIGN = [
    None, "", "evil.example", "evil.example:9901", "127.0.0.1.evil.example", "localhost.evil.example", "2130706433",
    "127.1", "0x7f.0.0.1", "::1:9901]", "a:b:c", "localhost.", "127.0.0.1@evil.example", "\xff",
]  # fmt: skip


@pytest.mark.parametrize("path", ["/api/endpoints", "/", "/nothing", *sorted(OPEN)])
@pytest.mark.parametrize("host", OURS)
async def test_an_ip_literal_or_the_bound_name_is_ours(path: str, host: str) -> None:
    assert (await asked(LOOPBACK, path, host=host))[0] == 299


@pytest.mark.parametrize("path", ["/api/endpoints", "/", "/nothing", *sorted(OPEN)])
@pytest.mark.parametrize("host", FOREIGN)
async def test_any_other_name_is_a_page_that_has_no_business_here(path: str, host: str | None) -> None:
    status, _, code = await asked(LOOPBACK, path, host=host)
    assert (status, code) == (400, "bad_host")


async def test_off_loopback_scrapers_come_by_names_that_we_do_not_know_and_others_by_ours() -> None:
    bound = "gateway.local:9901"
    for path in OPEN:
        assert (await asked(bound, path, host="sluice.monitoring.svc:9901", token=TOKEN))[0] == 299
    known = [f"Bearer {TOKEN}"]
    assert (await asked(bound, "/api/pools", host="gateway.local:9901", token=TOKEN, sent=known))[0] == 299
    assert (await asked(bound, "/api/pools", host="GATEWAY.local", token=TOKEN, sent=known))[0] == 299
    assert (await asked(bound, "/api/pools", host="10.0.0.1", token=TOKEN, sent=known))[0] == 299
    for host in ("sluice.monitoring.svc", "localhost", "evil.example"):
        assert (await asked(bound, "/api/pools", host=host, token=TOKEN, sent=known))[0] == 400


async def test_no_browser_comes_through_a_unix_socket_so_every_host_is_well() -> None:
    for host in ("localhost", "anything", None):
        assert (await asked("unix:/run/sluice.sock", "/api/pools", host=host))[0] == 299


# -- the token


@pytest.mark.parametrize("bound", [LOOPBACK, EVERYWHERE, "unix:/run/sluice.sock"])
async def test_a_token_that_is_set_is_asked_for_wherever_the_port_is(bound: str) -> None:
    for path in ("/api/pools", "/api/endpoints/x/drain", "/", "/nothing"):
        status, headers, code = await asked(bound, path, token=TOKEN)
        assert (status, code, headers["www-authenticate"]) == (401, "invalid_api_key", "Bearer")
        assert (await asked(bound, path, token=TOKEN, sent=[f"Bearer {TOKEN}"]))[0] == 299
        assert (await asked(bound, path, token=TOKEN, sent=[f"bearer {TOKEN}"]))[0] == 299


@pytest.mark.parametrize("path", sorted(OPEN))
async def test_liveness_readiness_and_metrics_never_need_one(path: str) -> None:
    assert (await asked(LOOPBACK, path, token=TOKEN))[0] == 299
    assert (await asked(EVERYWHERE, path, token=TOKEN))[0] == 299


WRONG = [
    [], [""], ["Bearer"], ["Bearer "], [TOKEN], [f"Basic {TOKEN}"], [f"Bearer {TOKEN}x"], [f"Bearer {TOKEN[:-1]}"],
    [f"Bearer {TOKEN.upper()}"], [f"Bearer {TOKEN} {TOKEN}"], [f"Bearer {TOKEN}", f"Bearer {TOKEN}"], ["Bearer \xff"],
    [f"Bearer {TOKEN}, Bearer {TOKEN}"],
]  # fmt: skip


@pytest.mark.parametrize("sent", WRONG)
async def test_whatever_is_not_exactly_it_is_refused(sent: list[str]) -> None:
    assert (await asked(EVERYWHERE, "/api/pools", token=TOKEN, sent=sent))[0] == 401


async def test_the_host_is_looked_at_before_the_token() -> None:
    """A foreign page should not learn whether it has guessed it."""
    status, _, code = await asked(LOOPBACK, "/api/pools", host="evil.example", token=TOKEN, sent=[f"Bearer {TOKEN}"])
    assert (status, code) == (400, "bad_host")


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("127.0.0.1:1", True), ("127.9.9.9:1", True), ("[::1]:1", True), ("localhost:1", True), ("unix:/x", True),
        ("0.0.0.0:1", False), ("[::]:1", False), ("10.0.0.1:1", False), ("gateway.local:1", False),
    ],
)  # fmt: skip
def test_what_is_local(address: str, local: bool) -> None:
    found: Address = read_address(address)
    assert found.is_local is local
