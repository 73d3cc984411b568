"""What runs out first is what the client is told, and nothing fires early."""

import math
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.deadlines import Deadlines
from gateway.errors import AttemptTimeout, DeadlineExceeded, FirstByteTimeout, GatewayError, IdleTimeout
from policies.settings import Timeouts

TIMES = Timeouts(connect=2.0, first_byte=5.0, idle=3.0, attempt=20.0, total=60.0)


@dataclass
class Bench:
    """A clock that is turned by hand and a connection's timer that only remembers."""

    now: float = 100.0
    limits: list[float | None] = field(default_factory=list)

    def deadlines(self, timeouts: Timeouts = TIMES, *, stream: bool = True, hurry: float | None = None) -> Deadlines:
        return Deadlines(lambda: self.now, self.limits.append, timeouts, started=self.now, stream=stream, hurry=hurry)

    def at(self, now: float, deadlines: Deadlines) -> float | GatewayError:
        self.now = now
        return deadlines.overdue()


def relay(*, stream: bool = True, quiet_since: float = 0.0, held_up: bool = False) -> Any:
    return SimpleNamespace(stream=stream, quiet_since=quiet_since, held_up=held_up)


def test_the_first_content_is_waited_for_from_the_sending_on() -> None:
    bench = Bench()
    times = bench.deadlines()
    times.attempting(100.0)
    times.connecting(100.0)
    times.sent(102.0)
    assert bench.limits == [20.0, 5.0]
    assert bench.at(106.5, times) == pytest.approx(0.5)
    assert type(bench.at(107.0, times)) is FirstByteTimeout


def test_a_plain_answer_runs_under_attempt_alone() -> None:
    bench = Bench()
    times = bench.deadlines(stream=False)
    times.attempting(100.0)
    times.sent(100.0)
    assert bench.limits == [20.0]
    assert bench.at(119.0, times) == pytest.approx(1.0)
    assert type(bench.at(120.0, times)) is AttemptTimeout


def test_a_route_may_time_a_plain_answers_first_byte_too() -> None:
    bench = Bench()
    times = bench.deadlines(Timeouts(first_byte_plain=1.0), stream=False)
    times.attempting(100.0)
    times.sent(100.0)
    assert type(bench.at(101.0, times)) is FirstByteTimeout


def test_a_begun_stream_may_not_stand_still() -> None:
    bench = Bench()
    times = bench.deadlines()
    times.attempting(100.0)
    times.sent(100.0)
    times.relaying(relay(quiet_since=104.0), 104.0)
    assert bench.limits[-1] == 3.0
    assert bench.at(106.0, times) == pytest.approx(1.0)
    assert type(bench.at(107.0, times)) is IdleTimeout


def test_a_stream_that_its_client_does_not_read_does_not_stand_still() -> None:
    bench = Bench()
    times = bench.deadlines()
    times.attempting(100.0)
    times.sent(100.0)
    times.relaying(relay(quiet_since=104.0, held_up=True), 104.0)
    assert bench.at(115.0, times) == pytest.approx(3.0)


def test_a_plain_answer_that_has_begun_may_drip() -> None:
    bench = Bench()
    times = bench.deadlines(stream=False)
    times.attempting(100.0)
    times.sent(100.0)
    times.relaying(relay(stream=False), 104.0)
    assert bench.at(119.0, times) == pytest.approx(1.0)


def test_the_total_deadline_counts_from_the_requests_first_byte_over_all_attempts() -> None:
    bench = Bench()
    times = bench.deadlines()
    for began in (100.0, 120.0, 140.0, 155.0):
        times.attempting(began)
        times.sent(began)
    assert bench.limits[-1] == 5.0
    assert times.left(155.0) == 5.0
    times.resting(155.0)
    assert bench.limits[-1] == 5.0
    assert type(bench.at(160.0, times)) is DeadlineExceeded


@pytest.mark.parametrize(("hurry", "left", "hurried"), [(0.5, 0.5, True), (90.0, 60.0, False), (None, 60.0, False)])
def test_a_client_may_lower_the_deadline_and_never_raise_it(hurry: float | None, left: float, hurried: bool) -> None:
    times = Bench().deadlines(hurry=hurry)
    assert (times.left(100.0), times.hurried) == (left, hurried)


def test_without_timeouts_no_timer_is_set() -> None:
    bench = Bench()
    times = bench.deadlines(Timeouts(first_byte=None, idle=None, attempt=None, total=None))
    times.attempting(100.0)
    times.connecting(100.0)
    times.sent(100.0)
    times.relaying(relay(), 100.0)
    times.resting(100.0)
    assert bench.limits == []
    assert times.left(100.0) is None
    assert bench.at(1e9, times) == math.inf


def test_the_loops_rounding_does_not_cost_a_second_look() -> None:
    bench = Bench()
    times = bench.deadlines()
    times.attempting(100.0)
    times.sent(100.0)
    assert type(bench.at(104.9995, times)) is FirstByteTimeout
