"""The breaker by DESIGN rule 11: what opens it, for how long, who may probe, and what closes it."""

import gc
import subprocess
import sys

import pytest

from policies.config.settings import BreakerSettings
from policies.resilience.breaker import CircuitBreaker

SETTINGS = BreakerSettings(failures=3, open_for=10.0, max_open_for=60.0, probes=2)


def opened(settings: BreakerSettings = SETTINGS, now: float = 0.0, *, last_closed: bool = False) -> CircuitBreaker:
    breaker = CircuitBreaker(settings)
    trip(breaker, settings, now, last_closed=last_closed)
    return breaker


def trip(breaker: CircuitBreaker, settings: BreakerSettings, now: float, *, last_closed: bool = False) -> None:
    told = [
        breaker.record_outcome(breaker.permit(now), True, now, last_closed=last_closed)
        for _ in range(settings.failures)
    ]
    assert told == [None] * (settings.failures - 1) + ["open"]


def closed_by_probes(breaker: CircuitBreaker, now: float) -> None:
    told = [breaker.record_outcome(breaker.permit(now), False, now) for _ in range(SETTINGS.probes)]
    assert told == [None] * (SETTINGS.probes - 1) + ["closed"]


def fail_probe(breaker: CircuitBreaker, now: float, *, last_closed: bool = False) -> float:
    """One failed probe as soon as one is let through; for how long the breaker is open then."""
    permit = breaker.permit(now + breaker.retry_in(now))
    assert permit is not None
    again = now + breaker.retry_in(now)
    assert breaker.record_outcome(permit, True, again, last_closed=last_closed) == "open"
    return breaker.retry_in(again)


def test_so_many_failures_in_a_row_open_it() -> None:
    breaker = opened(now=5.0)
    assert breaker.state(5.0) == breaker.state(14.9) == "open"
    assert not breaker.available(14.9)
    assert breaker.permit(14.9) is None
    assert breaker.retry_in(7.0) == 8.0


def test_a_success_ends_the_row() -> None:
    breaker = CircuitBreaker(SETTINGS)
    for _ in range(10):
        breaker.record_outcome(breaker.permit(0), True, 0)
        breaker.record_outcome(breaker.permit(0), True, 0)
        breaker.record_outcome(breaker.permit(0), False, 0)
    assert breaker.state(0) == "closed"


def test_what_is_nobodys_fault_neither_opens_nor_ends_the_row() -> None:
    breaker = CircuitBreaker(SETTINGS)
    for failed in (True, None, True, None, None):
        assert breaker.record_outcome(breaker.permit(0), failed, 0) is None
    assert breaker.record_outcome(breaker.permit(0), True, 0) == "open"


def test_an_attempt_from_before_the_breaker_was_made_counts_until_it_opens() -> None:
    breaker = CircuitBreaker(SETTINGS)
    assert [breaker.record_outcome(None, True, 0) for _ in range(3)] == [None, None, "open"]
    assert breaker.record_outcome(None, False, 10.0) is None
    assert breaker.state(10.0) == "half_open"
    assert breaker.record_outcome(None, True, 10.0) is None
    assert breaker.state(10.0) == "half_open"


def test_when_its_time_is_over_it_lets_so_many_probes_through_and_no_more() -> None:
    breaker = opened()
    assert breaker.state(10.0) == "half_open"
    assert breaker.retry_in(10.0) == 0.0
    first, second = breaker.permit(10.0), breaker.permit(10.0)
    assert first is not None and second is not None and first != second
    assert not breaker.available(10.0)
    assert breaker.permit(10.0) is None


def test_probes_that_succeed_in_a_row_close_it() -> None:
    breaker = opened()
    closed_by_probes(breaker, 10.0)
    assert breaker.state(10.0) == "closed"
    assert all(breaker.permit(10.0) is not None for _ in range(100))


def test_one_probe_that_fails_opens_it_again() -> None:
    breaker = opened()
    first, second = breaker.permit(10.0), breaker.permit(10.0)
    assert breaker.record_outcome(first, False, 11.0) is None
    assert breaker.record_outcome(second, True, 11.0) == "open"
    assert breaker.permit(11.0) is None


