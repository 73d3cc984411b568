"""Admission to a pool: its slots, its bounded priority queue, and refusal of requests for which waiting is useless
(policy keys `max_in_flight`, `queue`, plans' `priority` and `weight`).

Priorities are strict, save that one turn in `PATIENCE` + 1 goes to a lower one: to that which has waited for its turn
the longest. So with L priorities waiting, the lowest is served at least once in (L - 1) * (PATIENCE + 1) turns. Within
a priority tenants are served by `policies.capacity.fair_queue`. A full queue keeps as large a part of its places for
each priority.

How long a place takes is told by what slots were held for lately (Little's law: places / slots * mean), and, for a
priority that others overtake, by how fast it itself has moved.
"""

from __future__ import annotations

import bisect
import math
from typing import Final

from policies.capacity.fair_queue import FairQueue
from policies.capacity.pace import QueuePace, SlotTimes
from policies.capacity.tickets import AdmissionRefused, QueueLevel, Ticket, WaitingTicket

PATIENCE: Final = 9
"""Most turns in a row of the highest priority while a lower one waits."""
LONGEST_QUEUE_RETRY_AFTER: Final = 60
"""Seconds: SDKs do not wait longer, but come back at once."""


class _PriorityLevel:
    """The requests of one priority."""

    __slots__ = ("pace", "priority", "queue", "turn")

    def __init__(self, priority: int, now: float) -> None:
        self.priority = priority
        self.queue: FairQueue[Ticket] = FairQueue()
        self.pace = QueuePace(now)
        self.turn = 0


