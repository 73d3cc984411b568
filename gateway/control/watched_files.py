"""Change detection of the files that the control plane reads: one stat call each."""

import os
from collections.abc import Iterable

_Signature = tuple[int, int, int] | None


class WatchedFiles:
    """Signatures of files at the last check. A file that is half written is seen again once it changes."""

    def __init__(self, paths: Iterable[str] = ()) -> None:
        self._seen = {path: _signature(path) for path in paths}

    def look(self) -> list[str]:
        """Return the names of files that changed since the last check."""
        now = {path: _signature(path) for path in self._seen}
        changed = [os.path.basename(path) for path in now if now[path] != self._seen[path]]
        self._seen = now
        return changed

    def follow(self, paths: Iterable[str]) -> None:
        """Watch these files. The signature of a file that stays is kept: it was taken before the file was read."""
        self._seen = {path: self._seen[path] if path in self._seen else _signature(path) for path in paths}


def _signature(path: str) -> _Signature:
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns, stat.st_size
