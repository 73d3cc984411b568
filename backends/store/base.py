"""The store of limits, as the pipeline and the tests see it. One object a process; nothing here imports a library.

What every store holds, and `tests/contracts/test_limit_stores.py` shows:

- All demands of a request are one atomic step: every rule is checked, then all are taken, or none. A refused request
  consumes nothing and changes nothing.
- Amounts are whole units outside and integer micro-units inside (1 request = 1,000,000); times are microseconds of the
  store's own clock. The arithmetic is that of `policies.limits.token_bucket` and `policies.limits.fixed_window`.
- A bucket that does not exist is full. One that is full again, or whose window is over, is forgotten.
- A demand of more than the rule's `burst` is refused with `retry_after` inf.
- Several rules refuse: the answer names the one with the longest wait, the first of those.
- A lease holds one slot a bucket, however often it is taken. It is renewed by the store for as long as the process
  lives and frees its slots by itself `LEASE_LIFETIME` after the process died.
"""

from asyncio import Future
from collections.abc import Sequence
from typing import Final, Protocol

from policies.limits import Answer, Change, Demand, Granted, LimitLevel

LEASE_LIFETIME: Final = 30.0
"""Seconds for which a slot outlives the process that holds it."""
HEARTBEAT: Final = LEASE_LIFETIME / 3


class LimitStore(Protocol):
    def take(self, demands: Sequence[Demand], lease: str) -> "Answer | Future[Answer]":
        """Take all demands, or none. Never raises, and never has a future raise.

        demands: of one request; at least one. No two of one bucket.
        lease: unique for the request, such as its id; ASCII

        A future may be awaited with or without a task around it. Who stops waiting cancels it, and the store gives back
        what it took or still takes; where `cancel()` says False there is an answer. Whoever has a `Granted` settles it.
        """

    def refund(self, granted: Granted, changes: Sequence[Change] = ()) -> None:
        """The request is over: its lease is given back, and what it really used is made good. Returns at once, is
        carried out soon, and never raises. Once a grant.

        changes: of demands of this grant. More than was taken may lead into debt, down to `-burst`; less never leads
            above `burst`. What is given back of a fixed window that has ended since is nothing; what is used beyond
            counts in the window of now. Those of sliding and moving windows are left alone.
        """

    async def seen(self, demands: Sequence[Demand]) -> tuple[LimitLevel, ...]:
        """Return the levels of the buckets, in the demands' order; nothing is taken, and amounts do not matter. Of a
        bucket that nobody counts now (its store is away) there is none."""

    async def start(self) -> None:
        """Begin what goes on in the background. Returns though the store is away."""

    async def stop(self) -> None:
        """Carry out what is left to refund, for a moment at most, and end."""
