"""An engine that hangs while its /health goes on saying 200 is found and left out; one that is busy is not.

What hangs is made to by SIGSTOP to vLLM's engine process; the process that speaks HTTP goes on. Nothing else brings an
endpoint back here than its probes: an ejection lasts longer than the tests.
"""

import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.engines.conftest import House, house_of
from tests.engines.install import Entry
from tests.engines.streams import Stream
from tests.engines.test_leaving import until
from tests.engines.vllm import SLOTS, Worker

pytestmark = [pytest.mark.engine, pytest.mark.timeout(240)]

FIRST_BYTE, IDLE = 3.0, 3.0
HEALTHY_AFTER = 2
# Two engines on two cores that others use too: a health probe that fails twice in a row would be no news.
HEALTH = {
    "every": "250ms",
    "timeout": "1s",
    "unhealthy_after": 3,
    "healthy_after": HEALTHY_AFTER,
    "suspect_every": "100ms",
}
# Six good probes, then three tokens that are waited for in vain, five times `timeout` each.
FOUND_WITHIN = 6 * 0.25 + 3 * 5 * 1.0 + 6.0
# Two tokens, 0.1 s apart; the engine first ends what was asked of it while it stood still.
BACK_WITHIN = 8.0
LONG, SHORT = 7000, 4
OUT = ("endpoint_down", "endpoint_ejected", "breaker_opened")


