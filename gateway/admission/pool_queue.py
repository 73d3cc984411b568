"""Bounded queue of requests that wait for a slot of one pool.

`policies.capacity.admission` decides which request is next; here each request waits on a Signal, and every end of the
wait (a slot, a client that leaves, a deadline, the queue's own bound) gives its place back.
"""

import math
from collections.abc import Callable
from typing import Final

from backends.http1.timer_wheel import Timer, TimerWheel
from backends.pool.pool import Pool
from gateway import errors
from gateway.exchange import Exchange, Phase
from gateway.http.driver import Signal
from gateway.observe.member_metrics import PoolMetrics
from policies.capacity.adaptive import AdaptiveLimit
from policies.capacity.admission import LONGEST_QUEUE_RETRY_AFTER, AdmissionQueue
from policies.capacity.tickets import AdmissionRefused, Ticket
from policies.config.settings import PlanSettings, QueueSettings

TICK: Final = 0.25
"""Seconds between checks for changes that no event reports, such as the end of a pause."""
_NO_QUEUE: Final = QueueSettings(size=0, wait=0.0)


class PoolQueue:
    """Slots of one pool and the requests that wait for one; it outlives the tables."""

    __slots__ = (
        "_clock",
        "_gone",
        "_limit",
        "_meter",
        "_seen",
        "_signals",
        "_ticking",
        "_wait",
        "_wheel",
        "pool",
        "queue",
    )

    def __init__(self, pool: Pool, meter: PoolMetrics, wheel: TimerWheel, clock: Callable[[], float]) -> None:
        self._wheel = wheel
        self._clock = clock
        self._signals: dict[Ticket, Signal] = {}
        self._ticking: Timer | None = None
        self._seen = -1
        self._gone = False
        self._limit: AdaptiveLimit | None = None
        self.queue = AdmissionQueue(size=0, slots=0.0)
        self.follow(pool, meter)

    def follow(self, pool: Pool, meter: PoolMetrics) -> None:
        """Adopt the pool of a new table and its meter."""
        self.pool, self._meter = pool, meter
        settings = pool.spec.queue if pool.spec.queue is not None else _NO_QUEUE
        self.queue.size, self._wait = settings.size, settings.wait
        self._seen = -1
        if pool.spec.max_in_flight != "auto":
            self._limit = None
        elif self._limit is None:
            self._limit = AdaptiveLimit()
        self._update()

    def open(self) -> None:
        """Let every waiting request go on: the pool is gone."""
        self._gone = True
        self._update()

    # -- called by requests

    def enter(self) -> bool:
        """Take a slot at once, if one is free and no request waits for it."""
        if self._seen != self.pool.version:
            self._measure_if_changed(self._clock())
        return self.queue.enter()

    def leave(self, exchange: Exchange) -> None:
        """Give back the slot of an exchange at its end."""
        now = self._clock()
        self.queue.give_back(now - exchange.attempt.slot_since)
        if self._limit is not None:
            self._learn(self._limit, exchange)
        if self.queue.waiting:
            self._measure_if_changed(now)
            self._admit(now)

    def give_back(self) -> None:
        """Give back a second slot, taken for a hedge. Its time does not count for the pace of requests."""
        self.queue.taken -= 1
        if self.queue.waiting:
            self._admit(self._clock())

    async def wait(self, exchange: Exchange, tenant: str, plan: PlanSettings) -> None:
        """Wait for a slot and take it. Raises QueueFull, QueueTimeout, NoEndpoint, DeadlineExceeded, ClientGone."""
        now = self._clock()
        left = exchange.time_left(now)
        ticket = Ticket(
            tenant, plan.priority, plan.weight, now, now + self._wait, math.inf if left is None else now + left
        )
        self._measure_if_changed(now)
        if self.queue.enter():
            return
        signal = self._place(exchange, ticket, now)
        exchange.attempt.enter(Phase.QUEUE)
        exchange.attempt.queue_deadline = ticket.wait_until
        exchange.request.wire.limit(self._wait if left is None else min(left, self._wait))
        try:
            await signal
        except errors.DeadlineExceeded:
            self._meter.queue_refused("timeout")
            raise
        except errors.QueueTimeout:
            # A slot that came in the same moment counts.
            if not ticket.admitted:
                raise self._wait_expired(exchange, ticket) from None
        finally:
            self._waited(exchange, ticket)
        if ticket.refused is not None:
            raise self._refusal(AdmissionRefused(ticket.refused, self.queue.retry_after(ticket, self._clock())))

    def _place(self, exchange: Exchange, ticket: Ticket, now: float) -> Signal:
        """Take a place in the queue. Raises QueueFull, QueueTimeout, NoEndpoint."""
        lacking = self.pool.lacking(now, exchange.model) if not self.queue.slots and self.pool.candidates else None
        if lacking is not None and now + lacking.retry_after >= min(ticket.wait_until, ticket.deadline):
            self._meter.queue_refused("nobody")
            raise self._no_endpoint(lacking.reason, lacking.retry_after)
        answer = self.queue.offer(ticket, now)
        if isinstance(answer, AdmissionRefused):
            seconds = answer.retry_after if lacking is None else max(answer.retry_after, _whole(lacking.retry_after))
            raise self._refusal(AdmissionRefused(answer.reason, seconds))
        if answer.pushed_out is not None:
            self._signals[answer.pushed_out].set()
        signal = self._signals[ticket] = Signal()
        self._meter.queue_depth.value = self.queue.waiting
        if self._ticking is None:
            self._ticking = self._wheel.arm(TICK, self._tick)
        return signal

    def _waited(self, exchange: Exchange, ticket: Ticket) -> None:
        """End the wait, whatever the reason. A slot that came too late is given back by `Exchange.leave_pool`."""
        now = self._clock()
        self.queue.leave(ticket)
        del self._signals[ticket]
        if not self._signals and self._ticking is not None:
            self._wheel.cancel(self._ticking)
            self._ticking = None
        self._meter.queue_depth.value = self.queue.waiting
        self._meter.queued(now - ticket.since)
        exchange.record.queued = (exchange.record.queued or 0.0) + now - ticket.since
        attempt = exchange.attempt
        attempt.ready_at = attempt.slot_since = now
        exchange.limit_first_check(now)
        if ticket.admitted:
            attempt.slot = self

    def _learn(self, limit: AdaptiveLimit, exchange: Exchange) -> None:
        """Adapt the limit (`max_in_flight: auto`) to the outcome of an exchange."""
        attempt = exchange.attempt
        taken, relay, first = self.queue.taken + 1, attempt.relay, attempt.first_content_at
        before = limit.limit
        if attempt.outcome in ("429", "503"):
            limit.saturated(taken)
        elif relay is not None and first is not None and attempt.dispatched_at is not None:
            limit.answered("stream" if relay.stream else "plain", first - attempt.dispatched_at, taken)
        if limit.limit != before:
            self._measure(self._clock())

    # -- admission

    def _tick(self) -> None:
        self._ticking = self._wheel.arm(TICK, self._tick)
        self._update()

    def _update(self) -> None:
        """Count the slots again and admit the requests that they allow."""
        now = self._clock()
        self._measure(now)
        self._admit(now)

    def _admit(self, now: float) -> None:
        """Admit the requests for which there are slots."""
        for ticket in self.queue.admit(now):
            self._signals[ticket].set()
        self._meter.queue_depth.value = self.queue.waiting

    def _measure_if_changed(self, now: float) -> None:
        """Count the slots again where the pool has changed, or has none: no event reports the end of a pause."""
        if self._seen != self.pool.version or not self.queue.slots:
            self._measure(now)

    def _measure(self, now: float) -> None:
        """Count the slots."""
        if self._gone:
            self.queue.slots = math.inf
            return
        pool = self.pool
        self._seen = pool.version
        most = pool.spec.max_in_flight
        room = pool.room(now) if pool.gated else math.inf
        if room == math.inf and pool.lacking(now, None) is not None:
            # No endpoint will come back in time, whichever requests still hold slots: every request gets its answer
            # now.
            self.queue.slots = math.inf
        elif self._limit is not None:
            self.queue.slots = min(room, self._limit.limit)
        else:
            self.queue.slots = min(room, most) if isinstance(most, int) else room

    # -- errors for the client

    def _refusal(self, refused: AdmissionRefused) -> errors.GatewayError:
        self._meter.queue_refused(refused.reason)
        when = f"Try again in {refused.retry_after} s."
        if refused.reason == "late":
            return errors.QueueTimeout(
                f"The pool is full, and a place would be free too late for this request. {when}",
                retry_after=refused.retry_after,
            )
        what = "is full" if refused.reason == "full" else "is full, and your place went to another request"
        return errors.QueueFull(f"The queue of pool {self.pool.name} {what}. {when}", retry_after=refused.retry_after)

    def _wait_expired(self, exchange: Exchange, ticket: Ticket) -> errors.GatewayError:
        """Return the error after a wait that expired: for a slot, or for an endpoint at all."""
        now = self._clock()
        self._meter.queue_refused("timeout")
        if not self.queue.slots:
            why = self.pool.why_no_candidate(now, exchange.model)
            return self._no_endpoint(why.reason, why.retry_after)
        seconds = self.queue.retry_after(ticket, now)
        return errors.QueueTimeout(
            f"No place was free within {self._wait:g} s (the pool's queue.wait). Try again in {seconds} s.",
            retry_after=seconds,
        )

    def _no_endpoint(self, reason: str, seconds: float) -> errors.NoEndpoint:
        return errors.no_endpoint(self.pool.name, reason, _whole(seconds))


def _whole(seconds: float) -> int:
    return max(1, min(LONGEST_QUEUE_RETRY_AFTER, math.ceil(seconds)))
