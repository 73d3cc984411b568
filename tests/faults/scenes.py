"""What the tests of faults share: short times, pools that are told exactly what they may do, and attempts as the log
tells of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.fakes.backend import Connection, Request, Script
from tests.fakes.client import Answer
from tests.flow.harness import Running, merged

TICK = 0.05
"""Of the timer wheel: a timeout may be so much late."""
TIMEOUTS = {"connect": "100ms", "first_byte": "150ms", "first_byte_plain": "150ms", "idle": "150ms"}
RETRY = {"backoff": "10ms", "max": "20ms"}


def route(*, retry: Mapping[str, Any] | str | None = None, **timeouts: str) -> dict[str, Any]:
    """A route with short times; `retry` is laid over RETRY, or a word in its place."""
    rule = merged(dict(RETRY), retry or {}) if not isinstance(retry, str) else retry
    return {"timeouts": {**TIMEOUTS, **timeouts}, "retry": rule}


def pool(**settings: Any) -> dict[str, Any]:
    """A policy whose pool takes turns and does nothing but what is named: no probes, ejection, breaker, slow start."""
    off = {"balance": "round_robin", "health": "off", "ejection": "off", "breaker": "off", "slow_start": "off"}
    return {"pools": {"pool": {**off, **settings}}}


def dies(how: str) -> Script:
    """A script that closes without a byte: `rst` or `fin`."""

    async def script(c: Connection, request: Request) -> None:
        c.rst() if how == "rst" else c.fin()

    return script


async def trails(gw: Running) -> list[list[tuple[str, str]]]:
    """Of each request, (endpoint, outcome) of its attempts in their order."""
    return [[(endpoint, outcome) for endpoint, outcome, _ in line["trail"]] for line in await gw.access_lines()]


async def ask_first_at(
    gw: Running, endpoint: str, *, most: int = 8, data: bytes | None = None, **fields: Any
) -> tuple[Answer, dict[str, Any]]:
    """Ask until a request was tried at this endpoint first: its answer and its line in the log.

    The requests before it, which went to others first, must have been answered well.
    """
    for _ in range(most):
        answer = await gw.send(data) if data is not None else await gw.ask(**fields)
        line = (await gw.access_lines())[-1]
        if line["trail"] and line["trail"][0][0] == endpoint:
            return answer, line
        assert (answer.status, answer.end) == (200, "complete"), line
    raise AssertionError(f"{endpoint} was never tried first in {most} requests")


def steps(line: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(endpoint, outcome) of one request's attempts."""
    return [(endpoint, outcome) for endpoint, outcome, _ in line["trail"]]


def state(gw: Running, endpoint: str, metric: str = "endpoint_state") -> str:
    """The one state that an endpoint, or its breaker, is in."""
    series = gw.series()
    labels = [dict(pairs) for (name, pairs), value in series.items() if name == metric and value == 1]
    (found,) = [each["state"] for each in labels if each["endpoint"] == endpoint]
    return found
