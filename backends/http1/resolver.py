"""The addresses of names, when DNS fails, is slow, or changes its mind (fault 29).

`socket.getaddrinfo` blocks and can't be given up: a resolver that is away holds it for 5 to 40 s. So each name is
looked up on a thread of its own, one at a time however many ask. Names that hang take nothing from those that don't, as
they would in an executor's few threads; and since the threads are daemons, a process that ends does not wait for them.
A thread costs 0.1 ms, once a second for each name at most.

getaddrinfo tells no TTL. An answer is used for 1 s without asking again, so that a change of DNS is followed in that
time. When a later lookup fails or takes longer than 0.1 s, the last good answer is used, until it is 60 s old: that
bridges a restart of the cluster's DNS, and an address that was given to somebody else is not used for long.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Final

Address = tuple[str, int]
Lookup = Callable[[str], Sequence[str]]

FRESH: Final = 1.0
"""Seconds for which an answer, good or bad, is used without asking again."""
PATIENCE: Final = 0.1
"""Seconds for which a lookup is waited for where there are last good addresses."""
KEPT: Final = 60.0
"""Seconds after which last good addresses are used no more."""


def system_lookup(host: str) -> list[str]:
    """The addresses of a name in the system's order (RFC 6724). It blocks. Raises socket.gaierror, UnicodeError."""
    infos = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in infos))


class Resolver:
    """The names of one event loop; `resolve` is what a ConnectionPool asks for each new connection.

    clock: monotonic, in seconds
    lookup: host -> addresses; it is called on a thread and may block for as long as it likes
    """

    def __init__(self, clock: Callable[[], float], lookup: Lookup = system_lookup) -> None:
        self._clock: Final = clock
        self._lookup: Final = lookup
        self._names: dict[str, _ResolvedName] = {}

    async def resolve(self, host: str, port: int) -> list[Address]:
        """At least one address. Raises socket.gaierror when there is none to be had.

        Without last good addresses it waits for the lookup: its caller has a timeout. Cancelled, it leaves the lookup
        to the others who wait for it.
        """
        if _is_address(host):
            return [(host, port)]
        name = self._names.get(host)
        if name is None:
            name = self._names[host] = _ResolvedName()
        now = self._clock()
        if name.flight is None and now >= name.fresh_until:
            self._ask(host, name)
        if name.flight is not None and name.good(now) and now < name.patient_until:
            await asyncio.wait((name.flight,), timeout=name.patient_until - now)
        while name.flight is not None and not name.good(self._clock()):
            await asyncio.wait((name.flight,))
        if not name.good(self._clock()):
            raise socket.gaierror(*name.error)
        return [(address, port) for address in name.addresses]

    def _ask(self, host: str, name: _ResolvedName) -> None:
        now = self._clock()
        self._forget(now)
        self._names[host] = name
        loop = asyncio.get_running_loop()
        name.flight = loop.create_future()
        name.patient_until = now + PATIENCE

        def look() -> None:
            addresses, error = _looked_up(self._lookup, host)
            # Nobody waits any more when the loop has been closed.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._answered, name, addresses, error)

        try:
            threading.Thread(target=look, name=f"resolve {host}", daemon=True).start()
        except RuntimeError as error:  # "can't start new thread"
            self._answered(name, (), (socket.EAI_MEMORY, str(error)))

    def _answered(self, name: _ResolvedName, addresses: Sequence[str], error: tuple[int, str]) -> None:
        now = self._clock()
        name.fresh_until = now + FRESH
        if addresses:
            name.addresses = tuple(addresses)
            name.good_until = now + KEPT
        else:
            name.error = error
        flight, name.flight = name.flight, None
        if flight is not None and not flight.done():
            flight.set_result(None)

    def _forget(self, now: float) -> None:
        """Names that nobody has asked for since their addresses became useless, as those of endpoints that are gone."""
        for host in [host for host, name in self._names.items() if name.useless(now)]:
            del self._names[host]


class _ResolvedName:
    __slots__ = ("addresses", "error", "flight", "fresh_until", "good_until", "patient_until")

    def __init__(self) -> None:
        self.addresses: tuple[str, ...] = ()
        self.error: tuple[int, str] = (socket.EAI_AGAIN, "not looked up yet")
        self.flight: asyncio.Future[None] | None = None
        """Done when the lookup under way has answered."""
        self.fresh_until = 0.0
        self.good_until = 0.0
        self.patient_until = 0.0

    def good(self, now: float) -> bool:
        return bool(self.addresses) and now < self.good_until

    def useless(self, now: float) -> bool:
        return self.flight is None and now >= self.good_until and now >= self.fresh_until


def _looked_up(lookup: Lookup, host: str) -> tuple[Sequence[str], tuple[int, str]]:
    """(addresses, why there are none)"""
    try:
        return lookup(host), (socket.EAI_NONAME, "the name has no address")
    except socket.gaierror as error:
        return (), (error.errno or socket.EAI_FAIL, error.strerror or str(error))
    except Exception as error:
        # Whoever waits must be told, whatever it was: a name that no encoding takes, or no descriptors left.
        return (), (socket.EAI_FAIL, str(error))


def _is_address(host: str) -> bool:
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError, ValueError):
            socket.inet_pton(family, host)
            return True
    return False
