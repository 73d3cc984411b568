"""Values of admission: a waiting request, its place or refusal, and the levels of a queue."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Reason = Literal["full", "pushed_out", "late"]
"""Reason why a request does not wait (any more): queue full, place given to another request, or too late."""


@dataclass(slots=True, eq=False)
class Ticket:
    """Request that waits for a slot. Points in time are of one monotonic clock, in seconds.

    wait_until: end of its wait
    deadline: time at which its answer must be complete; inf for none
    admitted: it has a slot now
    refused: reason why it has no slot and waits no more
    """

    tenant: str
    priority: int
    weight: float
    since: float
    wait_until: float
    deadline: float
    admitted: bool = False
    refused: Reason | None = None


@dataclass(frozen=True, slots=True)
class WaitingTicket:
    """Place in the queue; `pushed_out` is the request that had it before."""

    pushed_out: Ticket | None = None


@dataclass(frozen=True, slots=True)
class AdmissionRefused:
    """Refusal of a place. `retry_after`: seconds, 1 to 60, after which a place may be free."""

    reason: Reason
    retry_after: int


@dataclass(frozen=True, slots=True)
class QueueLevel:
    """Waiting requests of one priority, for the operator. `tenants`: their number by tenant."""

    priority: int
    waiting: int
    oldest: float
    tenants: Mapping[str, int]
