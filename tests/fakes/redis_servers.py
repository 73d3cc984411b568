"""Real redis-servers, in folders of their own and on free ports of 127.0.0.1: alone, under Sentinels, as a Cluster.

They are started by whoever enters them and ended by their id; nothing is written but what Redis itself writes there.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

PATIENCE = 30.0
# Seconds after which one that does not answer is taken for dead: a machine that stands still for a moment must not make
# another the primary, where that is not what is tested.
HASTY, CALM = 1.0, 15.0


class Server:
    """One process of redis-server."""

    def __init__(self, folder: Path, *options: str, bus: int = 0) -> None:
        """bus: the port at which nodes of a Cluster talk"""
        self.port = free_port()
        self.bus = bus
        self.folder = folder
        self.frozen = False
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"redis://{self.address}/0"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self, *more: str, wait: bool = True) -> None:
        """Start it, with options for this time only."""
        self.folder.mkdir(parents=True, exist_ok=True)
        common = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder), "--save", "",
                  "--appendonly", "no", "--daemonize", "no", "--logfile", str(self.folder / "log")]  # fmt: skip
        command = ["redis-server", *self._options, *common, *more]
        self._process = subprocess.Popen(command)
        if wait:
            until(lambda: self._answers_or_again(command), f"redis-server on {self.port}")

    def _answers_or_again(self, command: Sequence[str]) -> bool:
        """Somebody's outgoing connection may have its port for a moment, and then it has ended at once."""
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(command)
        return self.answers()

    def answers(self) -> bool:
        with contextlib.suppress(OSError):
            return self.ask("PING") in ("PONG", "NOAUTH Authentication required.")
        return False

    def ask(self, *words: str | int | float) -> Any:
        """The reply to one command, over a connection of its own; errors are their text."""
        return ask(self.port, *words)

    def freeze(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)
        self.frozen = True

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)
        self.frozen = False

    def stop(self) -> None:
        """End it, at once, whatever state it is in; what it knew is lost."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextmanager
def server(*options: str) -> Iterator[Server]:
    """One server alone."""
    with _folder() as folder:
        one = Server(folder, *options)
        one.start()
        try:
            yield one
        finally:
            one.stop()


class Sentinels:
    """A primary, a replica and three Sentinels, who make the replica the primary when the other is away for `dead`
    seconds."""

    name = "main"

    def __init__(self, folder: Path, stack: ExitStack, dead: float) -> None:
        self.servers = [Server(folder / "a"), Server(folder / "b")]
        for one in self.servers:
            stack.callback(one.stop)
            one.start()
        self.servers[1].ask("REPLICAOF", "127.0.0.1", self.servers[0].port)
        self.sentinels: list[Server] = []
        for number in range(3):
            home = folder / f"s{number}"
            home.mkdir()
            config = home / "sentinel.conf"
            config.write_text(
                f"sentinel monitor {self.name} 127.0.0.1 {self.servers[0].port} 2\n"
                f"sentinel down-after-milliseconds {self.name} {dead * 1000:.0f}\n"
                f"sentinel failover-timeout {self.name} 3000\n"
            )
            sentinel = Server(home, str(config), "--sentinel")
            stack.callback(sentinel.stop)
            sentinel.start()
            self.sentinels.append(sentinel)
        until(lambda: self.servers[1].ask("INFO", "replication").find("master_link_status:up") > 0, "the replica")
        until(lambda: all(self._sees(one) for one in self.sentinels), "the Sentinels")

    @property
    def url(self) -> str:
        return f"redis+sentinel://{','.join(one.address for one in self.sentinels)}/{self.name}/0"

    @property
    def primary(self) -> Server:
        """Who it is now, as the first Sentinel says."""
        port = int(self.sentinels[0].ask("SENTINEL", "get-master-addr-by-name", self.name)[1])
        return next(one for one in self.servers if one.port == port)

    def _sees(self, sentinel: Server) -> bool:
        told = sentinel.ask("SENTINEL", "master", self.name)
        state = dict(zip(told[::2], told[1::2], strict=True))
        return (state["num-other-sentinels"], state["num-slaves"]) == ("2", "1")


@contextmanager
def sentinels(dead: float = HASTY) -> Iterator[Sentinels]:
    with _folder() as folder, ExitStack() as stack:
        yield Sentinels(folder, stack, dead)


class Cluster:
    """Three nodes with a third of the slots each, and with `replicas` a replica for each."""

    def __init__(self, folder: Path, stack: ExitStack, replicas: bool) -> None:
        dead = HASTY if replicas else CALM
        self.nodes = [self._node(folder / f"n{number}", stack, dead) for number in range(6 if replicas else 3)]
        owners = self.nodes[:3]
        for number, one in enumerate(owners):
            low, high = number * 16384 // 3, (number + 1) * 16384 // 3 - 1
            assert one.ask("CLUSTER", "ADDSLOTSRANGE", low, high) == "OK"
            one.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for one in self.nodes[1:]:
            one.ask("CLUSTER", "MEET", "127.0.0.1", self.nodes[0].port, self.nodes[0].bus)
        until(lambda: all(_known(one) == len(self.nodes) for one in self.nodes), "the nodes")
        for owner, replica in zip(owners, self.nodes[3:], strict=False):
            until(lambda o=owner, r=replica: r.ask("CLUSTER", "REPLICATE", o.ask("CLUSTER", "MYID")) == "OK", "REPLICATE")  # type: ignore[misc]  # fmt: skip  # noqa: E501
        until(lambda: all("cluster_state:ok" in one.ask("CLUSTER", "INFO") for one in self.nodes), "the Cluster")
        for replica in self.nodes[3:]:
            until(lambda r=replica: "master_link_status:up" in r.ask("INFO", "replication"), "a replica")  # type: ignore[misc]

    @staticmethod
    def _node(folder: Path, stack: ExitStack, dead: float) -> Server:
        # Its bus has a port of its own: 10,000 more would be no free one.
        bus = free_port()
        one = Server(folder, "--cluster-enabled", "yes", "--cluster-node-timeout", f"{dead * 1000:.0f}",
                     "--cluster-port", str(bus), "--cluster-replica-validity-factor", "0", bus=bus)  # fmt: skip
        stack.callback(one.stop)
        one.start()
        return one

    @property
    def url(self) -> str:
        return f"redis+cluster://{','.join(one.address for one in self.nodes[:3])}"

    def owner(self, key: str) -> Server:
        """The node that holds the key, as the first says that answers."""
        for asked in self.nodes:
            with contextlib.suppress(OSError):
                slot = asked.ask("CLUSTER", "KEYSLOT", key)
                for low, high, primary, *_ in asked.ask("CLUSTER", "SLOTS"):
                    if low <= slot <= high:
                        return next(one for one in self.nodes if one.port == primary[1])
        raise AssertionError("nobody holds it")


@contextmanager
def cluster(replicas: bool = False) -> Iterator[Cluster]:
    with _folder() as folder, ExitStack() as stack:
        yield Cluster(folder, stack, replicas)


def _known(node: Server) -> int:
    return sum("connected" in line for line in str(node.ask("CLUSTER", "NODES")).splitlines())


def ask(port: int, *words: str | int | float) -> Any:
    """The reply to one command, over a connection of its own; errors are their text."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
        texts = [str(word).encode() for word in words]
        parts = [b"*%d\r\n" % len(texts), *(b"$%d\r\n%s\r\n" % (len(text), text) for text in texts)]
        connection.sendall(b"".join(parts))
        with connection.makefile("rb") as replies:
            return _reply(replies.readline, replies.read)


