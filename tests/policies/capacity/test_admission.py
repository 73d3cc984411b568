"""Strict priority with a bound on starvation, fair among tenants, bounded, and honest about what is too late."""

from math import inf

from policies.capacity.admission import PATIENCE, AdmissionQueue
from policies.capacity.tickets import AdmissionRefused, Ticket, WaitingTicket


def ticket(
    now: float = 0.0, *, tenant: str = "t", priority: int = 0, weight: float = 1.0, wait: float = 30.0,
    left: float = inf,
) -> Ticket:  # fmt: skip
    return Ticket(tenant, priority, weight, now, now + wait, now + left)


def busy(*, slots: int = 1, size: int = 100, held: float | None = None) -> AdmissionQueue:
    """A queue whose slots are all taken; `held` seconds is what slots were held for until now."""
    queue = AdmissionQueue(size=size, slots=slots)
    for _ in range(slots):
        assert queue.enter()
    if held is not None:
        for _ in range(200):
            queue.give_back(held)
            assert queue.enter()
    return queue


def turn(queue: AdmissionQueue, now: float = 0.0, held: float = 1.0) -> Ticket:
    queue.give_back(held)
    (called,) = queue.admit(now)
    return called


def test_free_slot_is_taken_at_once_and_never_past_who_waits() -> None:
    queue = AdmissionQueue(size=1, slots=1)
    assert queue.enter() and not queue.enter()
    assert queue.offer(ticket(), 0.0) == WaitingTicket()
    queue.give_back(1.0)
    assert not queue.enter()
    assert [one.admitted for one in queue.admit(0.0)] == [True]
    assert (queue.taken, queue.waiting) == (1, 0)


def test_higher_priority_goes_first() -> None:
    queue = busy()
    for priority in (0, 5, -1, 5, 10):
        queue.offer(ticket(priority=priority), 0.0)
    assert [turn(queue).priority for _ in range(5)] == [10, 5, 5, 0, -1]


def test_lower_priorities_get_one_turn_in_ten_in_turn() -> None:
    queue = busy(size=1000)
    for priority in (0, 1, 2):
        for _ in range(100):
            queue.offer(ticket(priority=priority), 0.0)
    served = [turn(queue).priority for _ in range(100)]
    assert served.count(2) == 90
    assert [one for one in served if one < 2] == [1, 0] * 5
    assert max(len(row) for row in "".join(map(str, served)).replace("0", "1").split("1")) == PATIENCE


def test_full_refuses_with_the_time_that_the_queue_takes() -> None:
    queue = busy(slots=2, size=10, held=4.0)
    for _ in range(10):
        assert queue.offer(ticket(wait=100), 0.0) == WaitingTicket()
    # 10 are before it and each of 2 slots is held for 4 s: 11 * 4 / 2.
    assert queue.offer(ticket(wait=100), 0.0) == AdmissionRefused("full", 22)
    assert queue.waiting == 10


def test_full_of_one_tenant_another_has_a_place_by_its_weight() -> None:
    queue = busy(size=12)
    first = [ticket(tenant="loud") for _ in range(12)]
    for one in first:
        queue.offer(one, 0.0)
    pushed = []
    for _ in range(20):
        answer = queue.offer(ticket(tenant="quiet", weight=2.0), 0.0)
        if isinstance(answer, WaitingTicket):
            pushed.append(answer.pushed_out)
    assert pushed == first[:3:-1]
    assert all(one.refused == "pushed_out" for one in first[4:])
    assert queue.levels(0.0)[0].tenants == {"loud": 4, "quiet": 8}


def test_higher_priority_pushes_the_newest_of_the_lowest_out() -> None:
    queue = busy(size=3)
    low = [ticket(priority=priority) for priority in (1, 0, 0)]
    for one in low:
        queue.offer(one, 0.0)
    assert queue.offer(ticket(priority=-1), 0.0) == AdmissionRefused("full", 1)
    answers = [queue.offer(ticket(priority=5), 0.0) for _ in range(3)]
    assert answers == [WaitingTicket(low[2]), WaitingTicket(low[1]), WaitingTicket(low[0])]
    assert queue.offer(ticket(priority=5), 0.0) == AdmissionRefused("full", 1)
    assert queue.waiting == 3


def test_full_of_one_priority_every_other_one_has_a_tenth_of_the_places() -> None:
    queue = busy(size=40)
    for _ in range(40):
        queue.offer(ticket(priority=5), 0.0)
    for priority in (0, 9):
        answers = [queue.offer(ticket(priority=priority), 0.0) for _ in range(6)]
        taken = [one.pushed_out.priority for one in answers if isinstance(one, WaitingTicket) and one.pushed_out]
        assert taken == [5] * (4 if priority == 0 else 6)
    assert [(one.priority, one.waiting) for one in queue.levels(0.0)] == [(9, 6), (5, 30), (0, 4)]
    for _ in range(40):
        queue.offer(ticket(priority=9), 0.0)
    assert [(one.priority, one.waiting) for one in queue.levels(0.0)] == [(9, 32), (5, 4), (0, 4)]


