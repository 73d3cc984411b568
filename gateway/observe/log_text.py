"""Text in log lines: timestamps, and text from outside the gateway."""

from __future__ import annotations

import time

# A look into a tuple is a tenth of a microsecond cheaper than a format.
_MILLISECONDS = tuple(f"{number:03d}Z" for number in range(1000))


class Timestamp:
    """Seconds since the epoch to RFC 3339 in UTC with milliseconds, `2026-11-20T14:47:37.123Z`.

    One second's text is kept: a busy log asks for the same one a thousand times."""

    __slots__ = ("_second", "_text")

    def __init__(self) -> None:
        self._second = -1
        self._text = ""

    def __call__(self, moment: float) -> str:
        milliseconds = int(moment * 1000)
        second = milliseconds // 1000
        if second != self._second:
            self._second = second
            self._text = time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second))
        return self._text + _MILLISECONDS[milliseconds % 1000]


def printable(text: str) -> str:
    """The text with what can't be printed spelled out. Logs are read in terminals, and JSON leaves C1 controls and
    bidirectional marks as they are."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