@pytest.fixture(scope="module")
def quick(cache: Entry, workers: list[Worker], tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A gateway of its own before the same engines, quick to judge."""
    pool = {
        "balance": "round_robin",
        "slow_start": "1s",
        "health": HEALTH,
        "ejection": {"consecutive": 2, "for": "10m", "max_for": "10m"},
    }
    route = {"timeouts": {"first_byte": f"{FIRST_BYTE}s", "idle": f"{IDLE}s"}, "retry": {"retries": 1}}
    with house_of(cache, workers, tmp_path_factory.mktemp("quick"), "gateway-quick.log", pool, route) as house:
        until("the probes have found both", lambda: house.gateway.states() == ["up", "up"], 10)
        yield house


@pytest.fixture(autouse=True)
def _idle(quick: House) -> None:
    until("nothing of before is left", lambda: quick.busy() == 0, 5)


def _in_rotation(house: House) -> list[bool]:
    """Of each endpoint. One whose last probe failed is suspect and stays: on a machine that is busy that is nothing."""
    return [state in ("up", "suspect") for state in house.gateway.states()]


def _mark() -> str:
    return uuid.uuid4().hex


def _asked_once(house: House) -> int:
    """One short request, answered at once; the number of the engine that answered."""
    with Stream(house.through, _mark(), SHORT) as stream:
        end = stream.end(30)
        assert end.complete and end.headers["x-sluice-attempts"] == "1", (end.headers, end.body)
        return house.went_to(stream.mark)[0]


def _given(house: House, number: int) -> int:
    """Answers of an engine to the gateway's own requests for a token."""
    return sum(one.answer is not None and one.answer.whole for one in house.asked(number))


def _is_back(house: House, number: int, since: int) -> None:
    """It is well again, by tokens that it has given since there were `since`, and gets requests again."""
    until("it is back", lambda: house.gateway.states()[number] == "up", BACK_WITHIN)
    assert _given(house, number) - since >= HEALTHY_AFTER
    until("it is used again", lambda: _asked_once(house) == number, 10)


def _logged(house: House, event: str, what: str) -> None:
    """The log says so of the first engine; a thread writes it, a little later."""
    until("it is logged", lambda: any(what in line for line in house.gateway.said(event, 0)), 5)


def _still(stream: Stream) -> None:
    """Wait until what an engine had said before it stood still is here."""

    def quiet() -> bool:
        before = stream.size
        time.sleep(0.3)
        return stream.size == before

    until("nothing comes any more", quiet, 5)


def test_one_that_is_busy_with_our_streams_is_never_taken_for_dead(quick: House) -> None:
    gateway = quick.gateway
    with ExitStack() as stack:
        long = [stack.enter_context(Stream(quick.through, _mark(), LONG)) for _ in range(2 * SLOTS)]
        until("all slots are taken", lambda: all(stream.began for stream in long), 15)
        on = [quick.went_to(stream.mark)[0] for stream in long]
        assert sorted(on) == [0] * SLOTS + [1] * SLOTS
        asked = [len(quick.asked(number)) for number in (0, 1)]
        probes = gateway.metric("sluice_probes_total")

        # There is no room anywhere: it waits at one, then at the other, and is told so.
        told = stack.enter_context(Stream(quick.through, _mark(), SHORT)).end(2 * FIRST_BYTE + 5)
        assert (told.status, told.error) == (504, "first_byte_timeout")
        assert told.headers["x-sluice-attempts"] == "2"
        assert _in_rotation(quick) == [True, True]

        # There is room at the other by the time that it has waited at one.
        waiting = stack.enter_context(Stream(quick.through, _mark(), SHORT))
        until("it waits", lambda: len(quick.went_to(waiting.mark)) == 1, 5)
        at = quick.went_to(waiting.mark)[0]
        long[on.index(1 - at)].leave()
        end = waiting.end(FIRST_BYTE + 10)
        assert end.complete and end.headers["x-sluice-attempts"] == "2"
        assert quick.went_to(waiting.mark) == sorted([at, 1 - at])
        assert _in_rotation(quick) == [True, True]
        sizes = {stream: stream.size for stream in long if not stream.left}
        assert len(sizes) == len(long) - 1
        until("the others go on", lambda: all(stream.size > size for stream, size in sizes.items()), 5)

        # While it works for us no token is asked for; its health is.
        assert [len(quick.asked(number)) for number in (0, 1)] == asked
        assert gateway.metric("sluice_probes_total") > probes + 6
    assert gateway.metric("sluice_timeouts_total", 'kind="first_byte"') == 3
    assert gateway.metric("sluice_ejections_total") == 0
    assert not any(gateway.said(event, number) for event in OUT for number in (0, 1))
    assert gateway.metric("sluice_breaker_state", 'state="closed"') == 2


def test_one_that_is_busy_with_others_is_never_taken_for_dead(quick: House) -> None:
    """Another gateway fills it, so our token waits; its own count of tokens says that it works."""
    asked = len(quick.asked(0))
    with ExitStack() as stack:
        long = [stack.enter_context(Stream(quick.direct, _mark(), LONG)) for _ in range(SLOTS)]
        until("all slots are taken", lambda: all(stream.began for stream in long), 15)
        until("it was asked in vain often enough", lambda: len(quick.asked(0)) - asked >= 4, 2 * FOUND_WITHIN)
        assert not any(stream.left for stream in long)
        assert _in_rotation(quick) == [True, True]
    assert not quick.gateway.said("endpoint_down", 0)


def test_one_that_hangs_under_load_costs_no_request_that_had_not_begun(quick: House) -> None:
    gateway = quick.gateway
    with ExitStack() as stack:
        long = [stack.enter_context(Stream(quick.through, _mark(), LONG)) for _ in range(2)]
        until("both have begun", lambda: all(stream.began for stream in long), 10)
        on = [quick.went_to(stream.mark)[0] for stream in long]
        assert sorted(on) == [0, 1]
        broken, other = (long[on.index(number)] for number in (0, 1))
        with quick.workers[0].hanging():
            _still(broken)
            began = time.monotonic()
            short = [stack.enter_context(Stream(quick.through, _mark(), SHORT)) for _ in range(6)]
            ejected = until("it is ejected", lambda: gateway.metric("sluice_ejections_total") == 1, FIRST_BYTE + 3)
            assert ejected >= FIRST_BYTE - 0.5
            assert (gateway.states()[0], _in_rotation(quick)) == ("ejected", [False, True])
            ends = [stream.end(FIRST_BYTE + 10) for stream in short]
            assert all(end.complete for end in ends), [(end.status, end.body) for end in ends]
            went = [quick.went_to(stream.mark) for stream in short]
            assert sorted(went) == [[0, 1]] * 3 + [[1]] * 3
            moved = [stream for stream, numbers in zip(short, went, strict=True) if numbers == [0, 1]]
            assert all(stream.began is not None and stream.began - began >= FIRST_BYTE - 0.5 for stream in moved)
            told = broken.end(IDLE + 5)
            assert told.status == 200 and told.error == "idle_timeout"
            assert not told.framed and b"[DONE]" not in told.body
            size = other.size
            assert [_asked_once(quick) for _ in range(4)] == [1] * 4
            until("the other stream goes on", lambda: other.size > size, 5)
            _logged(quick, "endpoint_ejected", " reason=consecutive ")
            given = _given(quick, 0)
        _is_back(quick, 0, given)


def test_one_that_hangs_is_found_while_nobody_asks_for_anything(quick: House) -> None:
    gateway, worker = quick.gateway, quick.workers[0]
    ejections = gateway.metric("sluice_ejections_total")
    # On a machine that is busy with other things the other engine may have had its moment before.
    others = sum(len(gateway.said(event, 1)) for event in OUT)
    with worker.hanging():
        until("it is down", lambda: gateway.states()[0] == "down", FOUND_WITHIN)
        assert worker.health() == "200"
        _logged(quick, "endpoint_down", 'reason="accepts, but gives no token: ')
        assert [_asked_once(quick) for _ in range(6)] == [1] * 6
        assert (gateway.states()[0], _in_rotation(quick)) == ("down", [False, True])
        given = _given(quick, 0)
    _is_back(quick, 0, given)
    _logged(quick, "endpoint_returned", 'reason="gives tokens again"')
    assert gateway.metric("sluice_ejections_total") == ejections, "its probes have found it, not our requests"
    assert sum(len(gateway.said(event, 1)) for event in OUT) == others
