"""The event log: one line an event, and a storm of them is bounded and counted."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import get_args

import pytest

from backends.control.events import EndpointEvent, Kind
from gateway.observe.events import LINES, log_endpoint_event
from gateway.observe.log import GatewayLog, fields
from tests.pace import Watch


def event(kind: Kind = "failed", endpoint: str = "pool-0", **figures: float) -> EndpointEvent:
    return EndpointEvent("pool", endpoint, kind, "not_sent", figures)


def lines(path: Path, name: str) -> list[dict[str, object]]:
    return [line for line in map(json.loads, path.read_text().splitlines()) if line["event"] == name]


def told(path: Path, name: str) -> int:
    """How many events of this name a log knows of, written and held back."""
    found = lines(path, name)
    # A line that only says how many were held back is no event.
    return sum(int(str(line.get("held_back", 0))) + ("reason" in line) for line in found)


def test_every_kind_of_event_has_a_line() -> None:
    assert set(LINES) == set(get_args(Kind))
    assert len({name for name, _ in LINES.values()}) == len(LINES)


@pytest.mark.parametrize("kind", get_args(Kind))
def test_a_line_has_pool_endpoint_reason_and_figures(tmp_path: Path, kind: Kind) -> None:
    log = GatewayLog(str(tmp_path / "log"), form="json")
    log_endpoint_event(
        EndpointEvent("pool", "" if kind == "panic" else "pool-0", kind, "consecutive", {"failures": 5, "seconds": 1.5})
    )
    log.close()
    (line,) = map(json.loads, (tmp_path / "log").read_text().splitlines())
    del line["time"]
    name, level = LINES[kind]
    expected = {"level": logging.getLevelName(level), "event": name, "pool": "pool", "endpoint": "pool-0"}
    if kind == "panic":
        del expected["endpoint"]
    assert line == {**expected, "reason": "consecutive", "failures": 5, "seconds": 1.5}


def test_a_figure_cannot_take_the_place_of_who_it_was(tmp_path: Path) -> None:
    log = GatewayLog(str(tmp_path / "log"), form="json")
    log_endpoint_event(EndpointEvent("pool", "pool-0", "failed", "x", {"endpoint": "other", "reason": "y"}))
    log.close()
    (line,) = lines(tmp_path / "log", "endpoint_failed")
    assert (line["endpoint"], line["reason"]) == ("pool-0", "x")


def test_a_storm_of_10000_events_is_a_bounded_number_of_lines_that_say_how_many_were_held_back(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = GatewayLog(str(path), form="json")
    watch = Watch()
    for number in range(10_000):
        log_endpoint_event(event(endpoint=f"pool-{number % 4}"))
    watch.stop()
    log.close()
    assert len(lines(path, "endpoint_failed")) <= 100
    assert told(path, "endpoint_failed") == 10_000
    assert watch.own < 2, "an event costs 20 us, with a wide margin"


def test_a_storm_at_many_endpoints_is_bounded_too(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = GatewayLog(str(path), form="json")
    for number in range(10_000):
        log_endpoint_event(event(endpoint=f"pool-{number}"))
    log.close()
    assert len(lines(path, "endpoint_failed")) <= 110
    assert told(path, "endpoint_failed") == 10_000


def test_a_storm_of_one_event_or_at_one_endpoint_hides_nobody_elses(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = GatewayLog(str(path), form="json")
    for _ in range(5_000):
        log_endpoint_event(event())
    log_endpoint_event(event("ejected"))
    log_endpoint_event(event(endpoint="pool-1"))
    logging.getLogger("sluice.worker").info("worker_ready", extra=fields(worker="w"))
    log.close()
    assert len(lines(path, "endpoint_ejected")) == len(lines(path, "worker_ready")) == 1
    assert [line["endpoint"] for line in lines(path, "endpoint_failed")].count("pool-1") == 1


async def test_its_end_is_asked_for_once_from_whatever_thread(tmp_path: Path) -> None:
    asked: list[float] = []
    log = GatewayLog(str(tmp_path / "log"), form="json", later=lambda seconds, call: asked.append(seconds))
    for _ in range(100):
        await asyncio.to_thread(log_endpoint_event, event())
    log.close()
    (seconds,) = asked
    assert 9 < seconds <= 10.2
    (last,) = [line for line in lines(tmp_path / "log", "endpoint_failed") if "held_back" in line]
    assert (last["endpoint"], last["held_back"], last["level"]) == ("pool-0", 80, "WARNING")


def test_who_changed_what_is_never_held_back_nor_hidden_by_the_level(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = GatewayLog(str(path), form="json", level="error")
    for _ in range(200):
        logging.getLogger("sluice.audit").info("admin", extra=fields(who="127.0.0.1", what="drain", endpoint="pool-0"))
    log.close()
    assert len(lines(path, "admin")) == 200
