"""The state machine of one child: events and times in, actions and states out."""

import pytest

from backends.workers.process import RestartRules, WorkerAction, WorkerProcess, WorkerState

CARE = RestartRules(start_timeout=10.0, backoff=1.0, max_backoff=8.0, drain=5.0, kill_after=2.0)


def process(chance: float = 1.0) -> WorkerProcess:
    return WorkerProcess(CARE, lambda: chance)


def ready(at: float = 0.0) -> WorkerProcess:
    made = process()
    made.start(at)
    made.healthy(at)
    return made


def test_a_started_child_is_ready_once_it_is_healthy() -> None:
    made = process()
    assert made.start(100.0) == (WorkerAction.START,)
    assert made.state is WorkerState.STARTING
    assert made.healthy(103.5) == ()
    assert (made.state, made.started_in, made.restarts) == (WorkerState.READY, 3.5, 0)


@pytest.mark.parametrize("reason", ["exit code 0", "exit code 1", "killed by SIGKILL"])
def test_every_exit_is_a_death_and_is_restarted_after_the_backoff(reason: str) -> None:
    made = ready()
    assert made.exited(50.0, reason) == ()
    assert (made.state, made.reason) == (WorkerState.BACKING_OFF, reason)
    made.gone(50.1)
    assert made.due == 51.0
    assert made.tick(50.9) == ()
    assert made.tick(51.0) == (WorkerAction.START,)
    assert (made.state, made.restarts) == (WorkerState.STARTING, 1)


def test_backoff_doubles_up_to_its_ceiling() -> None:
    made, now, waits = process(), 0.0, []
    made.start(now)
    for _ in range(6):
        made.exited(now, "exit code 1")
        made.gone(now)
        assert made.due is not None
        waits.append(made.due - now)
        now = made.due
        assert made.tick(now) == (WorkerAction.START,)
    assert waits == [1.0, 2.0, 4.0, 8.0, 8.0, 8.0]


def test_chance_takes_up_to_half_of_the_backoff() -> None:
    made = process(chance=0.0)
    made.start(0.0)
    made.exited(0.0, "")
    assert made.retry_in == 0.5


def test_a_child_that_stays_well_is_forgiven_its_past() -> None:
    made = process()
    made.start(0.0)
    for now in (0.0, 10.0, 20.0):
        made.exited(now, "")
        made.gone(now)
        made.tick(now + 9.0)
    made.healthy(30.0)
    made.tick(40.0)
    made.exited(41.0, "")
    assert made.retry_in == 1.0


def test_a_child_that_dies_soon_after_each_good_start_is_not_forgiven() -> None:
    made, now = process(), 0.0
    for _ in range(3):
        made.start(now)
        made.healthy(now)
        made.exited(now + 1.0, "")
        made.gone(now + 1.0)
        now += 10.0
    assert made.retry_in == 4.0


def test_a_slow_start_is_no_crash_until_its_timeout() -> None:
    made = process()
    made.start(0.0)
    assert made.tick(9.9) == ()
    assert made.state is WorkerState.STARTING
    assert made.tick(10.0) == (WorkerAction.KILL,)
    assert (made.state, made.reason) == (WorkerState.BACKING_OFF, "not healthy within 10 s")


def test_no_new_child_before_the_last_group_is_gone() -> None:
    made = ready()
    made.exited(10.0, "exit code 1")
    assert made.due is None
    assert made.tick(60.0) == ()
    assert made.gone(60.0) == (WorkerAction.START,)


def test_a_child_that_must_not_be_used_is_killed_and_tried_again() -> None:
    made = process()
    made.start(0.0)
    assert made.unfit(1.0, "a stranger's port") == (WorkerAction.KILL,)
    made.exited(1.1, "killed by SIGKILL")
    assert made.reason == "a stranger's port"
    made.gone(1.1)
    assert made.tick(2.0) == (WorkerAction.START,)


def test_a_command_that_cannot_be_run_backs_off_too() -> None:
    made = process()
    made.start(0.0)
    assert made.start_failed(0.0, "vllm: no such program") == ()
    assert (made.state, made.due, made.reason) == (WorkerState.BACKING_OFF, 1.0, "vllm: no such program")


def test_a_stop_asks_then_kills() -> None:
    made = ready()
    assert made.stop(10.0, drain=False, hurry=False) == (WorkerAction.TERMINATE,)
    assert made.tick(11.9) == ()
    assert made.tick(12.0) == (WorkerAction.KILL,)
    assert made.due is None
    made.exited(12.1, "killed by SIGKILL")
    made.gone(12.2)
    assert made.state is WorkerState.STOPPED


def test_a_stop_with_drain_waits_for_open_requests_but_not_for_ever() -> None:
    made = ready()
    assert made.stop(0.0, drain=True, hurry=False) == (WorkerAction.DRAIN,)
    assert made.drained(1.0) == (WorkerAction.TERMINATE,)
    other = ready()
    other.stop(0.0, drain=True, hurry=False)
    assert other.tick(5.0) == (WorkerAction.TERMINATE,)
    assert other.drained(5.5) == ()


def test_a_hurry_overtakes_a_stop_under_way() -> None:
    made = ready()
    made.stop(0.0, drain=True, hurry=False)
    assert made.stop(0.5, drain=False, hurry=True) == (WorkerAction.KILL,)
    assert made.stop(0.6, drain=False, hurry=False) == ()


def test_a_child_that_never_took_traffic_has_nothing_to_drain() -> None:
    made = process()
    made.start(0.0)
    assert made.stop(1.0, drain=True, hurry=False) == (WorkerAction.TERMINATE,)


def test_a_stop_during_the_backoff_is_over_at_once() -> None:
    made = ready()
    made.exited(1.0, "")
    made.gone(1.0)
    assert made.stop(1.1, drain=False, hurry=False) == ()
    assert (made.state, made.due) == (WorkerState.STOPPED, None)


def test_a_death_while_stopping_is_no_death() -> None:
    made = ready()
    made.stop(0.0, drain=True, hurry=False)
    assert made.exited(1.0, "exit code 0") == made.gone(1.0) == ()
    assert (made.state, made.restarts) == (WorkerState.STOPPED, 0)


def test_settings_of_zero_do_not_make_a_busy_loop() -> None:
    made = WorkerProcess(RestartRules(backoff=0.0, max_backoff=0.0), lambda: 0.0)
    made.start(0.0)
    made.exited(0.0, "exit code 1")
    assert made.retry_in == 0.1
