"""Every way to a Redis: TLS, a Unix socket, another database, a Cluster one of whose nodes is frozen."""

from __future__ import annotations

import asyncio
import gc
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvloop

from backends.store.redis_client import CONNECT_TIMEOUT, RedisClient
from backends.store.redis_errors import ReplyError, StoreLostError
from policies.config.store_url import read_target
from tests.fakes.awaits import Cut, When
from tests.fakes.certificates import Authority
from tests.fakes.redis_servers import Server, Servers, cluster, free_port, sentinels, server, until
from tests.faults.store_client import MANY, asker
from tests.pace import Watch
from tests.sizes import LONG

KEY = "{sluice:limits:v1}:"


@pytest.fixture
def redis() -> Iterator[Server]:
    with server() as started:
        yield started


async def closed() -> None:
    """Transports that were aborted end in a later turn of the loop."""
    await asyncio.sleep(0.05)


@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize("loops", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_tls_by_the_systems_authorities(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trusted: bool, loops: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    authority, port = Authority(tmp_path), free_port()
    authority.server()
    own = str(tmp_path / "127.0.0.1-good.pem")
    options = ("--tls-port", str(port), "--tls-cert-file", own, "--tls-key-file", own, "--tls-ca-cert-file",
               str(authority.ca), "--tls-auth-clients", "no")  # fmt: skip
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca))

    async def ask() -> str:
        async with asker(f"rediss://127.0.0.1:{port}/1", timeout=2.0) as client:
            asked = client.plan(*MANY)
            await asyncio.gather(*(client.ask(asked) for _ in range(20)))
            return await client.mode(asked)

    with server(*options), asyncio.Runner(loop_factory=loops) as runner:
        assert runner.run(ask()) == ("store" if trusted else "local")


async def test_a_unix_socket_and_another_database(tmp_path: Path) -> None:
    with server("--unixsocket", str(tmp_path / "s")) as redis:
        async with asker(f"redis+unix://{tmp_path / 's'}?db=3", timeout=2.0) as client:
            assert await client.mode(client.plan(*MANY)) == "store"
        assert redis.ask("DBSIZE") == 0
        assert redis.ask("INFO", "keyspace").count("db3:") == 1


async def test_nobody_listens(redis: Server) -> None:
    redis.stop()
    with pytest.raises(StoreLostError) as caught:
        await RedisClient(read_target(redis.url), None, KEY).open()
    assert caught.value.kind == "connection"


async def test_somebody_listens_and_says_nothing() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    listening = await asyncio.start_server(silent, "127.0.0.1", 0)
    url = f"redis://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    watch = Watch()
    try:
        with pytest.raises(StoreLostError) as caught:
            await RedisClient(read_target(url), "secret", KEY).open()
        assert caught.value.kind == "timeout"
        assert watch.own < CONNECT_TIMEOUT + 3
    finally:
        listening.close()
    await closed()


async def test_a_cluster_with_a_frozen_node_still_tells_who_holds_the_key() -> None:
    with cluster() as nodes:
        owner = nodes.owner(KEY)
        frozen = next(one for one in nodes.nodes if one is not owner)
        frozen.freeze()
        try:
            opened = await RedisClient(read_target(nodes.url), None, KEY).open()
            assert opened.transport.get_extra_info("peername")[1] == owner.port
            opened.transport.abort()
        finally:
            frozen.thaw()
        await closed()


async def test_sentinels_that_know_no_such_service(redis: Server) -> None:
    url = f"redis+sentinel://{redis.address}/main"
    client = RedisClient(read_target(url), None, KEY)
    with pytest.raises(StoreLostError):
        await client.open()


