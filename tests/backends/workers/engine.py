"""A stand-in for an engine with bad habits, run as a script: `python -S engine.py HOST PORT [HABIT ...]`.

Habits: crash, zero (ends with status 0 at once), unwell (503 for ever), silent (never listens), late (listens after
0.4 s), ignore_term, fork (a helper in its group that ignores SIGTERM), session (a helper in a session of its own),
exclusive (binds without SO_REUSEADDR), flood (prints without end), shared
(has shared memory), stranger (another process takes its port).
"""

import os
import signal
import socket
import sys
import time


def say(text: str) -> None:
    # In one write: several processes share this pipe, and print may make several.
    os.write(1, text.encode() + b"\n")


def helper(own_session: bool) -> None:
    if os.fork():
        return
    if own_session:
        os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    say(f"helper {os.getpid()}")
    while True:
        time.sleep(60)


def flood() -> None:
    while os.fork() == 0:
        while True:
            say("x" * 100)


def shared_memory() -> None:
    from multiprocessing.shared_memory import SharedMemory

    say(f"segment {SharedMemory(create=True, size=64).name}")


def stranger() -> None:
    if os.fork() == 0:
        os.setsid()
    else:
        time.sleep(600)


HABITS = {
    "crash": lambda: sys.exit("no such model"),
    "zero": lambda: sys.exit(0),
    "ignore_term": lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN),
    "fork": lambda: helper(own_session=False),
    "session": lambda: helper(own_session=True),
    "late": lambda: time.sleep(0.4),
    "silent": lambda: time.sleep(600),
    "shared": shared_memory,
    "stranger": stranger,
    "flood": flood,
}


def listen(host: str, port: int, habits: list[str]) -> socket.socket:
    made = socket.socket()
    if "exclusive" not in habits:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind((host, port))
    made.listen()
    return made


def serve(listening: socket.socket, status: str) -> None:
    while True:
        connection, _ = listening.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(f"HTTP/1.1 {status} x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode())


def main(host: str, port: int, habits: list[str]) -> None:
    for habit in habits:
        if habit in HABITS:
            HABITS[habit]()
    serve(listen(host, port, habits), "503" if "unwell" in habits else "200")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