def _reply(line: Callable[[], bytes], read: Callable[[int], bytes]) -> Any:
    begins, text = (found := line())[:1], found[1:].strip().decode()
    if not begins:
        raise ConnectionError("it has closed the connection")
    if begins == b":":
        return int(text)
    if begins == b"$":
        return None if text == "-1" else read(int(text) + 2)[:-2].decode()
    if begins == b"*":
        return [_reply(line, read) for _ in range(int(text))]
    return text


def until(true: Callable[[], bool], what: str) -> None:
    """Return when it is so."""
    ends = time.monotonic() + PATIENCE
    while not true():
        if time.monotonic() > ends:
            raise AssertionError(f"not there after {PATIENCE} s: {what}")
        time.sleep(0.02)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def keys(nodes: Sequence[Server]) -> dict[str, int]:
    """Every key of these servers, and for how many milliseconds it will be there; -1 is for ever."""
    found = {key: one.ask("PTTL", key) for one in nodes for key in one.ask("KEYS", "*")}
    # -2: it has gone since it was listed.
    return {key: left for key, left in found.items() if left != -2}


@contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="sluice-redis-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Servers:
    """Each kind once, started when it is first asked for, and ended together."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._single: Server | None = None
        self._sentinels: Sentinels | None = None
        self._cluster: Cluster | None = None

    def single(self) -> Server:
        if self._single is None:
            self._single = self._stack.enter_context(server())
        return self._single

    def sentinels(self) -> Sentinels:
        if self._sentinels is None:
            self._sentinels = self._stack.enter_context(sentinels(CALM))
        return self._sentinels

    def cluster(self) -> Cluster:
        if self._cluster is None:
            self._cluster = self._stack.enter_context(cluster())
        return self._cluster

    def close(self) -> None:
        self._stack.close()
        self._single = self._sentinels = self._cluster = None