def test_what_cannot_be_served_in_time_is_refused_at_once() -> None:
    queue = busy(slots=1, held=2.0)
    for _ in range(4):
        assert isinstance(queue.offer(ticket(), 0.0), WaitingTicket)
    # It would wait for 10 s, and its answer takes 2 more.
    assert queue.offer(ticket(left=11.5), 0.0) == AdmissionRefused("late", 10)
    assert queue.offer(ticket(wait=9.5), 0.0) == AdmissionRefused("late", 10)
    assert queue.offer(ticket(priority=1, left=11.5), 0.0) == WaitingTicket()
    assert queue.offer(ticket(left=14.5), 0.0) == WaitingTicket()


def test_nothing_is_too_late_while_nobody_knows_how_long_it_takes() -> None:
    queue = busy(slots=1)
    assert queue.offer(ticket(left=0.1), 0.0) == WaitingTicket()


def test_whose_time_is_over_gets_no_slot() -> None:
    queue = busy(slots=1, held=2.0)
    late, in_time = ticket(left=10), ticket()
    queue.offer(late, 0.0)
    queue.offer(in_time, 0.0)
    queue.give_back(2.0)
    assert queue.admit(8.5) == [late, in_time]
    assert (late.admitted, late.refused, in_time.admitted) == (False, "late", True)
    assert (queue.taken, queue.waiting) == (1, 0)


def test_different_lengths_are_no_reason_to_give_a_short_one_up() -> None:
    queue = busy(slots=1)
    for number in range(200):
        queue.give_back(60.0 if number % 10 == 0 else 0.1)
        assert queue.enter()
    one = ticket(left=1.0)
    one.deadline = 1.0
    queue._held.mean = 0.0
    assert queue.offer(one, 0.0) == WaitingTicket()
    queue._held.mean = 6.0
    queue.give_back(0.1)
    assert queue.admit(0.5) == [one] and one.admitted


def test_priority_that_is_overtaken_is_told_of_its_own_pace() -> None:
    queue = busy(slots=1, size=1000, held=0.1)
    now = 0.0
    for _ in range(60):
        queue.offer(ticket(wait=1e6), now)
    for _ in range(300):
        queue.offer(ticket(now, priority=1, wait=1e6), now)
        now += 0.1
        turn(queue, now, 0.1)
    # It moves once a second.
    assert queue.levels(now)[0].waiting == 30
    answer = queue.offer(ticket(now, wait=25.0), now)
    assert isinstance(answer, AdmissionRefused) and 29 <= answer.retry_after <= 33
    assert (queue.expected(ticket(now, priority=1, tenant="u"), now) or 9.0) < 1.0


def test_place_after_a_stall_is_no_promise() -> None:
    queue = busy(slots=4, held=0.1)
    queue.offer(ticket(0.0), 0.0)
    assert isinstance(queue.offer(ticket(20.0, wait=5), 20.0), AdmissionRefused)


def test_leaving_twice_or_after_a_turn_is_nothing() -> None:
    queue = busy(slots=1)
    one, other = ticket(), ticket()
    queue.offer(one, 0.0)
    queue.offer(other, 0.0)
    queue.leave(one)
    queue.leave(one)
    assert queue.waiting == 1
    assert turn(queue) is other
    queue.leave(other)
    assert (queue.taken, queue.waiting) == (1, 0)


def test_nothing_has_no_place_where_there_are_none() -> None:
    queue = busy(slots=1, size=0)
    assert queue.offer(ticket(priority=9), 0.0) == AdmissionRefused("full", 1)


def test_drain_rate_is_told() -> None:
    assert busy().drain_rate is None
    assert abs((busy(slots=4, held=2.0).drain_rate or 0) - 2.0) < 1e-6


def test_retry_after_is_the_expected_wait() -> None:
    queue = busy(held=10.0)
    assert queue.retry_after(ticket(), 0.0) == 10
    for _ in range(2):
        assert queue.offer(ticket(priority=5, wait=inf), 0.0) == WaitingTicket()
    # Two of a higher priority go first, and none of its own waits.
    assert queue.retry_after(ticket(), 0.0) == 30
    assert queue.retry_after(ticket(priority=9), 0.0) == 10


def test_ten_places_have_one_for_a_priority_that_has_none() -> None:
    queue = busy(size=10)
    for _ in range(10):
        assert queue.offer(ticket(priority=5), 0.0) == WaitingTicket()
    offered = queue.offer(ticket(), 0.0)
    assert isinstance(offered, WaitingTicket) and offered.pushed_out is not None
    assert isinstance(queue.offer(ticket(), 0.0), AdmissionRefused)
