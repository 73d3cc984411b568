"""Faults are set, shown and ended over HTTP; what can't be read is refused as a whole, with a sentence that says
what is wrong.
"""

import json
from typing import Any

import pytest

from backends.simulator.faultspec import KINDS
from backends.simulator.server import Simulator
from tests.backends.simulator.raw import HI, ask

FAULTS = "/simulator/faults"


async def test_faults_are_set_shown_and_ended(sim: Simulator) -> None:
    set_ = await ask(sim.port, [{"kind": "status", "code": 503, "times": 2}, {"kind": "drip"}], FAULTS)
    assert set_.status == 200 and [fault["kind"] for fault in set_.json["faults"]] == ["status", "drip"]
    assert (await ask(sim.port, HI)).status == 503
    shown = (await ask(sim.port, None, FAULTS, "GET")).json["faults"][0]
    assert (shown["id"], shown["times"], shown["taken"]) == (1, 1, 1)
    ended = await ask(sim.port, None, FAULTS, "DELETE")
    assert ended.json == {"faults": []}
    assert (await ask(sim.port, HI)).status == 200


async def test_freeze_ends_by_itself_or_by_delete(sim: Simulator) -> None:
    await ask(sim.port, [{"kind": "freeze", "for": "100ms"}], FAULTS)
    assert (await ask(sim.port, HI)).status == 200
    assert (await ask(sim.port, None, FAULTS, "GET")).json["faults"] == []


async def test_state_says_what_goes_on(sim: Simulator) -> None:
    await ask(sim.port, HI)
    state = (await ask(sim.port, None, "/simulator/state", "GET")).json
    assert (state["running"], state["waiting"], state["received"], state["finished"]["stop"]) == (0, 0, 1, 1)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (b"{", "must be a JSON list"),
        ({"kind": "drip"}, "must be a JSON list"),
        ([5], "[0] a fault is an object"),
        ([{}], "[0] kind: no fault None"),
        ([{"kind": "nope"}], "known: reset_before"),
        ([{"kind": "drip"}, {"kind": "reset_at"}], "[1] reset_at.at: is needed"),
        ([{"kind": "reset_at", "at": -1}], "at least 0"),
        ([{"kind": "reset_at", "at": "5"}], "a whole number"),
        ([{"kind": "reset_at", "at": True}], "a whole number"),
        ([{"kind": "drip", "every": "fast"}], "drip.every: 'fast' is not a duration"),
        ([{"kind": "drip", "speed": 1}], "drip.speed: no such field (known: bytes, every, part"),
        ([{"kind": "stall", "where": "tail"}], "must be one of head, content, event"),
        ([{"kind": "stall", "for": "90000s"}], "between 0 and a day"),
        ([{"kind": "status"}], "status.code: is needed"),
        ([{"kind": "status", "code": 99}], "between 200 and 599"),
        ([{"kind": "status", "code": 503, "retry_after": "a\r\nx: y"}], "printable ASCII"),
        ([{"kind": "status", "code": 503, "times": 0}], "at least 1"),
        ([{"kind": "status", "code": 503, "probability": 2}], "between 0 and 1"),
        ([{"kind": "status", "code": 503, "match": "v1"}], "a path like"),
        ([{"kind": "wrong_length", "by": 0}], "must not be 0"),
        ([{"kind": "raw", "text": "é🙂"}], "Latin-1"),
        ([{"kind": "raw", "text": "x", "then": "run"}], "close, reset, keep"),
        ([{"kind": "error_event", "done": 1}], "true or false"),
        ([{"kind": "refuse"}], "refuse.for: is needed"),
        ([{"kind": "refuse", "for": "1s", "times": 2}], "refuse.times: no such field"),
        ([{"kind": "freeze", "match": "/x"}], "freeze.match: no such field"),
    ],
)
async def test_bad_fault_is_400_and_none_of_the_list_is_set(sim: Simulator, given: Any, said: str) -> None:
    answer = await ask(sim.port, given, FAULTS)
    assert answer.status == 400
    assert said in answer.json["error"]
    assert (await ask(sim.port, None, FAULTS, "GET")).json == {"faults": []}


@pytest.mark.parametrize(("method", "path", "status"), [("PUT", FAULTS, 405), ("GET", "/simulator/nope", 404)])
async def test_other_methods_and_paths_are_refused(sim: Simulator, method: str, path: str, status: int) -> None:
    assert (await ask(sim.port, None, path, method)).status == status


def test_every_kind_stands_in_the_docs() -> None:
    from backends.simulator import faults

    assert faults.__doc__ is not None
    for kind in KINDS:
        assert f"\n    {kind} " in faults.__doc__


async def test_shown_fault_can_be_posted_again(sim: Simulator) -> None:
    await ask(sim.port, [{"kind": "status", "code": 503, "retry_after": 5, "after": "50ms"}], FAULTS)
    (row,) = (await ask(sim.port, None, FAULTS, "GET")).json["faults"]
    again = {name: value for name, value in row.items() if name not in ("id", "taken")}
    assert (await ask(sim.port, json.dumps([again]).encode(), FAULTS)).status == 200
