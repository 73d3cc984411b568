"""Medians of the rounds, as a table for a terminal or for RESULTS.md."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

Result = Mapping[str, Any]


@dataclass(slots=True)
class Round:
    """One round: what each load saw without the gateway and through it."""

    direct: dict[str, Result] = field(default_factory=dict)
    through: dict[str, Result] = field(default_factory=dict)
    peak_mb: float = 0.0


def _per(count: str) -> Callable[[Result], float]:
    return lambda result: float(result["cpu"]) / max(1, result[count]) * 1e6


def _rate(count: str) -> Callable[[Result], float]:
    return lambda result: float(result[count]) / float(result["seconds"])


def _value(name: str) -> Callable[[Result], float]:
    return lambda result: float(result[name])


def _busy(result: Result) -> float:
    return float(result["cpu"]) / float(result["seconds"]) * 100


# Load, what, unit, digits, how it is taken from a result, and whether it is one of the gateway alone.
_ROWS: Final[Sequence[tuple[str, str, str, int, Callable[[Result], float], bool]]] = (
    ("json", "JSON: requests", "1/s", 0, _rate("requests"), False),
    ("json", "JSON: CPU a request", "us", 1, _per("requests"), True),
    ("json", "JSON: core in use", "%", 0, _busy, True),
    ("light", "JSON, 1 client: p50", "ms", 3, _value("p50"), False),
    ("light", "JSON, 1 client: p99", "ms", 3, _value("p99"), False),
    ("stream", "streams: events", "1/s", 0, _rate("events"), False),
    ("stream", "streams: CPU an event", "us", 2, _per("events"), True),
    ("stream", "streams: core in use", "%", 0, _busy, True),
    ("stream", "streams: first content p50", "ms", 2, _value("p50"), False),
    ("stream", "streams: first content p99", "ms", 2, _value("p99"), False),
)


def rows(rounds: Sequence[Round]) -> list[tuple[str, str, str, str, str]]:
    """What, unit, direct, through, added: medians over the rounds; `added` is the median of each round's difference."""
    shown = []
    for load, what, unit, digits, take, alone in _ROWS:
        direct = [take(one.direct[load]) for one in rounds]
        through = [take(one.through[load]) for one in rounds]
        added = [after - before for before, after in zip(direct, through, strict=True)]
        shown.append((
            what, unit, "" if alone else _median(direct, digits), _median(through, digits),
            _median(added, digits, sign=True) if unit == "ms" else "",
        ))  # fmt: skip
    shown.append(("memory: peak resident", "MB", "", f"{max(one.peak_mb for one in rounds):.1f}", ""))
    shown.append(("its core was another's, at most", "%", "", f"{_in_line(rounds) * 100:.0f}", ""))
    shown.append(("bodies: as the simulator's", "", "", identity(rounds), ""))
    return shown


def _in_line(rounds: Sequence[Round]) -> float:
    """The worst share of a load in which the gateway waited for a core: above a few percent, tails are not its own."""
    loads = [result for one in rounds for result in one.through.values()]
    return max(float(result["waited"]) / float(result["seconds"]) for result in loads)


def identity(rounds: Sequence[Round]) -> str:
    """`yes` where every body of every load was the same bytes, with and without the gateway."""
    differ = 0
    for load in ("json", "light", "stream"):
        results = [side[load] for one in rounds for side in (one.direct, one.through)]
        differ += sum(int(result["differ"]) for result in results)
        differ += len({result["body"] for result in results}) - 1
    return "yes" if differ == 0 else f"NO ({differ} differ)"


def text(rounds: Sequence[Round]) -> str:
    """Columns of equal width."""
    table = [("", "", "direct", "through", "added"), *rows(rounds)]
    widths = [max(len(row[column]) for row in table) for column in range(5)]
    lines = []
    for row in table:
        left = f"{row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}"
        lines.append("  ".join([left, *(row[at].rjust(widths[at]) for at in (2, 3, 4))]).rstrip())
    return "\n".join(lines) + "\n"


def markdown(rounds: Sequence[Round]) -> str:
    """A table for RESULTS.md."""
    lines = ["| | | direct | through | added |", "|---|---|---:|---:|---:|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows(rounds))]) + "\n"


def _median(values: Sequence[float], digits: int, *, sign: bool = False) -> str:
    return f"{statistics.median(values):{'+' if sign else ''}.{digits}f}"
