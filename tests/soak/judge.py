"""What must be true after a soak: every error has its excuse and is counted by that excuse's own metric, the counters
equal the log, and nothing is held any more."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from policies.config.settings.routes import RetrySettings
from tests.flow.harness import Series, total
from tests.soak.clients import Seen, Tally
from tests.soak.stage import RETRIES

Line = dict[str, Any]
SHOWN: Final = 20
"""Lines and findings that are printed of each kind."""
_UNMADE: Final = frozenset({"no_endpoint_available", "deadline_exceeded"})
BEFORE: Final = 15
"""Lines of the gateway's log that are printed before the first error without excuse."""
_LISTED: Final = frozenset(map(str, RetrySettings().when))


@dataclass(slots=True)
class Account:
    """The access log, added up. `odd` keeps the lines of answers that were not a whole 200."""

    lines: int = 0
    attempts: int = 0
    retries: int = 0
    resting: int = 0
    """Retries that were granted and never made: the client left, or the time was up, or nobody was there any more."""
    gone: int = 0
    broken: int = 0
    refused: int = 0
    """Lines whose last attempt could have been followed by another: only the budget forbids that."""
    hidden: int = 0
    """The same, of clients that left before they were told."""
    statuses: Counter[int] = field(default_factory=Counter)
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    odd: dict[str, Line] = field(default_factory=dict)

    def add(self, line: Line) -> None:
        trail, left = line["trail"], line["client_gone"] is not None
        self.lines += 1
        self.attempts += line["attempts"]
        self.retries += max(0, line["attempts"] - 1)
        unmade = line["attempts"] > 0 and line["code"] in _UNMADE
        self.resting += unmade or line["client_gone"] == "retry"
        self.gone += left
        self.statuses[line["status"]] += 1
        for endpoint, outcome, _ in trail:
            self.outcomes[endpoint, outcome] += 1
        last = line["outcome"]
        passed = line["first_byte_ms"] is not None and (line["status"] == 200 or left)
        if last in ("broken_off", "too_slow") and passed:
            self.broken += 1
        elif last in _LISTED and not left and not unmade and line["attempts"] <= RETRIES:
            self.refused += 1
        elif left and len(trail) > 0 and last in _LISTED:
            self.hidden += 1
        if not left and (line["status"] != 200 or last != "ok"):
            self.odd[line["request_id"]] = line


def account(path: Path) -> Account:
    """Of an access log. Its trail's length is that of its attempts."""
    found = Account()
    for line in _lines(path):
        assert len(line["trail"]) == line["attempts"], line
        found.add(line)
    return found


def _lines(path: Path) -> Iterator[Line]:
    with path.open("rb") as file:
        for text in file:
            yield json.loads(text)


def excuse(seen: Seen, line: Line | None) -> str | None:
    """Why a client may have got this: broken | passed | budget. None: it may not."""
    if line is None or seen.what in ("wrong", "hung", "lost"):
        return None
    if seen.what == "broken":
        return "broken" if line["outcome"] in ("broken_off", "too_slow") and line["status"] == 200 else None
    if line["outcome"] == "500" or (line["outcome"] == "400" and line["code"] is None):
        return "passed" if str(seen.status) == line["outcome"] and line["code"] is None else None
    if line["outcome"] in _LISTED and 0 < line["attempts"] <= RETRIES and line["code"] not in _UNMADE:
        return "budget"
    return None


def errors(tally: Tally, found: Account, series: Series) -> tuple[Counter[str], list[str]]:
    """How many errors of each excuse clients saw, and what is wrong with the others and with the sums."""
    excused: Counter[str] = Counter()
    wrong: list[str] = []
    for seen in tally.odd:
        why = excuse(seen, found.odd.get(seen.request_id))
        if why is None:
            line = found.odd.get(seen.request_id)
            wrong.append(f"a client had no reason to see {seen}\n    access log: {json.dumps(line)}")
        else:
            excused[why] += 1
    broken, spent = total(series, "streams_broken_total"), total(series, "retry_budget_exhausted_total")
    if broken != found.broken or excused["broken"] > broken:
        wrong.append(f"streams_broken_total {broken:g}, log {found.broken}, clients {excused['broken']}")
    if not found.refused <= spent <= found.refused + found.hidden or excused["budget"] > spent:
        wrong.append(
            f"retry_budget_exhausted_total {spent:g}, log {found.refused} and at most {found.hidden} of clients that "
            f"had left, clients {excused['budget']}"
        )
    return excused, wrong


def before(log: str, moment: str) -> str:
    """The last lines that the gateway's own log had before a moment (RFC 3339 in UTC, to be compared as text)."""
    lines = [line for line in log.splitlines() if line[:24] <= moment]
    return "\n".join(lines[-BEFORE:])


def sums(found: Account, series: Series) -> Iterator[str]:
    """Where counters and log disagree, and what is still held according to the gauges."""
    pairs: list[tuple[str, float, float]] = [
        ("requests_total", total(series, "requests_total"), found.lines),
        ("attempts_total", total(series, "attempts_total"), found.attempts),
        ("client_gone_total", total(series, "client_gone_total"), found.gone),
        ("endpoint_in_flight", total(series, "endpoint_in_flight"), 0),
        ("open_streams", total(series, "open_streams"), 0),
        ("access_log_dropped_total", total(series, "access_log_dropped_total"), 0),
    ]
    for status, count in found.statuses.items():
        pairs.append((f"requests_total code={status}", total(series, "requests_total", code=str(status)), count))
    for (endpoint, outcome), count in found.outcomes.items():
        counted = total(series, "attempts_total", endpoint=endpoint, outcome=outcome)
        pairs.append((f"attempts_total {endpoint} {outcome}", counted, count))
    granted = total(series, "retries_total")
    if not found.retries <= granted <= found.retries + found.resting:
        yield f"retries_total is {granted:g}, made were {found.retries}, at most {found.resting} more were granted"
    for name, counted, true in pairs:
        if counted != true:
            yield f"{name} is {counted:g} and should be {true:g}"


def slope(samples: Sequence[tuple[int, float]]) -> tuple[float, float]:
    """(megabytes per 100,000 requests, its standard error) of (requests, megabytes), by least squares."""
    count = len(samples)
    if count < 3:
        return 0.0, float("inf")
    mean_x, mean_y = (sum(sample[axis] for sample in samples) / count for axis in (0, 1))
    spread = sum((x - mean_x) ** 2 for x, _ in samples)
    if not spread:
        return 0.0, float("inf")
    rise = sum((x - mean_x) * (y - mean_y) for x, y in samples) / spread
    rest = sum((y - mean_y - rise * (x - mean_x)) ** 2 for x, y in samples) / (count - 2)
    return rise * 1e5, (rest / spread) ** 0.5 * 1e5


def shown(wrong: Iterable[str]) -> str:
    """For people: the first of them, and how many more there are."""
    listed = list(wrong)
    rest = [f"... and {len(listed) - SHOWN} more"] if len(listed) > SHOWN else []
    return "\n".join([*listed[:SHOWN], *rest])
