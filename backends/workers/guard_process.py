"""The guard: ends the workers when the gateway is killed with -9. A script: `python -I -S guard_process.py MARK`.

It reads lines `+PGID` and `-PGID` from a pipe whose other end only the gateway holds. The end of that pipe is the end
of the gateway, however it came: then every group in the book is killed, and every process whose environment holds the
mark (a worker that the gateway had no time to name, a helper that made a session of its own). 10 MB, and asleep.
"""

import os
import signal
import sys
import time

ROUNDS = 40
PAUSE = 0.025
TRACKER = b"multiprocessing.resource_tracker"


def read(pid: str, what: str) -> bytes:
    try:
        with open(f"/proc/{pid}/{what}", "rb") as file:
            return file.read()
    except OSError:
        return b""


def ours(pid: str, mark: bytes, groups: set[int]) -> bool:
    """Return whether a live process is in a recorded group or bears the mark."""
    stat = read(pid, "stat").rpartition(b")")[2].split()
    if not stat or stat[0] in (b"Z", b"X"):
        return False
    return int(stat[2]) in groups or mark in read(pid, "environ").split(b"\0")


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


def kill(pid: str) -> None:
    try:
        os.kill(int(pid), signal.SIGKILL)
    except OSError:
        pass


def main(mark: bytes) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    os.chdir("/")
    groups = read_book()
    me = str(os.getpid())
    # Round after round, for a process may be forking while it is killed. Resource trackers (groups.is_tracker) have
    # half of the time to clean up after the others.
    for turn in range(ROUNDS):
        rest = [pid for pid in os.listdir("/proc") if pid.isdigit() and pid != me and ours(pid, mark, groups)]
        if not rest:
            return
        for pid in rest:
            if turn > ROUNDS // 2 or TRACKER not in read(pid, "cmdline"):
                kill(pid)
        time.sleep(PAUSE)


if __name__ == "__main__":
    main(os.fsencode(sys.argv[1]))
