"""Any order of arrivals, ends, leavings and waits: what holds of an admission queue at every moment."""

from math import inf

from hypothesis import settings as run_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from policies.capacity.admission import LONGEST_QUEUE_RETRY_AFTER, PATIENCE, AdmissionQueue
from policies.capacity.tickets import AdmissionRefused, Ticket

PRIORITIES = (-1, 0, 7)


class AdmissionMachine(RuleBasedStateMachine):
    """Beside the queue runs a plain list of who waits, in the order in which they came."""

    @initialize(size=st.integers(0, 6), slots=st.integers(0, 4))
    def start(self, size: int, slots: int) -> None:
        self.now = 100.0
        self.queue = AdmissionQueue(size=size, slots=slots)
        self.waiting: list[Ticket] = []
        self.under_way: list[float] = []
        # By priority that waits: turns of others since it began to wait or had one.
        self.skipped: dict[int, int] = {}

    @rule(seconds=st.sampled_from([0.0, 0.1, 1.0, 10.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(
        tenant=st.sampled_from("abc"),
        priority=st.sampled_from(PRIORITIES),
        weight=st.sampled_from([0.5, 1.0, 4.0]),
        longest=st.sampled_from([0.5, 5.0, 60.0]),
        left=st.sampled_from([1.0, 20.0, inf]),
    )
    def arrive(self, tenant: str, priority: int, weight: float, longest: float, left: float) -> None:
        free = len(self.under_way) < self.queue.slots and not self.waiting
        assert self.queue.enter() is free
        if free:
            self.under_way.append(self.now)
            return
        ticket = Ticket(tenant, priority, weight, self.now, self.now + longest, self.now + left)
        was_full = len(self.waiting) >= self.queue.size
        expected = self.queue.expected(ticket, self.now)
        answer = self.queue.offer(ticket, self.now)
        if isinstance(answer, AdmissionRefused):
            assert 1 <= answer.retry_after <= LONGEST_QUEUE_RETRY_AFTER
            assert was_full if answer.reason == "full" else expected is not None
            assert not was_full or answer.reason == "late" or all(one.priority >= priority for one in self.waiting)
            return
        assert (answer.pushed_out is not None) == was_full
        if answer.pushed_out is not None:
            gone = answer.pushed_out
            assert gone.refused == "pushed_out"
            assert gone.priority == min(one.priority for one in self.waiting) <= priority or self.queue.size >= 10
            newer = [one for one in self.waiting if (one.priority, one.tenant) == (gone.priority, gone.tenant)]
            assert gone is newer[-1]
            self.waiting.remove(gone)
        self.waiting.append(ticket)

    @precondition(lambda self: self.under_way)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        began = self.under_way.pop(data.draw(st.integers(0, len(self.under_way) - 1)))
        self.queue.give_back(self.now - began)
        self.admit()

    @rule(slots=st.integers(0, 4))
    def other_slots(self, slots: int) -> None:
        self.queue.slots = slots
        self.admit()

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(self.waiting))
        self.queue.leave(ticket)
        self.queue.leave(ticket)
        self.waiting.remove(ticket)

    def admit(self) -> None:
        for ticket in self.queue.admit(self.now):
            assert ticket.admitted is (ticket.refused is None)
            if ticket.admitted:
                assert self.now < ticket.wait_until and self.now <= ticket.deadline
                self.under_way.append(self.now)
                self.turn(ticket)
            self.waiting.remove(ticket)
        assert not self.waiting or len(self.under_way) >= self.queue.slots

    def turn(self, ticket: Ticket) -> None:
        there = {one.priority for one in self.waiting}
        # Within its tenant and priority it is the one that came first.
        assert ticket is next(
            one for one in self.waiting if (one.tenant, one.priority) == (ticket.tenant, ticket.priority)
        )
        self.skipped = {priority: self.skipped.get(priority, 0) + 1 for priority in there}
        self.skipped.pop(ticket.priority)
        assert all(turns <= (PATIENCE + 1) * len(PRIORITIES) for turns in self.skipped.values())

    @invariant()
    def counts(self) -> None:
        if not hasattr(self, "queue"):
            return
        queue = self.queue
        assert queue.taken == len(self.under_way)
        assert queue.waiting == len(self.waiting) <= queue.size
        levels = queue.levels(self.now)
        assert [one.priority for one in levels] == sorted({one.priority for one in self.waiting}, reverse=True)
        for level in levels:
            mine = [one.tenant for one in self.waiting if one.priority == level.priority]
            assert level.tenants == {tenant: mine.count(tenant) for tenant in set(mine)}
            assert level.waiting == len(mine)


TestAdmission = AdmissionMachine.TestCase
TestAdmission.settings = run_settings(max_examples=100, stateful_step_count=60, deadline=None)
