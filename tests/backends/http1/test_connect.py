"""Connecting: one timeout for all of it, every address, TLS that nothing weakens, no socket left by a cancelled one."""

import asyncio
import contextlib
import os
import resource
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from backends.http1.connection_pool import ConnectionPool
from backends.http1.interface import Origin, UpstreamError
from backends.http1.timer_wheel import TimerWheel
from backends.http1.tls import TlsSettings, client_context
from tests.backends.http1.rig import OK, Peer, Server, ask, pool_to, says
from tests.fakes.certificates import Authority
from tests.fakes.listeners import full_backlog, silent


async def failure(port: int, *, host: str = "127.0.0.1", tls: TlsSettings | None = None, timeout: float = 2.0) -> str:
    """The kind of error that connecting ends with, and how long it took at most."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    async with pool_to(port, host=host, tls=tls) as pool:
        with pytest.raises(UpstreamError) as caught:
            await pool.connect(timeout)
    assert loop.time() - begun < timeout + 0.2
    assert not caught.value.begun
    return caught.value.kind


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


async def test_a_port_where_nobody_listens_is_refused() -> None:
    assert await failure(free_port()) == "refused"


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    """Not one descriptor is left to this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with open(os.devnull) as lowest:
        free = lowest.fileno()
    # Nothing is open from here on up to the limit: what is open above stays so.
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_our_own_lack_of_descriptors_is_not_the_endpoints_fault() -> None:
    async def two(host: str, port: int) -> list[tuple[str, int]]:
        return [("127.0.0.1", port), ("127.0.0.2", port)]

    async def cannot_look(host: str, port: int) -> list[tuple[str, int]]:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    for resolve in (two, cannot_look):
        pool = _pool_with(resolve)
        with no_descriptors(), pytest.raises(UpstreamError) as caught:
            await pool.connect(1.0)
        assert caught.value.kind == "no_descriptor"
        pool.close()


async def test_a_full_backlog_is_a_connect_timeout() -> None:
    with full_backlog() as port:
        assert await failure(port, timeout=0.2) == "connect_timeout"


async def test_a_name_that_does_not_exist_is_dns() -> None:
    assert await failure(80, host="no-such-host.invalid") == "dns"


async def test_a_name_that_is_none_is_dns() -> None:
    assert await failure(80, host="a" * 70 + ".example") == "dns"


async def test_a_resolver_that_hangs_is_a_connect_timeout() -> None:
    async def hangs(host: str, port: int) -> list[tuple[str, int]]:
        await asyncio.sleep(60)
        return []

    pool = _pool_with(hangs)
    with pytest.raises(UpstreamError) as caught:
        await pool.connect(0.05)
    assert caught.value.kind == "connect_timeout"


async def test_a_name_without_addresses_is_dns() -> None:
    async def nothing(host: str, port: int) -> list[tuple[str, int]]:
        return []

    with pytest.raises(UpstreamError) as caught:
        await _pool_with(nothing).connect(0.05)
    assert caught.value.kind == "dns"


async def test_every_address_is_tried_in_turn_and_a_dead_one_leaves_time_for_the_next() -> None:
    async with Server(says(OK)) as server:
        with full_backlog() as dead:
            refused = free_port()

            async def three(host: str, port: int) -> list[tuple[str, int]]:
                return [("127.0.0.1", dead), ("127.0.0.1", refused), ("127.0.0.1", server.port)]

            pool = _pool_with(three)
            connection = await pool.connect(0.6)
            assert pool.active == 1
            connection.abort()


async def test_a_name_is_resolved() -> None:
    async with Server(says(OK)) as server, pool_to(server.port, host="localhost") as pool:
        assert (await ask(pool)).ended


