"""The files that the control side reads, looked at by their identity: one stat call each."""

import os
from collections.abc import Iterable

_Signature = tuple[int, int, int] | None


class WatchedFiles:
    """What was last seen of each file. One that is half written now is seen again once it changes."""

    def __init__(self, paths: Iterable[str] = ()) -> None:
        self._seen = {path: _signature(path) for path in paths}

    def look(self) -> list[str]:
        """The names of those that are others than at the last look; from now on they are known as they are."""
        now = {path: _signature(path) for path in self._seen}
        changed = [os.path.basename(path) for path in now if now[path] != self._seen[path]]
        self._seen = now
        return changed

    def follow(self, paths: Iterable[str]) -> None:
        """Look at these from now on. What was seen of one that stays was seen before it was read, so it holds."""
        self._seen = {path: self._seen[path] if path in self._seen else _signature(path) for path in paths}


def _signature(path: str) -> _Signature:
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns, stat.st_size
