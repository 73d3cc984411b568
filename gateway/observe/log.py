"""The gateway's own log: what it has to say itself, one line an event, `2026-11-20T14:47:37.123Z INFO event key=value`.

Any part logs through the standard library and says the event as the message, the rest as fields:

    logging.getLogger("sluice.workers").warning("worker_exited", extra=fields(worker="qwen-w0", code=-9))

What uvicorn and asyncio say comes out in the same form. Repetitions are bounded, secrets are taken out, and lines are
written by a thread, so that a stuck stderr holds nobody up.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Mapping
from typing import Final

from gateway.observe.line_writer import STDERR, LineWriter
from gateway.observe.log_suppression import AUDIT, FIELDS, RepeatSuppressor
from gateway.observe.log_text import Timestamp, printable
from policies import codec

# The root of all our loggers; libraries that speak through ours.
OURS: Final = "sluice"
_FOREIGN: Final = ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi", "asyncio")

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

Later = Callable[[float, Callable[[], None]], None]

# What looks like a credential in anybody's text: the last resort, since none should get this far.
_SECRET = re.compile(
    r"(?i)\b(bearer|basic)\s+[^\s\"',]+|\bsk[-_][A-Za-z0-9_\-]{16,}|\b(?-i:eyJ)[A-Za-z0-9_\-]+\.[A-Za-z0-9_.\-]+"
)
_PLAIN = re.compile(r"[^\s\"=\\]+")


def fields(**named: object) -> Mapping[str, object]:
    """Return the value for `extra=` with which the line ends in `key=value` pairs."""
    return {FIELDS: named}


class GatewayLog:
    """The log while it is installed. `path` is a file or `stderr`, `level` and `form` are policy key `observe.log`.

    `later` calls a function in so many seconds, from whatever thread: so it is told how many lines were held back also
    of an event that never comes again.
    """

    def __init__(
        self, path: str = STDERR, *, level: str = "info", form: str = "text", later: Later = lambda seconds, call: None
    ) -> None:
        encode = JsonLine() if form == "json" else TextLine()
        # The log of the log has nowhere to go.
        self._writer = LineWriter(path, encode, complain=lambda event, what: None, capacity=4096, delay=0.0)
        self._handler = _Handler(self._writer)
        # A little later than the window's end: timers and the records' clock are not one.
        self._repeats = RepeatSuppressor(holding=lambda seconds: later(seconds + 0.1, self._tell_held_back))
        self._handler.addFilter(self._repeats)
        self._before: list[tuple[logging.Logger, list[logging.Handler], int, bool]] = []
        self._install(logging.getLogger(OURS), _LEVELS[level])
        for name in _FOREIGN:
            self._install(logging.getLogger(name), max(_LEVELS[level], logging.WARNING))
        self._install(logging.getLogger(AUDIT), logging.INFO)

    def complain(self, event: str, what: Mapping[str, object]) -> None:
        """For the access log's writer: what it has to say about itself."""
        logging.getLogger(f"{OURS}.observe").warning(event, extra=fields(**what))

    @property
    def idle(self) -> bool:
        """True if every logged line has been written."""
        return self._writer.idle

    def reopen(self) -> None:
        """SIGHUP: open the file again."""
        self._writer.reopen()

    def close(self, timeout: float = 2.0) -> None:
        """Give the loggers back as they were and write what is left, in at most so many seconds."""
        self._tell_held_back(math.inf)
        for logger, handlers, level, propagate in reversed(self._before):
            logger.handlers[:] = handlers
            logger.setLevel(level)
            logger.propagate = propagate
        self._before.clear()
        self._writer.close(timeout)

    def _tell_held_back(self, now: float | None = None) -> None:
        # A record's own clock: logging's.
        for record in self._repeats.over(logging.makeLogRecord({}).created if now is None else now):
            self._handler.emit(record)

    def _install(self, logger: logging.Logger, level: int) -> None:
        self._before.append((logger, logger.handlers[:], logger.level, logger.propagate))
        logger.handlers[:] = [self._handler]
        logger.setLevel(level)
        logger.propagate = False


class _Handler(logging.Handler):
    def __init__(self, writer: LineWriter) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        # Arguments may change before the thread gets to them, so the text is made now.
        record.msg, record.args = record.getMessage(), None
        self._writer.write(record)


class TextLine:
    """A record to `TIME LEVEL event key=value ...`; values with spaces are quoted as JSON strings."""

    def __init__(self) -> None:
        self._stamp = Timestamp()

    def __call__(self, record: logging.LogRecord) -> bytes:
        event, pairs = _parts(record)
        text = "".join(f" {name}={_value(value)}" for name, value in pairs.items())
        return f"{self._stamp(record.created)} {record.levelname} {event}{text}\n".encode(errors="backslashreplace")


class JsonLine:
    """A record to one JSON object a line: time, level, event, then its fields."""

    def __init__(self) -> None:
        self._stamp = Timestamp()

    def __call__(self, record: logging.LogRecord) -> bytes:
        event, pairs = _parts(record)
        head = {"time": self._stamp(record.created), "level": record.levelname, "event": event}
        return codec.encode({**head, **{name: _scalar(value) for name, value in pairs.items()}}) + b"\n"


def _parts(record: logging.LogRecord) -> tuple[str, dict[str, object]]:
    """An event's name and its fields. What others say becomes a field: their sentences are not names."""
    message = _SECRET.sub("[secret]", str(record.msg))
    pairs = dict(record.__dict__.get(FIELDS, {}))
    event = message
    if not _PLAIN.fullmatch(message):
        source = record.name.removeprefix(f"{OURS}.").partition(".")[0]
        event, pairs = source, {"message": message, **pairs}
    if record.exc_info is not None and record.exc_info[0] is not None:
        pairs["exception"] = logging.Formatter().formatException(record.exc_info)
    return event, pairs


def _value(value: object) -> str:
    text = _scalar(value)
    if isinstance(text, str):
        return text if _PLAIN.fullmatch(text) and text.isprintable() else printable(codec.encode(text).decode())
    return codec.encode(text).decode()


def _scalar(value: object) -> object:
    """A value as JSON can say it: numbers and booleans as they are, all else as its text without secrets."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return round(value, 6)
    return _SECRET.sub("[secret]", str(value)).encode(errors="backslashreplace").decode()
