"""What goes outside: files, sockets, names and processes, by what Python itself tells of them (`sys.addaudithook`)."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# What Python tells of whatever opens a file or a socket, or looks up a name.
_OUTSIDE = re.compile(r"open|os\.(listdir|scandir)|socket\.\w+|subprocess\.\w+|urllib\.\w+")

_events: list[str] = []
_watched: set[int] = set()


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if threading.get_ident() in _watched and _OUTSIDE.fullmatch(event):
        _events.append(f"{event} {args!r:.80}")


sys.addaudithook(_hook)


@contextmanager
def sealed(*, sockets: bool = True) -> Iterator[None]:
    """Fails where anything is opened, connected to or started by this thread meanwhile; new sockets are left to others
    to count unless `sockets`, for a whole gateway has probes to make."""
    _events.clear()
    _watched.add(threading.get_ident())
    try:
        yield
    finally:
        _watched.discard(threading.get_ident())
    found = [event for event in _events if sockets or not event.startswith("socket.__new__")]
    assert found == [], found
