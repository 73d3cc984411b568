"""The guard: ends the workers when the gateway is killed with -9. A script: `python -I -S guard_process.py MARK`.

It reads lines `+PGID` and `-PGID` from a pipe whose other end only the gateway holds. The end of that pipe is the end
of the gateway, however it came: then every group in the book is killed, and every process whose environment holds the
mark (a worker that the gateway had no time to name, a helper that made a session of its own). 10 MB, and asleep.
"""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    # The real one would cost as much memory as the rest of this.
    from collections.abc import Callable

ROUNDS = 5


def environment(pid: str) -> bytes:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return file.read()
    except OSError:
        return b""


def marked(mark: bytes) -> list[int]:
    """Processes whose environment holds the mark; ourselves never."""
    me = str(os.getpid())
    pids = (name for name in os.listdir("/proc") if name.isdigit() and name != me)
    return [int(pid) for pid in pids if mark in environment(pid).split(b"\0")]


def read_book() -> set[int]:
    """Groups that are still in the book when the gateway's end of the pipe closes."""
    groups: set[int] = set()
    for line in sys.stdin:
        group = int(line[1:])
        if line[0] == "+":
            groups.add(group)
        else:
            groups.discard(group)
    return groups


def kill(send: Callable[[int, int], None], number: int) -> None:
    try:
        send(number, signal.SIGKILL)
    except OSError:
        pass


def main(mark: bytes) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    os.chdir("/")
    for group in read_book():
        kill(os.killpg, group)
    # A process may be forking while it is killed: look until a look finds nobody.
    for _ in range(ROUNDS):
        rest = marked(mark)
        if not rest:
            return
        for pid in rest:
            kill(os.kill, pid)


if __name__ == "__main__":
    main(os.fsencode(sys.argv[1]))