def test_a_probe_whose_client_left_frees_its_lease_and_decides_nothing() -> None:
    breaker = opened()
    for _ in range(100):
        held = [breaker.permit(10.0) for _ in range(SETTINGS.probes)]
        assert breaker.permit(10.0) is None
        assert [breaker.record_outcome(permit, None, 10.0) for permit in held] == [None] * SETTINGS.probes
    assert breaker.state(10.0) == "half_open"
    closed_by_probes(breaker, 10.0)


def test_a_lease_counts_once() -> None:
    breaker = opened()
    permit = breaker.permit(10.0)
    breaker.permit(10.0)
    breaker.record_outcome(permit, None, 10.0)
    breaker.record_outcome(permit, None, 10.0)
    assert breaker.record_outcome(permit, True, 10.0) is None
    assert breaker.state(10.0) == "half_open"
    assert breaker.permit(10.0) is not None
    assert breaker.permit(10.0) is None


@pytest.mark.parametrize("failed", [True, False, None])
def test_late_outcomes_change_nothing(failed: bool | None) -> None:
    """Of attempts that began while it was closed, of probes of an earlier opening, of an earlier closing."""
    breaker = CircuitBreaker(SETTINGS)
    before = [breaker.permit(0) for _ in range(10)]
    trip(breaker, SETTINGS, 0)
    probe, other = breaker.permit(10.0), breaker.permit(10.0)
    late = [*before, probe]
    breaker.record_outcome(other, True, 10.0)
    assert [breaker.record_outcome(permit, failed, 11.0) for permit in late] == [None] * 11
    assert breaker.state(11.0) == "open"
    assert breaker.state(30.0) == "half_open"
    assert [breaker.record_outcome(permit, failed, 30.0) for permit in late] == [None] * 11
    closed_by_probes(breaker, 30.0)
    assert [breaker.record_outcome(permit, failed, 31.0) for permit in late] == [None] * 11
    assert breaker.state(31.0) == "closed"


def test_open_time_doubles_up_to_its_maximum() -> None:
    breaker = opened()
    now, lengths = 0.0, [breaker.retry_in(0.0)]
    for _ in range(5):
        now += breaker.retry_in(now)
        lengths.append(fail_probe(breaker, now))
    assert lengths == [10.0, 20.0, 40.0, 60.0, 60.0, 60.0]


def test_an_endpoint_that_breaks_right_after_closing_is_open_for_longer() -> None:
    breaker = opened()
    closed_by_probes(breaker, 10.0)
    trip(breaker, SETTINGS, 19.9)
    assert breaker.retry_in(19.9) == 20.0


def test_after_it_was_closed_as_long_as_it_was_open_all_is_forgiven() -> None:
    breaker = opened()
    closed_by_probes(breaker, 10.0)
    trip(breaker, SETTINGS, 20.0)
    assert breaker.retry_in(20.0) == 10.0


def test_the_last_closed_breaker_opens_for_one_second_first_and_grows_to_open_for() -> None:
    breaker = opened(last_closed=True)
    now, lengths = 0.0, [breaker.retry_in(0.0)]
    for _ in range(5):
        now += breaker.retry_in(now)
        lengths.append(fail_probe(breaker, now, last_closed=True))
    assert lengths == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]


def test_one_that_was_the_last_is_an_ordinary_one_when_another_has_closed() -> None:
    breaker = opened(last_closed=True)
    assert fail_probe(breaker, 1.0) == 10.0
    assert fail_probe(breaker, 11.0) == 20.0


def test_when_all_are_open_none_waits_longer_than_open_for() -> None:
    breaker = opened()
    assert fail_probe(breaker, 10.0) == 20.0
    assert fail_probe(breaker, 30.0, last_closed=True) == 10.0


@pytest.mark.parametrize(("open_for", "last_closed"), [(0.2, True), (0.2, False)])
def test_an_open_for_below_a_second_is_kept(open_for: float, last_closed: bool) -> None:
    settings = BreakerSettings(failures=3, open_for=open_for)
    assert opened(settings, last_closed=last_closed).retry_in(0.0) == open_for


