"""Suppression of repeated log events, so that a storm of one event neither fills the disk nor hides other events."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

FIELDS: Final = "sluice_fields"
"""The attribute of a record that holds its `key=value` pairs."""
AUDIT: Final = "sluice.audit"
"""Logger of changes made by operators: never suppressed, at any log level."""

# What a line is about; a storm at one endpoint leaves room for the lines of another.
_SUBJECTS: Final = ("endpoint", "worker", "pool")

_Subject = tuple[str, str] | None
_Key = tuple[str, int, str, _Subject]


@dataclass(slots=True)
class _Window:
    """One event's lines since `began` (the records' clock, in seconds)."""

    began: float
    lines: int = 0
    held: int = 0


class RepeatSuppressor(logging.Filter):
    """At most `limit` lines of one event, logger and subject in `window` seconds, and `total` of all its subjects. How
    many were held back is told by the event's next line, or by a line of its own (`over`)."""

    def __init__(
        self, limit: int = 20, window: float = 10.0, most: int = 512, *, total: int = 100,
        holding: Callable[[float], None] = lambda seconds: None,
    ) -> None:  # fmt: skip
        """`holding` is called when lines begin to be held back, with the seconds after which `over` has something to
        tell; perhaps in another thread than the loop's."""
        super().__init__()
        self._limit, self._window, self._most, self._total = limit, window, most, total
        self._holding = holding
        self._windows: dict[_Key, _Window] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name == AUDIT:
            return True
        event = (record.name, record.levelno, str(record.msg)[:80])
        subject = _subject(getattr(record, FIELDS, {}))
        admitted = self._admit((*event, subject), self._limit, record)
        if admitted and subject is not None:
            admitted = self._admit((*event, None), self._total, record)
        return admitted

    def over(self, now: float) -> list[logging.LogRecord]:
        """A line for each event of which lines were held back in a window that is over."""
        found = []
        for key, window in list(self._windows.items()):
            if not 0 <= now - window.began < self._window:
                self._windows.pop(key, None)
                if window.held:
                    found.append(_summary(key, window.held))
        return found

    def _admit(self, key: _Key, limit: int, record: logging.LogRecord) -> bool:
        window = self._windows.get(key)
        if window is None or not 0 <= record.created - window.began < self._window:
            # Also when the wall clock was set back: silence until it has caught up would be worse.
            if window is not None and window.held:
                fields = record.__dict__.get(FIELDS, {})
                record.__dict__[FIELDS] = {**fields, "held_back": fields.get("held_back", 0) + window.held}
            self._make_room()
            self._windows.pop(key, None)
            window = self._windows[key] = _Window(record.created)
        if window.lines < limit:
            window.lines += 1
            return True
        window.held += 1
        if window.held == 1:
            self._holding(self._window - (record.created - window.began))
        return False

    def _make_room(self) -> None:
        """The oldest goes first, and one that has nothing to tell before one that has."""
        if len(self._windows) >= self._most:
            windows = list(self._windows.items())
            oldest = next((key for key, window in windows if not window.held), windows[0][0])
            self._windows.pop(oldest, None)


def _subject(fields: Mapping[str, object]) -> _Subject:
    return next(((name, str(fields[name])) for name in _SUBJECTS if fields.get(name) is not None), None)


def _summary(key: _Key, held: int) -> logging.LogRecord:
    name, level, event, subject = key
    what = dict([subject] if subject is not None else [], held_back=held)
    return logging.makeLogRecord(
        {"name": name, "levelno": level, "levelname": logging.getLevelName(level), "msg": event, FIELDS: what}
    )