class AdmissionQueue:
    """One pool's slots and its bounded queue. Every `now` is in seconds of one monotonic clock, and never goes back.

    size: how many may wait
    slots: how many may be under way; whoever changes it calls `admit`
    taken: how many are
    """

    __slots__ = ("_held", "_levels", "_row", "_turns", "size", "slots", "taken", "waiting")

    def __init__(self, *, size: int, slots: float) -> None:
        self.size = size
        self.slots = slots
        self.taken = 0
        self.waiting = 0
        self._held = SlotTimes()
        # The highest priority first; only those of which something waits.
        self._levels: list[_PriorityLevel] = []
        self._turns = 0
        self._row = 0

    # -- slots

    def enter(self) -> bool:
        """Take a slot at once: where one is free and nobody waits for it."""
        if self.taken < self.slots and not self.waiting:
            self.taken += 1
            return True
        return False

    def give_back(self, seconds: float) -> None:
        """A slot that was held for so long is free; then `admit`."""
        self.taken -= 1
        self._held.learn(seconds)

    def admit(self, now: float) -> list[Ticket]:
        """Let in whom there are slots for, each with `admitted` or, where it would be too late, `refused`."""
        called = []
        while self._levels and self.taken < self.slots:
            level = self._next()
            ticket = level.queue.peek()
            if now >= ticket.wait_until or now + self._held.least > ticket.deadline:
                ticket.refused = "late"
                level.queue.remove(ticket.tenant, ticket)
            else:
                ticket.admitted = True
                level.queue.take()
                self.taken += 1
                self._had_turn(level, now)
            self._gone(level)
            called.append(ticket)
        return called

    # -- places

    def offer(self, ticket: Ticket, now: float) -> WaitingTicket | AdmissionRefused:
        """Queue a request for a slot, or refuse it where waiting is useless."""
        expected = self.expected(ticket, now)
        if not self.size:
            return AdmissionRefused("full", _retry_after(expected))
        if expected is not None and (
            now + expected > ticket.wait_until or now + expected + self._held.least > ticket.deadline
        ):
            return AdmissionRefused("late", _retry_after(expected))
        pushed_out = None
        if self.waiting >= self.size:
            pushed_out = self._weaker(ticket)
            if pushed_out is None:
                return AdmissionRefused("full", _retry_after(expected))
            pushed_out.refused = "pushed_out"
            self.leave(pushed_out)
        self._level(ticket.priority, now).queue.push(ticket.tenant, ticket.weight, ticket)
        self.waiting += 1
        return WaitingTicket(pushed_out)

    def leave(self, ticket: Ticket) -> None:
        """Remove a request from the queue; no effect if it does not wait."""
        for level in self._levels:
            if level.priority == ticket.priority:
                if level.queue.remove(ticket.tenant, ticket):
                    self._gone(level)
                return

    def expected(self, ticket: Ticket, now: float) -> float | None:
        """Return the expected wait in seconds; None where it is unknown."""
        above, own = 0, None
        for level in self._levels:
            if level.priority > ticket.priority:
                above += len(level.queue)
            elif level.priority == ticket.priority:
                own = level
        ahead = 0 if own is None else own.queue.ahead(ticket.tenant, ticket.weight)
        mean = self._held.mean
        known = None if mean is None or self.slots <= 0 else (above + ahead + 1) * mean / self.slots
        if own is None or self.slots <= 0:
            return known
        return max(known or 0.0, own.pace.wait(ahead, now))

    def retry_after(self, ticket: Ticket, now: float) -> int:
        """Whole seconds, 1 to 60, after which one like it may find a slot."""
        return _retry_after(self.expected(ticket, now))

    # -- for the operator's eyes

    @property
    def drain_rate(self) -> float | None:
        """Requests a second that slots are given back at while all are taken; None while nobody can say."""
        mean = self._held.mean
        return self.slots / mean if mean and 0 < self.slots < math.inf else None

    def levels(self, now: float) -> list[QueueLevel]:
        """Return the waiting requests by priority, highest first; `oldest` is the wait, in seconds, of the next
        request."""
        return [
            QueueLevel(one.priority, len(one.queue), now - one.queue.peek().since, one.queue.counts())
            for one in self._levels
        ]

    # -- the steps

    def _next(self) -> _PriorityLevel:
        """Return the priority level whose turn comes next."""
        if self._row < PATIENCE or len(self._levels) == 1:
            return self._levels[0]
        return min(self._levels[1:], key=lambda level: level.turn)

    def _had_turn(self, level: _PriorityLevel, now: float) -> None:
        self._turns += 1
        self._row = self._row + 1 if level is self._levels[0] and len(self._levels) > 1 else 0
        level.turn = self._turns
        level.pace.moved(now)

    def _level(self, priority: int, now: float) -> _PriorityLevel:
        for level in self._levels:
            if level.priority == priority:
                return level
        made = _PriorityLevel(priority, now)
        made.turn = self._turns
        bisect.insort(self._levels, made, key=lambda level: -level.priority)
        return made

    def _gone(self, level: _PriorityLevel) -> None:
        self.waiting -= 1
        if not level.queue:
            self._levels.remove(level)

    def _weaker(self, ticket: Ticket) -> Ticket | None:
        """Return the request whose place it may take: the newest of the tenant with the most for its weight, of the
        lowest priority. Of the same priority only if its own tenant would still have less for its weight, of a higher
        one never; save that each priority keeps as many places as it has turns, or who is never in the queue could
        never have one."""
        kept = self.size // (PATIENCE + 1)
        mine = next((len(one.queue) for one in self._levels if one.priority == ticket.priority), 0)
        for level in reversed(self._levels):
            if level.priority > ticket.priority and mine >= kept:
                return None
            tenant, share = level.queue.longest()
            if level.priority == ticket.priority:
                own = (level.queue.count(ticket.tenant) + 1) / ticket.weight
                if own < share:
                    return level.queue.newest(tenant)
            elif len(level.queue) > kept:
                return level.queue.newest(tenant)
        return None


def _retry_after(expected: float | None) -> int:
    return max(1, min(LONGEST_QUEUE_RETRY_AFTER, math.ceil(expected or 0.0)))
