"""Free loopback ports for engines that do not choose their own."""

from __future__ import annotations

import contextlib
import socket

HOST = "127.0.0.1"


class FreePorts:
    """Some free ports, kept from everyone but a process that asks for them by number.

    The sockets stay bound, never listening, while a worker lives. Linux lets an engine bind the same port beside them
    (all set SO_REUSEADDR or SO_REUSEPORT) but hands it to nobody who asks for any free port, nor to an outgoing
    connection: so there is no moment between choosing and binding in which another process can get it, and a restart
    of the engine's own making finds it free. An engine that sets neither can't bind; for it `release` comes first.
    """

    def __init__(self, count: int) -> None:
        """Raises OSError where no port is free."""
        self._sockets: list[socket.socket] = []
        try:
            for _ in range(count):
                self._sockets.append(self._bind())
        except OSError:
            self.release()
            raise
        self.numbers: tuple[int, ...] = tuple(each.getsockname()[1] for each in self._sockets)

    def release(self) -> None:
        """Gives the ports back; they may be taken by anyone from now on."""
        for each in self._sockets:
            each.close()
        self._sockets.clear()

    @staticmethod
    def _bind() -> socket.socket:
        with contextlib.ExitStack() as undo:
            bound = undo.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            bound.bind((HOST, 0))
            undo.pop_all()
            return bound