async def test_sentinels_of_which_all_but_one_are_frozen_still_tell_who_is_the_primary() -> None:
    with sentinels() as watched:
        for one in watched.sentinels[:2]:
            one.freeze()
        try:
            # They are asked all at once: one after the other, two frozen ones would take all the time there is.
            opened = await RedisClient(read_target(watched.url), None, KEY).open()
            assert opened.transport.get_extra_info("peername")[1] == watched.servers[0].port
            opened.transport.abort()
        finally:
            for one in watched.sentinels[:2]:
                one.thaw()
        await closed()


# The gateway runs on uvloop; asyncio's own loop ends sockets in another order.
LOOPS = [uvloop.new_event_loop, *([asyncio.new_event_loop] if LONG else [])]


@pytest.mark.parametrize("when", ["waits", "under way", "answered"])
@pytest.mark.parametrize("loops", LOOPS)
@pytest.mark.parametrize("kind", ["single", "sentinel", "cluster"])
def test_wherever_opening_is_broken_off_no_connection_stays(
    servers: Servers, kind: str, loops: Callable[[], asyncio.AbstractEventLoop], when: When
) -> None:
    """redis-py warns of a connection that is dropped while it is open, whenever Python gets to it."""

    async def broken_off(url: str) -> int:
        at, done = 0, False
        while not done:
            at += 1
            cut = Cut(at, when)
            outcome = await cut.run(RedisClient(read_target(url), None, KEY).open())
            if not isinstance(outcome, BaseException):
                outcome.transport.abort()
                # Which of the nodes is the first to answer is chance, and with it how often one waits.
                done = not cut.reached
            del outcome, cut
            gc.collect()
        await closed()
        return at

    if kind == "single":
        # A database that is not the first has to be chosen, which is an await more.
        one = servers.single()
        url, all_of_them = one.url.replace("/0", "/1"), [one]
    elif kind == "sentinel":
        watched = servers.sentinels()
        url, all_of_them = watched.url, watched.servers
    else:
        nodes = servers.cluster()
        url, all_of_them = nodes.url, nodes.nodes
    others = [clients(one) for one in all_of_them]
    with warnings.catch_warnings(record=True) as said, asyncio.Runner(loop_factory=loops) as runner:
        warnings.simplefilter("always")
        awaits = runner.run(broken_off(url))
        gc.collect()
    assert [str(one.message) for one in said] == []
    # Connecting, and logging in; beside it on a Cluster and under Sentinels who is asked.
    assert awaits >= (3 if kind == "single" else 10), awaits
    # Fewer where those of the test before were about to end.
    until(lambda: all(clients(one) <= was for one, was in zip(all_of_them, others, strict=True)), "more than before")


def clients(one: Server) -> int:
    """How many connections a server has but those of replicas; the one that asks is among them."""
    return len(str(one.ask("CLIENT", "LIST", "TYPE", "normal")).strip().splitlines())


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("READONLY You can't write against a read only replica.", "readonly"),
        ("LOADING Redis is loading the dataset in memory", "loading"),
        ("OOM command not allowed when used memory > 'maxmemory'.", "oom"),
        ("NOAUTH Authentication required.", "noauth"),
        ("WRONGPASS invalid username-password pair or user is disabled.", "noauth"),
        ("NOPERM this user has no permissions to run the 'evalsha' command", "noauth"),
        ("MOVED 3999 127.0.0.1:6381", "moved"),
        ("ASK 3999 127.0.0.1:6381", "moved"),
        ("CLUSTERDOWN The cluster is down", "moved"),
        ("TRYAGAIN Multiple keys request during rehashing of slot", "moved"),
        ("MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.", "moved"),
        ("BUSY Redis is busy running a script.", "other"),
        ("ERR Error running script (call to f_6b1b): @user_script:9: -READONLY You can't write", "readonly"),
        ("ERR Error running script (call to f_6b1b): @user_script:9: @user_script: 9: -OOM command not allowed", "oom"),
        ("ERR unknown command", "other"),
        ("", "other"),
    ],
)
def test_what_a_server_says_has_a_kind(words: str, kind: str) -> None:
    assert ReplyError(words).kind == kind
