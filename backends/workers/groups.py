"""Members of a process group and listeners on a port, read from Linux's /proc (proc(5)).

Everything here blocks for some milliseconds on a machine with many processes or sockets: call it in a thread.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from enum import Enum
from pathlib import Path

LISTEN = b"0A"
TRACKER = b"multiprocessing.resource_tracker"


class PortListener(Enum):
    """Owner of the listening socket of an address."""

    OURS = "a process of the group"
    STRANGER = "a process outside the group"
    NOBODY = "none"
    UNKNOWN = "not to be told: the group runs as another user"


def members(group: int) -> list[int]:
    """Live processes of a group; zombies are dead."""
    return [pid for pid, pgrp, state in _processes() if pgrp == group and state not in b"ZX"]


def is_tracker(pid: int) -> bool:
    """Return whether a process is Python's resource tracker, which unlinks shared memory once its users have died.
    It ends by itself then. Killed together with an engine it leaves the engine's segments in /dev/shm, for vLLM some
    hundred MB a time.
    """
    try:
        return TRACKER in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def listener(host: str, port: int, group: int) -> PortListener:
    """Return the owner of the socket on an IPv4 address and port: a process of the group, another one, or none."""
    sockets = _listening(socket.inet_aton(host), port)
    if not sockets:
        return PortListener.NOBODY
    readable = True
    for pid in members(group):
        held = _sockets(pid)
        if held is None:
            readable = False
        else:
            sockets -= held
    if not sockets:
        return PortListener.OURS
    # One foreign socket is enough: with SO_REUSEPORT the kernel would share the connections out.
    return PortListener.STRANGER if readable else PortListener.UNKNOWN


def _processes() -> Iterator[tuple[int, int, bytes]]:
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            stat = Path("/proc", name, "stat").read_bytes()
        except OSError:
            continue
        # The name of the program stands in brackets and may hold anything, brackets too.
        state, _, group = stat[stat.rindex(b")") + 2 :].split(b" ", 3)[:3]
        yield int(name), int(group), state


def _listening(address: bytes, port: int) -> set[int]:
    """Inodes of the sockets that the kernel would choose among: those of the very address, or the wildcard's."""
    exact, wild = set(), set()
    for line in _lines("/proc/net/tcp"):
        local, inode = _listens(line, port)
        if local == _hexadecimal(address):
            exact.add(inode)
        elif local == b"0" * 8:
            wild.add(inode)
    for line in _lines("/proc/net/tcp6"):
        local, inode = _listens(line, port)
        if local == b"0" * 32:
            wild.add(inode)
    return exact or wild


def _lines(path: str) -> list[bytes]:
    try:
        return Path(path).read_bytes().splitlines()[1:]
    except OSError:
        return []


def _listens(line: bytes, port: int) -> tuple[bytes, int]:
    fields = line.split()
    address, _, number = fields[1].partition(b":")
    if fields[3] != LISTEN or int(number, 16) != port:
        return b"", 0
    return address, int(fields[9])


def _hexadecimal(address: bytes) -> bytes:
    # The kernel prints the address as one number in the machine's byte order.
    return b"%08X" % struct.unpack("=I", address)[0]


def _sockets(pid: int) -> set[int] | None:
    """Inodes of a process's sockets; None where we may not look."""
    found = set()
    try:
        for entry in os.scandir(f"/proc/{pid}/fd"):
            try:
                target = os.readlink(entry.path)
            except FileNotFoundError:
                continue
            if target.startswith("socket:["):
                found.add(int(target[8:-1]))
    except FileNotFoundError:
        return set()
    except OSError:
        return None
    return found
