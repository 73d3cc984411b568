"""Durations, sizes, counts, rates and numbers, read from their source text and written back as an operator would.

Every reader takes the text as it stands in the file and raises ValueError with a message that says what is wanted.
Digits are ASCII, without underscores, exponents or leading zeros: what looks like one number to one reader of YAML and
like another to the next is refused.
"""

import re
from dataclasses import dataclass
from typing import Any, Final

from policies.config.kind import ScalarKind
from policies.config.mistakes import quoted

_WHOLE = r"(?:0|[1-9][0-9]{0,14})"
_DECIMAL = rf"{_WHOLE}(?:\.[0-9]{{1,9}})?"
_DURATION_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE_UNITS: Final = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_COUNT_UNITS: Final = {"": 1, "k": 1000, "M": 1_000_000}
# A month is 30 days: a rate has a length in seconds, and a calendar has none.
_PERIODS: Final = {"second": 1, "minute": 60, "hour": 3600, "day": 86400, "month": 30 * 86400}
_DURATION = re.compile(rf"({_DECIMAL})(ms|s|m|h|d)")
_SIZE = re.compile(rf"({_WHOLE})(B|KiB|MiB|GiB)")
_COUNT = re.compile(rf"({_WHOLE})([kM]?)")
_RATE = re.compile(rf"({_WHOLE}[kM]?)/(second|minute|hour|day|month)")
_NUMBER = re.compile(_DECIMAL)
_LONGEST: Final = 3650 * 86400.0


@dataclass(frozen=True, slots=True)
class RateValue:
    """Rate: an amount per number of seconds."""

    count: int
    per_seconds: int


def _wanted(phrase: str, text: str) -> ValueError:
    return ValueError(f"expected {phrase}, found {quoted(text)}")


_SECONDS_PHRASE: Final = "a duration such as 250ms, 2s, 10m or 1d"
_SIZE_PHRASE: Final = "a size such as 512B, 64KiB or 16MiB"
_COUNT_PHRASE: Final = "a whole number such as 20, 100k or 5M"
_RATE_PHRASE: Final = "a rate, so many a second, minute, hour, day or month, such as 60/minute or 5M/day"


def read_seconds(text: str) -> float:
    """Seconds of `250ms`, `1.5s`, `10m`, `1d` or `0`; at most ten years."""
    if text == "0":
        return 0.0
    found = _DURATION.fullmatch(text)
    if found is None:
        raise _wanted(_SECONDS_PHRASE, text)
    # Milliseconds are divided, not multiplied by a thousandth, which no float holds.
    number = float(found[1])
    seconds = number / 1000 if found[2] == "ms" else number * _DURATION_UNITS[found[2]]
    if seconds > _LONGEST:
        raise ValueError(f"{text} is longer than ten years")
    return seconds


def write_seconds(seconds: float) -> str:
    """The shortest of the forms that `read_seconds` takes; up to two minutes stay in seconds."""
    if seconds == 0:
        return "0s"
    if seconds % 1:
        return f"{round(seconds * 1000)}ms" if round(seconds * 1000) / 1000 == seconds else f"{seconds:.9f}s"
    for unit in ("d", "h", "m"):
        if seconds > 120 and seconds % _DURATION_UNITS[unit] == 0:
            return f"{seconds / _DURATION_UNITS[unit]:g}{unit}"
    return f"{seconds:.0f}s"


def read_size(text: str) -> int:
    """Bytes of `64KiB`, `16MiB`, `512B` or `0`."""
    if text == "0":
        return 0
    found = _SIZE.fullmatch(text)
    if found is None:
        raise _wanted(_SIZE_PHRASE, text)
    return int(found[1]) * _SIZE_UNITS[found[2]]


def write_size(size: int) -> str:
    for unit in ("GiB", "MiB", "KiB"):
        if size and size % _SIZE_UNITS[unit] == 0:
            return f"{size // _SIZE_UNITS[unit]}{unit}"
    return f"{size}B"


def read_count(text: str) -> int:
    """A whole number, with `k` for thousands and `M` for millions."""
    found = _COUNT.fullmatch(text)
    if found is None:
        raise _wanted(_COUNT_PHRASE, text)
    return int(found[1]) * _COUNT_UNITS[found[2]]


