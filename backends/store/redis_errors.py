"""Errors of the store."""

from collections.abc import Mapping
from typing import Final, Literal

Kind = Literal["timeout", "connection", "readonly", "loading", "oom", "noauth", "moved", "other"]

_KINDS: Final[Mapping[str, Kind]] = {
    "READONLY": "readonly",
    "LOADING": "loading",
    "OOM": "oom",
    "NOAUTH": "noauth",
    "WRONGPASS": "noauth",
    "NOPERM": "noauth",
    "MOVED": "moved",
    "ASK": "moved",
    "TRYAGAIN": "moved",
    "CLUSTERDOWN": "moved",
    "MASTERDOWN": "moved",
}


class StoreLostError(Exception):
    """The store did not do what it was asked."""

    def __init__(self, kind: Kind, reason: str) -> None:
        super().__init__(reason)
        self.kind: Final = kind


class ReplyError(Exception):
    """Error reply of a server, with its text unchanged."""

    @property
    def kind(self) -> Kind:
        words = str(self)
        # Before Redis 7 what a script's command met stands inside of the script's own error.
        _, inside, inner = words.partition(": -")
        if inside and words.startswith("ERR Error running script"):
            words = inner
        return _KINDS.get(words.partition(" ")[0], "other")

    @property
    def noscript(self) -> bool:
        return str(self).startswith("NOSCRIPT")


class GarbageError(Exception):
    """Bytes that are no reply."""


UNFINISHED: Final = object()
"""Result of `ReplyParser.gets` while a reply is not whole."""
