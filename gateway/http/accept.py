"""Takes connections from a listening socket: never more at once than there are descriptors for.

uvloop's own way of accepting knows no such limit, and once a process is out of descriptors and libuv's spare one is
gone too, it spins: 100% of a core as long as somebody waits to be accepted. This way costs 19 us more a connection.
"""

import asyncio
import errno
import heapq
import logging
import resource
import socket
from collections.abc import Callable, Set
from typing import Any, Final, Protocol

from backends.http1.timer_wheel import Timer, TimerWheel
from gateway.observe.log import fields

log = logging.getLogger("sluice.client")

# So many connections are taken in one turn of the loop; others have work too.
BURST: Final = 64
# How long nobody is accepted once there is no room, in seconds: those who wait do so in the kernel's backlog.
PAUSE: Final = 0.05
# What a gateway without a request holds: listeners, logs, the loop's own, workers' pipes, probes, and some air.
RESERVE: Final = 64
FEWEST: Final = 16
ADMIN_CONNECTIONS: Final = 128
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def raise_descriptor_limit() -> None:
    """Raise the soft limit of file descriptors, often 1024 for the sake of select(), to the hard limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def most_clients() -> int:
    """Return the maximum of client connections for the limit in force: half of it, since each may need one to an
    endpoint."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = 1 << 20 if soft == resource.RLIM_INFINITY else soft
    return max(FEWEST, (limit - RESERVE) // 2)


class AcceptedConnection(Protocol):
    """Accepted connection, as the acceptor uses it (`gateway.http.connection.ClientConnection`)."""

    transport: asyncio.Transport

    @property
    def idle_since(self) -> float | None:
        """Time since which no request is under way, by the loop's clock; None while one is."""


class Acceptor:
    """Acceptor of one listening socket. At `most` connections it closes those that have been idle longest, first of
    all clients that send no whole request, so that no client can block others."""

    def __init__(
        self,
        listening: socket.socket,
        make: Callable[[], asyncio.Protocol],
        *,
        connections: Set[object],
        most: int,
        loop: asyncio.AbstractEventLoop,
        wheel: TimerWheel,
    ) -> None:
        """`make` creates the protocol of a connection, which is in `connections` while it is open: all are
        `AcceptedConnection`."""
        self._socket = listening
        self._make = make
        self._connections: Set[Any] = connections
        self._most = most
        self._loop = loop
        self._wheel = wheel
        self._arriving: dict[asyncio.Task[object], asyncio.Protocol] = {}
        self._pausing: Timer | None = None
        self._stopped = False

    def start(self) -> None:
        """Accept, from now on. The socket listens."""
        self._socket.setblocking(False)
        self._loop.add_reader(self._socket, self._accept)

    def stop(self) -> None:
        """Accept nothing more, for good, but those who wait already: a close of the socket would reset them. The socket
        is the caller's to close."""
        if self._stopped:
            return
        self._stopped = True
        self._accept()
        if self._pausing is not None:
            self._wheel.cancel(self._pausing)
        self._loop.remove_reader(self._socket)

    def _accept(self) -> None:
        """Accept the waiting connections, up to BURST in one turn of the loop."""
        if self._full:
            self._pause("clients_full", "all connections that there are descriptors for are open")
            return
        for _ in range(BURST):
            try:
                accepted, _ = self._socket.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._pause("accept_paused", error.strerror or str(error))
                    return
                # That connection is gone; accept(2) tells of its errors, and of the network's, in this way.
                continue
            self._take(accepted)
            if self._full:
                return

    def _take(self, accepted: socket.socket) -> None:
        accepted.setblocking(False)
        protocol = self._make()
        task = self._loop.create_task(self._loop.connect_accepted_socket(lambda: protocol, accepted), name="accept")
        self._arriving[task] = protocol
        task.add_done_callback(self._arrived)

    @property
    def _full(self) -> bool:
        open_now = len(self._connections)
        if open_now + len(self._arriving) < self._most:
            return False
        # One that is just arriving may be among the open ones already.
        return open_now + sum(made not in self._connections for made in self._arriving.values()) >= self._most

    def _arrived(self, task: asyncio.Task[object]) -> None:
        del self._arriving[task]
        if not task.cancelled() and task.exception() is not None:
            log.warning("accept_failed", extra=fields(reason=str(task.exception())))

    def _pause(self, event: str, reason: str) -> None:
        """Pause accepting for PAUSE seconds: a socket that stays readable would wake the loop without end."""
        self._loop.remove_reader(self._socket)
        self._pausing = self._wheel.arm(PAUSE, self.start)
        closed = self._make_room()
        log.warning(event, extra=fields(reason=reason, open=len(self._connections), most=self._most, closed=closed))

    def _make_room(self) -> int:
        """Close the connections that have been idle longest, an eighth of all at a time; return how many."""
        idle = [
            (since, number, connection)
            for number, connection in enumerate(self._connections)
            if (since := connection.idle_since) is not None and not connection.transport.is_closing()
        ]
        longest = heapq.nsmallest(max(1, self._most // 8), idle)
        for _, _, connection in longest:
            connection.transport.close()
        return len(longest)
