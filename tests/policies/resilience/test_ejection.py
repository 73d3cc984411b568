"""Ejection by DESIGN rule 7: rows, rates, growing time, forgiveness, and never more of a pool than it can bear."""

import pytest

from policies.config.settings import EjectionSettings
from policies.resilience.ejection import EjectionReason, FailureRecord, may_eject

SETTINGS = EjectionSettings(consecutive=5, error_rate=0.5, min_requests=20, window=30.0, for_=10.0, max_for=60.0)


def failures(record: FailureRecord, count: int, now: float = 100.0) -> list[EjectionReason | None]:
    return [record.failed(now, consecutive=True) for _ in range(count)]


def test_so_many_failures_in_a_row_are_a_reason() -> None:
    record = FailureRecord(SETTINGS)
    told = failures(record, 6)
    assert told[:4] == [None] * 4
    assert told[4:] == [EjectionReason("consecutive", 5, 5, 30.0), EjectionReason("consecutive", 6, 6, 30.0)]


def test_a_success_ends_the_row() -> None:
    record = FailureRecord(SETTINGS)
    for _ in range(4):
        assert failures(record, 4) == [None] * 4
        record.succeeded(100.0)


def test_a_row_may_take_its_time() -> None:
    record = FailureRecord(SETTINGS)
    told = [record.failed(1000.0 * turn, consecutive=True) for turn in range(1, 6)]
    assert told == [*[None] * 4, EjectionReason("consecutive", 5, 1, 30.0)]


def test_a_share_of_failures_is_a_reason_from_min_requests_on() -> None:
    record = FailureRecord(SETTINGS)
    told = []
    for _ in range(10):
        record.succeeded(100.0)
        told.append(record.failed(100.0, consecutive=True))
    assert told == [*[None] * 9, EjectionReason("error_rate", 10, 20, 30.0)]


def test_one_failure_below_the_share_is_none() -> None:
    record = FailureRecord(SETTINGS)
    for _ in range(11):
        record.succeeded(100.0)
    for _ in range(9):
        assert record.failed(100.0, consecutive=False) is None
    for _ in range(6):
        record.succeeded(100.0)
    # They are 10 of the last 20, and 10 of the 27 of the window.
    assert record.failed(100.0, consecutive=False) == EjectionReason("error_rate", 10, 20, 30.0)


def test_an_endpoint_that_was_well_for_long_has_no_credit_of_it() -> None:
    record = FailureRecord(SETTINGS)
    for turn in range(1500):
        record.succeeded(100.0 + turn / 50)
    told = []
    for _ in range(10):
        record.succeeded(130.0)
        told.append(record.failed(130.0, consecutive=True))
    assert told == [*[None] * 9, EjectionReason("error_rate", 10, 20, 30.0)]


def test_failures_that_are_rare_among_the_last_requests_are_no_reason() -> None:
    record = FailureRecord(SETTINGS)
    for turn in range(3000):
        if turn % 9 == 0:
            assert record.failed(100.0 + turn / 50, consecutive=False) is None
        else:
            record.succeeded(100.0 + turn / 50)


def test_the_last_requests_count_only_within_the_window() -> None:
    record = FailureRecord(SETTINGS)
    for turn in range(100):
        assert record.failed(100.0 + 1.6 * turn, consecutive=False) is None


def test_what_left_the_window_counts_no_more() -> None:
    record = FailureRecord(SETTINGS)
    for _ in range(19):
        assert record.failed(100.0, consecutive=False) is None
    for second in range(131, 150):
        assert record.failed(float(second), consecutive=False) is None


def test_what_is_in_the_window_counts() -> None:
    record = FailureRecord(SETTINGS)
    told = [record.failed(100.0 + 1.3 * turn, consecutive=False) for turn in range(20)]
    assert told == [*[None] * 19, EjectionReason("error_rate", 20, 20, 30.0)]


@pytest.mark.parametrize("gap", [0.07, 0.5, 2.9, 3.0, 3.1, 8.0])
def test_the_window_is_between_nine_tenths_and_the_whole_of_its_length(gap: float) -> None:
    record = FailureRecord(EjectionSettings(min_requests=1, error_rate=1.0, consecutive=10**6))
    for turn in range(1000):
        reason = record.failed(100.0 + turn * gap, consecutive=False)
        assert reason is not None
        # Both ends belong to it: 1 + whole gaps.
        assert min(turn, int(27.0 / gap - 1e-6)) <= reason.requests <= int(30.0 / gap + 1e-6) + 1


def test_too_many_requests_count_in_the_rate_only() -> None:
    record = FailureRecord(SETTINGS)
    told = [record.failed(100.0, consecutive=False) for _ in range(20)]
    assert told == [*[None] * 19, EjectionReason("error_rate", 20, 20, 30.0)]


