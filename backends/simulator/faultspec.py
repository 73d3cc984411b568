"""The fields of each kind of fault: read strictly, so that a test that misspells one does not pass by accident."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from backends.simulator.faults import Fault, FaultError
from backends.simulator.settings import duration


def parse(given: object) -> Fault:
    """A fault from its JSON object; raises FaultError."""
    if not isinstance(given, Mapping):
        raise FaultError(f'a fault is an object like {{"kind": "reset_before"}}, not {given!r}')
    fields = dict(given)
    kind = fields.pop("kind", None)
    if not isinstance(kind, str) or kind not in _KINDS:
        raise FaultError(f"kind: no fault {kind!r} (known: {', '.join(_KINDS)})")
    known = _KINDS[kind] if kind in ("refuse", "freeze") else _KINDS[kind] | _COMMON
    unknown = sorted(set(fields) - set(known))
    if unknown:
        raise FaultError(f"{kind}.{unknown[0]}: no such field (known: {', '.join(known)})")
    read = {name: _read(kind, name, how, fields) for name, how in known.items()}
    common = {name: read.pop(name) for name in _COMMON if name in read}
    return Fault(kind, read, **common)  # type: ignore[arg-type] # each was checked by its reader


Reader = Callable[[object], object]


@dataclass(frozen=True, slots=True)
class _Field:
    read: Reader
    default: object = None
    required: bool = False


def _read(kind: str, name: str, how: _Field, fields: dict[str, object]) -> object:
    if name not in fields:
        if how.required:
            raise FaultError(f"{kind}.{name}: is needed")
        return how.default
    if fields[name] is None and not how.required:
        return how.default
    try:
        return how.read(fields[name])
    except ValueError as error:
        raise FaultError(f"{kind}.{name}: {error}") from None


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"must be a number, not {value!r}")
    return float(value)


def _seconds(value: object) -> float:
    seconds = duration(value) if isinstance(value, str) else _number(value)
    if not 0 <= seconds <= 86400:
        raise ValueError(f"must be between 0 and a day, not {value!r}")
    return seconds


def _whole(low: int | None, high: int | None = None) -> Reader:
    def read(value: object) -> object:
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"must be a whole number, not {value!r}")
        if (low is not None and value < low) or (high is not None and value > high):
            raise ValueError(
                f"must be {f'at least {low}' if high is None else f'between {low} and {high}'}, not {value}"
            )
        return value

    return read


def _share(value: object) -> object:
    share = _number(value)
    if not 0 <= share <= 1:
        raise ValueError(f"must be between 0 and 1, not {value!r}")
    return share


def _one_of(*words: str) -> Reader:
    def read(value: object) -> object:
        if value not in words:
            raise ValueError(f"must be one of {', '.join(words)}, not {value!r}")
        return value

    return read


def _text(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError(f"must be a text, not {value!r}")
    return value


def _header(value: object) -> object:
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else _text(value)
    if not isinstance(text, str) or not text.isascii() or not text.isprintable():
        raise ValueError(f"must be printable ASCII, not {value!r}")
    return text


def _bytes(value: object) -> object:
    text = _text(value)
    try:
        str(text).encode("latin-1")
    except UnicodeEncodeError:
        raise ValueError("must be Latin-1: a character is a byte") from None
    return text


def _path(value: object) -> object:
    text = _text(value)
    if not str(text).startswith(("/", "*")):
        raise ValueError(f"must be a path like /v1/*, not {value!r}")
    return text


def _truth(value: object) -> object:
    if not isinstance(value, bool):
        raise ValueError(f"must be true or false, not {value!r}")
    return value


def _nonzero(value: object) -> object:
    number = _whole(None)(value)
    if number == 0:
        raise ValueError("must not be 0")
    return number


_COMMON = {
    "match": _Field(_path),
    "times": _Field(_whole(1)),
    "probability": _Field(_share, 1.0),
    "seed": _Field(_whole(0), 0),
}
_AT = _whole(0)
_AFTER = _Field(_seconds, 0.0)
_KINDS: dict[str, dict[str, _Field]] = {
    "reset_before": {"after": _AFTER},
    "reset_at": {"at": _Field(_AT, required=True)},
    "close_at": {"at": _Field(_AT)},
    "stall": {
        "where": _Field(_one_of("head", "content", "event"), "head"),
        "after": _Field(_whole(0), 0),
        "for": _Field(_seconds),
    },
    "drip": {
        "bytes": _Field(_whole(1), 1),
        "every": _Field(_seconds, 0.1),
        "part": _Field(_one_of("head", "body", "all"), "body"),
    },
    "wrong_length": {"by": _Field(_nonzero, required=True)},
    "status": {
        "code": _Field(_whole(200, 599), required=True),
        "retry_after": _Field(_header),
        "body": _Field(_text),
        "after": _AFTER,
    },
    "error_event": {"after": _Field(_whole(0), 0), "code": _Field(_whole(400, 599), 500), "done": _Field(_truth, True)},
    "raw": {"text": _Field(_bytes, required=True), "then": _Field(_one_of("close", "reset", "keep"), "close")},
    "refuse": {"for": _Field(_seconds, required=True)},
    "freeze": {"for": _Field(_seconds)},
}
KINDS = tuple(_KINDS)
