"""What runs out first is what the client is told, and nothing fires early."""

from types import SimpleNamespace
from typing import Any

import pytest

from gateway.errors import AttemptTimeout, DeadlineExceeded, FirstByteTimeout, IdleTimeout
from gateway.exchange import AttemptState, Phase
from gateway.timeouts import overdue
from policies.config.settings import TimeoutSettings

TIMES = TimeoutSettings(connect=2.0, first_byte=5.0, idle=3.0, attempt=20.0, total=60.0)
STREAM = {"stream": True, "reading_paused": False, "quiet_since": 0.0}


def exchange(
    phase: str, *, timeouts: TimeoutSettings = TIMES, stream: bool = True, relay: Any = None, **facts: Any
) -> Any:  # fmt: skip
    """An exchange that began at 100.0, with its one attempt."""
    attempt = AttemptState(100.0)
    attempt.began_at = attempt.dispatched_at = 100.0
    attempt.relay = relay
    attempt.enter(Phase(phase))
    for name, value in facts.items():
        assert hasattr(AttemptState, name), name
        setattr(attempt, name, value)
    return SimpleNamespace(started=100.0, total=timeouts.total, timeouts=timeouts, stream=stream, attempt=attempt)


def relay(**facts: Any) -> Any:
    return SimpleNamespace(**{**STREAM, **facts})


def test_the_first_content_is_waited_for_from_the_sending_on() -> None:
    waits = exchange("first_byte", dispatched_at=102.0)
    assert overdue(waits, 106.5) == pytest.approx(0.5)
    assert type(overdue(waits, 107.0)) is FirstByteTimeout


def test_a_connection_being_made_has_a_timeout_of_its_own() -> None:
    assert overdue(exchange("connect", dispatched_at=None), 119.0) == pytest.approx(1.0)


def test_a_plain_answer_runs_under_attempt_alone() -> None:
    waits = exchange("first_byte", stream=False)
    assert overdue(waits, 119.0) == pytest.approx(1.0)
    assert type(overdue(waits, 120.0)) is AttemptTimeout


def test_a_route_may_time_a_plain_answers_first_byte_too() -> None:
    waits = exchange("first_byte", stream=False, timeouts=TimeoutSettings(first_byte_plain=1.0))
    assert type(overdue(waits, 101.0)) is FirstByteTimeout


def test_a_begun_stream_may_not_stand_still() -> None:
    begun = exchange("stream", relay=relay(quiet_since=104.0))
    assert overdue(begun, 106.0) == pytest.approx(1.0)
    assert type(overdue(begun, 107.0)) is IdleTimeout


def test_a_stream_that_its_client_does_not_read_does_not_stand_still() -> None:
    assert overdue(exchange("stream", relay=relay(quiet_since=104.0, reading_paused=True)), 115.0) == pytest.approx(3.0)


def test_a_plain_answer_that_has_begun_may_drip() -> None:
    begun = exchange("stream", stream=False, relay=relay(stream=False))
    assert overdue(begun, 119.0) == pytest.approx(1.0)


def test_the_total_deadline_counts_from_the_requests_first_byte_over_all_attempts() -> None:
    last = exchange("first_byte", began_at=157.0, dispatched_at=157.0)
    assert overdue(last, 158.0) == pytest.approx(2.0)
    assert type(overdue(last, 160.0)) is DeadlineExceeded


def test_between_two_attempts_only_the_total_deadline_counts() -> None:
    assert overdue(exchange("retry"), 130.0) == pytest.approx(30.0)
    assert type(overdue(exchange("retry"), 160.0)) is DeadlineExceeded


@pytest.mark.parametrize("phase", ["connect", "first_byte", "stream", "retry"])
def test_without_timeouts_nothing_is_ever_over(phase: str) -> None:
    unlimited = TimeoutSettings(first_byte=None, idle=None, attempt=None, total=None)
    assert overdue(exchange(phase, timeouts=unlimited, relay=relay()), 1e9) is None


def test_the_loops_rounding_does_not_cost_a_second_look() -> None:
    assert type(overdue(exchange("first_byte"), 104.9995)) is FirstByteTimeout