def test_too_many_requests_do_not_end_a_row() -> None:
    record = FailureRecord(SETTINGS)
    failures(record, 4)
    record.failed(100.0, consecutive=False)
    assert failures(record, 1) == [EjectionReason("consecutive", 5, 6, 30.0)]


def test_five_503_in_a_row_are_a_reason() -> None:
    record = FailureRecord(EjectionSettings(consecutive=1000))
    told = [record.saturated(100.0) for _ in range(5)]
    assert told == [*[None] * 4, EjectionReason("saturated", 5, 5, 30.0)]


@pytest.mark.parametrize("between", ["success", "failure", "429"])
def test_anything_between_ends_the_row_of_503(between: str) -> None:
    record = FailureRecord(SETTINGS)
    for _ in range(3):
        assert [record.saturated(100.0) for _ in range(4)] == [None] * 4
        if between == "success":
            record.succeeded(100.0)
        else:
            assert record.failed(100.0, consecutive=between == "failure") is None


def test_503_among_failures_do_not_end_their_row() -> None:
    record = FailureRecord(SETTINGS)
    told = []
    for _ in range(5):
        record.saturated(100.0)
        told += failures(record, 1)
    assert told == [*[None] * 4, EjectionReason("consecutive", 5, 10, 30.0)]


def test_a_503_counts_in_the_rate() -> None:
    record = FailureRecord(SETTINGS)
    told = []
    for _ in range(10):
        record.succeeded(100.0)
        told.append(record.saturated(100.0))
    assert told == [*[None] * 9, EjectionReason("error_rate", 10, 20, 30.0)]


def test_it_is_ejected_for_twice_as_long_every_time_up_to_a_maximum() -> None:
    record = FailureRecord(SETTINGS)
    lengths = []
    for _ in range(5):
        now = max(record.ejected_until, 100.0)
        lengths.append(record.eject(now))
        assert record.ejected_until == now + lengths[-1]
    assert lengths == [10.0, 20.0, 40.0, 60.0, 60.0]


def test_it_is_forgiven_once_it_was_in_for_as_long_as_it_was_out() -> None:
    record = FailureRecord(SETTINGS)
    record.eject(100.0)
    assert record.eject(119.9) == 20.0
    assert record.ejected_until == 139.9
    assert record.eject(160.0) == 10.0


def test_readmitted_early_it_is_in_at_once_and_not_forgiven() -> None:
    record = FailureRecord(SETTINGS)
    record.eject(100.0)
    record.readmit(101.0)
    assert record.ejected_until == 101.0
    assert record.eject(110.9) == 20.0


def test_readmitted_early_it_is_forgiven_early() -> None:
    record = FailureRecord(SETTINGS)
    record.eject(100.0)
    record.readmit(101.0)
    assert record.eject(111.0) == 10.0


def test_readmitting_what_is_in_changes_nothing() -> None:
    record = FailureRecord(SETTINGS)
    record.readmit(100.0)
    assert record.ejected_until == 0.0
    record.eject(100.0)
    record.readmit(115.0)
    assert record.ejected_until == 110.0


def test_what_fails_while_it_is_out_is_told_once() -> None:
    """Answers to what was sent before it was ejected must not make the next ejection longer or earlier."""
    record = FailureRecord(SETTINGS)
    failures(record, 5)
    record.eject(100.0)
    assert failures(record, 50, 105.0) == [None] * 50
    assert [record.saturated(105.0) for _ in range(50)] == [None] * 50


def test_after_its_return_it_is_counted_from_nothing() -> None:
    record = FailureRecord(SETTINGS)
    failures(record, 5)
    record.eject(100.0)
    assert failures(record, 4, 110.0) == [None] * 4
    assert failures(record, 1, 110.0) == [EjectionReason("consecutive", 5, 5, 30.0)]


def test_a_reason_that_the_pool_cannot_bear_comes_again_with_the_next_failure() -> None:
    record = FailureRecord(SETTINGS)
    assert all(reason is not None for reason in failures(record, 10)[4:])


@pytest.mark.parametrize(
    ("share", "members", "most"),
    [
        (0.5, 1, 0),
        (0.5, 2, 1),
        (0.5, 3, 1),
        (0.5, 4, 2),
        (0.5, 5, 2),
        (1.0, 1, 0),
        (1.0, 4, 3),
        (0.0, 10, 0),
        (0.29, 100, 29),
        (0.7, 10, 7),
        (0.1, 9, 0),
    ],
)
def test_at_most_so_much_of_a_pool_is_left_out_rounded_down_and_never_its_last(
    share: float, members: int, most: int
) -> None:
    settings = EjectionSettings(max_ejected=share)
    assert [may_eject(settings, members, ejected) for ejected in range(members + 1)] == [
        ejected < most for ejected in range(members + 1)
    ]