def read_rate(text: str) -> RateValue:
    found = _RATE.fullmatch(text)
    if found is None:
        raise _wanted(_RATE_PHRASE, text)
    return RateValue(read_count(found[1]), _PERIODS[found[2]])


def write_rate(rate: RateValue) -> str:
    unit = next(name for name, seconds in _PERIODS.items() if seconds == rate.per_seconds)
    return f"{rate.count}/{unit}"


def read_number(text: str) -> float:
    """A decimal number, not negative."""
    if not _NUMBER.fullmatch(text):
        raise _wanted("a number such as 3 or 0.5", text)
    return float(text)


def _read_priority(text: str) -> int:
    if not re.fullmatch(r"0|-?[1-9][0-9]{0,5}", text):
        raise _wanted("a whole number such as 0, 10 or -5", text)
    return int(text)


def _tidy(value: float) -> float | int:
    return int(value) if value == int(value) else value


_SECONDS_SCHEMA: Final = {"type": ["string", "integer"], "pattern": rf"^(0|{_DURATION.pattern})$"}
_COUNT_SCHEMA: Final = {"type": ["integer", "string"], "pattern": f"^{_COUNT.pattern}$", "minimum": 0}


def _seconds_above_zero(text: str) -> float:
    seconds = read_seconds(text)
    if seconds == 0:
        raise ValueError("must be longer than 0")
    return seconds


def count_kind(low: int, high: int = 10**15) -> ScalarKind:
    """Whole numbers from `low` to `high`."""

    def read(text: str) -> int:
        count = read_count(text)
        if not low <= count <= high:
            raise ValueError(f"must be {_range(low, high, 10**15)}, found {quoted(text)}")
        return count

    limits: dict[str, Any] = {"minimum": low} | ({"maximum": high} if high < 10**15 else {})
    return ScalarKind(_COUNT_PHRASE, read, {**_COUNT_SCHEMA, **limits})


def number_kind(low: float, high: float = 1e15, *, above: bool = False) -> ScalarKind:
    """Numbers from `low` (or, with `above`, from over it) to `high`."""

    def read(text: str) -> float:
        number = read_number(text)
        if not low <= number <= high or (above and number == low):
            wanted = f"more than {low:g}" + (f" and at most {high:g}" if high < 1e15 else "")
            raise ValueError(f"must be {wanted if above else _range(low, high, 1e15)}, found {quoted(text)}")
        return number

    limits: dict[str, Any] = {"exclusiveMinimum" if above else "minimum": low}
    limits |= {"maximum": high} if high < 1e15 else {}
    return ScalarKind("a number such as 3 or 0.5", read, {"type": "number", **limits}, _tidy)


def _range(low: float, high: float, endless: float) -> str:
    return f"at least {low:g}" if high == endless else f"from {low:g} to {high:g}"


SECONDS: Final = ScalarKind(_SECONDS_PHRASE, read_seconds, _SECONDS_SCHEMA, write_seconds)
# A timeout or interval of nothing ends everything at once or spins; who wants none writes `off`.
SECONDS_ABOVE_0: Final = ScalarKind(_SECONDS_PHRASE, _seconds_above_zero, _SECONDS_SCHEMA, write_seconds)
SIZE: Final = ScalarKind(
    _SIZE_PHRASE, read_size, {"type": ["string", "integer"], "pattern": rf"^(0|{_SIZE.pattern})$"}, write_size
)
RATE: Final = ScalarKind(_RATE_PHRASE, read_rate, {"type": "string", "pattern": f"^{_RATE.pattern}$"}, write_rate)
COUNT: Final = count_kind(0)
COUNT_ABOVE_0: Final = count_kind(1)
PORT: Final = count_kind(1, 65535)
STATUS: Final = count_kind(200, 599)
WEIGHT: Final = number_kind(0, above=True)
SHARE: Final = number_kind(0, 1)
PERCENT: Final = number_kind(0, 100)
PERCENT_ABOVE_0: Final = number_kind(0, 100, above=True)
FACTOR: Final = number_kind(1)
NUMBER: Final = number_kind(0)
PRIORITY: Final = ScalarKind("a whole number such as 0, 10 or -5", _read_priority, {"type": "integer"})