def test_max_open_for_below_open_for_is_the_maximum_all_the_same() -> None:
    assert opened(BreakerSettings(failures=3, open_for=10.0, max_open_for=5.0)).retry_in(0.0) == 5.0


def test_good_health_probes_let_the_breakers_own_probes_through_early() -> None:
    breaker = opened()
    breaker.half_open(1.0)
    assert breaker.state(1.0) == "half_open"
    closed_by_probes(breaker, 1.0)


def test_good_health_probes_change_nothing_that_is_not_open() -> None:
    breaker = CircuitBreaker(SETTINGS)
    breaker.half_open(0.0)
    assert breaker.state(0.0) == "closed"
    trip(breaker, SETTINGS, 0.0)
    held = [breaker.permit(10.0), breaker.permit(10.0)]
    breaker.half_open(10.0)
    assert breaker.permit(10.0) is None
    assert [breaker.record_outcome(permit, False, 10.0) for permit in held] == [None, "closed"]


def test_it_may_be_forgotten_when_nothing_of_it_would_be_missed() -> None:
    breaker = CircuitBreaker(SETTINGS)
    assert breaker.idle()
    breaker.record_outcome(breaker.permit(0), True, 0)
    assert not breaker.idle()
    breaker.record_outcome(breaker.permit(0), False, 0)
    assert breaker.idle()
    trip(breaker, SETTINGS, 0.0)
    closed_by_probes(breaker, 10.0)
    breaker.record_outcome(breaker.permit(11.0), False, 11.0)
    assert not breaker.idle()
    breaker.record_outcome(breaker.permit(20.0), False, 20.0)
    assert breaker.idle()


def test_permits_of_a_breaker_that_was_forgotten_are_as_good_as_none() -> None:
    """Its probes are of an opening long ago; what it let through while it was closed counts until this one opens."""
    old = opened()
    late = old.permit(10.0)
    old.record_outcome(old.permit(10.0), False, 10.0)
    old.record_outcome(old.permit(10.0), False, 10.0)
    begun = [old.permit(11.0) for _ in range(4)]
    breaker = CircuitBreaker(SETTINGS)
    assert breaker.record_outcome(late, True, 12.0) is None
    assert [breaker.record_outcome(permit, True, 12.0) for permit in begun] == [None, None, "open", None]
    probe = breaker.permit(22.0)
    for permit in [late, *begun]:
        assert breaker.record_outcome(permit, True, 22.0) is None
    breaker.record_outcome(probe, None, 22.0)
    closed_by_probes(breaker, 22.0)


def test_a_permit_of_a_closed_breaker_is_made_once() -> None:
    breaker = CircuitBreaker(SETTINGS)
    assert breaker.permit(0) is breaker.permit(1)


def test_failures_leave_no_garbage() -> None:
    breaker = CircuitBreaker(BreakerSettings(failures=10**9))
    breaker.record_outcome(breaker.permit(0), True, 0)
    gc.collect()
    gc.disable()
    try:
        for _ in range(100):
            breaker.record_outcome(breaker.permit(0), True, 0)
        assert gc.collect() == 0
    finally:
        gc.enable()


def loaded_by(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    return done.stdout.strip()


def test_redis_and_tornado_are_not_loaded_and_can_be_later() -> None:
    loads = "import sys, policies.resilience.breaker"
    code = f"{loads}; print([n for n in ('redis', 'tornado') if n in sys.modules]); import redis"
    assert loaded_by(code) == "[]"


def test_a_redis_that_is_loaded_stays_loaded() -> None:
    code = "import redis, sys, policies.resilience.breaker; print(sys.modules['redis'] is redis)"
    assert loaded_by(code) == "True"


def test_a_last_closed_breaker_that_is_forgiven_opens_for_one_second_again() -> None:
    breaker = opened(last_closed=True)
    closed_by_probes(breaker, 1.0)
    trip(breaker, SETTINGS, 1000.0, last_closed=True)
    assert breaker.retry_in(1000.0) == 1.0