async def test_nagle_is_off() -> None:
    async with Server(says(OK)) as server, pool_to(server.port) as pool:
        connection = await pool.connect(1.0)
        raw = connection._transport.get_extra_info("socket")
        assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        connection.abort()


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_cancelled_at_any_moment_it_leaves_no_socket(tls: bool, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    settings = TlsSettings(ca=str(authority.ca)) if tls else None

    async def waits(peer: Peer) -> None:
        await peer.gone()

    async with Server(waits, authority.server() if tls else None) as server:
        async with pool_to(server.port, host="localhost" if not tls else "127.0.0.1", tls=settings) as pool:
            for step in range(120):
                task = asyncio.get_running_loop().create_task(pool.connect(5.0), name="connect")
                # A turn of the loop at a time at first, then by the clock through the handshake.
                for _ in range(step if step < 40 else 0):
                    await asyncio.sleep(0)
                if step >= 40:
                    await asyncio.sleep((step - 40) * 0.0001)
                task.cancel()
                try:
                    (await task).abort()
                except asyncio.CancelledError:
                    pass
                assert pool.active == 0
            await server.all_closed()


async def test_cancelled_in_a_full_backlog_or_a_stalled_handshake_it_leaves_no_socket(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    async with silent() as mute:
        with full_backlog() as dead:
            for port, tls in ((dead, None), (mute, TlsSettings(ca=str(authority.ca)))):
                async with pool_to(port, tls=tls) as pool:
                    task = asyncio.get_running_loop().create_task(pool.connect(5.0), name="connect")
                    await asyncio.sleep(0.05)
                    task.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await task


async def test_tls_with_our_authority_is_verified_and_speaks_http_1_1(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    context = authority.server()
    context.set_alpn_protocols(["h2", "http/1.1"])
    big = b"x" * 300_000
    raw = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(big) + big
    async with Server(says(raw), context) as server:
        async with pool_to(server.port, tls=TlsSettings(ca=str(authority.ca))) as pool:
            connection = await pool.connect(2.0)
            assert connection._transport.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
            connection.abort()
            for _ in range(3):
                assert (await ask(pool)).body == big
            assert (pool.active, pool.idle) == (0, 1)


async def test_tls_to_a_name_that_is_not_the_hosts(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    async with Server(says(OK), authority.server("vllm-b")) as server:
        ca = str(authority.ca)
        assert await failure(server.port, tls=TlsSettings(ca=ca)) == "tls"
        async with pool_to(server.port, tls=TlsSettings(ca=ca, server_name="vllm-b")) as pool:
            assert (await ask(pool)).ended


async def test_tls_that_can_not_be_verified_fails(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    ca = str(authority.ca)
    async with Server(says(OK), authority.server(expired=True)) as server:
        assert await failure(server.port, tls=TlsSettings(ca=ca)) == "tls"
    async with Server(says(OK), authority.server()) as server:
        assert await failure(server.port, tls=TlsSettings()) == "tls", "the system does not know our authority"


async def test_tls_is_never_given_up_for_plain_text(tmp_path: Path) -> None:
    ca = str(Authority(tmp_path).ca)
    heard = b""

    async def listens(peer: Peer) -> None:
        nonlocal heard
        heard = await peer.reader.read(5)
        await peer.say(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")

    async with Server(listens) as server:
        assert await failure(server.port, tls=TlsSettings(ca=ca)) == "tls"
        assert heard[:1] == b"\x16"
        assert server.accepted == 1


async def test_a_handshake_that_is_reset_is_tls_and_one_that_stalls_a_connect_timeout(tmp_path: Path) -> None:
    ca = str(Authority(tmp_path).ca)

    async def resets(peer: Peer) -> None:
        await peer.reader.read(5)
        peer.reset()

    async with Server(resets) as server:
        assert await failure(server.port, tls=TlsSettings(ca=ca)) == "tls"
    async with silent() as port:
        assert await failure(port, tls=TlsSettings(ca=ca), timeout=0.2) == "connect_timeout"


async def test_a_server_of_old_tls_versions_fails(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    assert client_context(TlsSettings(str(authority.ca))).minimum_version == ssl.TLSVersion.TLSv1_2


def test_a_ca_file_that_is_not_there_or_empty_is_an_oserror(tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("")
    for name in ("absent.pem", "empty.pem"):
        with pytest.raises(OSError):
            client_context(TlsSettings(str(tmp_path / name)))


def _pool_with(resolve) -> ConnectionPool:  # type: ignore[no-untyped-def]
    wheel = TimerWheel(asyncio.get_running_loop())
    return ConnectionPool(Origin("engine", 80), keep_alive=4.0, wheel=wheel, resolve=resolve)
