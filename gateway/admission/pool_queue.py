"""The door of one pool: its slots, and the requests that wait for one.

`policies.capacity.admission` decides who is next; here requests wait for it, each on a Signal, and whatever ends the
wait (a slot, the client's leaving, a deadline, the queue's own bound) gives the place back.
"""

import math
from collections.abc import Callable
from typing import Final

from backends.http1.timer_wheel import Timer, TimerWheel
from backends.pool.pool import Pool
from gateway import errors
from gateway.exchange import Exchange
from gateway.http.driver import Signal
from gateway.observe.member_metrics import PoolMetrics
from policies.capacity.adaptive import AdaptiveLimit
from policies.capacity.admission import LONGEST_RETRY_AFTER, AdmissionQueue, AdmissionRefused, Ticket
from policies.config.settings import PlanSettings, QueueSettings

TICK: Final = 0.25
"""How often it is looked for what lets somebody in and is told by nobody, such as the end of a pause; seconds."""
_NO_QUEUE: Final = QueueSettings(size=0, wait=0.0)


class PoolQueue:
    """One pool's, over tables: its slots, and who waits for one."""

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
        """The pool of a new table, and where it counts."""
        self.pool, self._meter = pool, meter
        settings = pool.spec.queue if pool.spec.queue is not None else _NO_QUEUE
        self.queue.size, self._wait = settings.size, settings.wait
        self._seen = -1
        if pool.spec.max_in_flight != "auto":
            self._limit = None
        elif self._limit is None:
            self._limit = AdaptiveLimit()
        self._tell()

    def open(self) -> None:
        """The pool is gone: whoever waits may go on."""
        self._gone = True
        self._tell()

    # -- the requests' side

    def enter(self) -> bool:
        """Take a slot at once, if one is free and nobody waits for it."""
        if self._seen != self.pool.version:
            self._look(self._clock())
        return self.queue.enter()

    def leave(self, exchange: Exchange) -> None:
        """The request is over: its slot is the next one's."""
        now = self._clock()
        self.queue.give_back(now - exchange.entered)
        if self._limit is not None:
            self._learn(self._limit, exchange)
        if self.queue.waiting:
            self._look(now)
            self._call(now)

    def give_back(self) -> None:
        """A slot that was taken beside a request's own is free. For how long it was held says nothing of requests."""
        self.queue.taken -= 1
        if self.queue.waiting:
            self._call(self._clock())

    async def wait(self, exchange: Exchange, tenant: str, plan: PlanSettings) -> None:
        """Wait for a slot and take it. Raises GatewayError where there is none in time, ClientGone."""
        now = self._clock()
        left = exchange.left(now)
        ticket = Ticket(
            tenant, plan.priority, plan.weight, now, now + self._wait, math.inf if left is None else now + left
        )
        self._look(now)
        if self.queue.enter():
            return
        signal = self._place(exchange, ticket, now)
        exchange.phase, exchange.wait_until = "queue", ticket.wait_until
        exchange.cycle.wire.limit(self._wait if left is None else min(left, self._wait))
        try:
            await signal
        except errors.DeadlineExceeded:
            self._meter.queue_refused("timeout")
            raise
        except errors.QueueTimeout:
            # Where its slot came in the same moment it has it.
            if not ticket.admitted:
                raise self._in_vain(exchange, ticket) from None
        finally:
            self._waited(exchange, ticket)
        if ticket.refused is not None:
            raise self._refusal(AdmissionRefused(ticket.refused, self.queue.retry_after(ticket, self._clock())))

    def _place(self, exchange: Exchange, ticket: Ticket, now: float) -> Signal:
        """A place in the queue. Raises GatewayError."""
        lacking = self.pool.lacking(now, exchange.model) if not self.queue.slots and self.pool.candidates else None
        if lacking is not None and now + lacking.retry_after >= min(ticket.wait_until, ticket.deadline):
            self._meter.queue_refused("nobody")
            raise self._nobody(lacking.reason, lacking.retry_after)
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
        """It waits no more, whatever the reason. A slot that it got and can't use any more is given back by `leave`."""
        now = self._clock()
        self.queue.leave(ticket)
        del self._signals[ticket]
        if not self._signals and self._ticking is not None:
            self._wheel.cancel(self._ticking)
            self._ticking = None
        self._meter.queue_depth.value = self.queue.waiting
        self._meter.queued(now - ticket.since)
        exchange.queued = (exchange.queued or 0.0) + now - ticket.since
        exchange.received = exchange.entered = now
        exchange.hasten(now)
        if ticket.admitted:
            exchange.door = self

    def _learn(self, limit: AdaptiveLimit, exchange: Exchange) -> None:
        """What this answer tells of how many the engines take."""
        taken, relay, first = self.queue.taken + 1, exchange.relay, exchange.first_content
        before = limit.limit
        if exchange.outcome in ("429", "503"):
            limit.saturated(taken)
        elif relay is not None and first is not None and exchange.dispatched is not None:
            limit.answered("stream" if relay.stream else "plain", first - exchange.dispatched, taken)
        if limit.limit != before:
            self._measure(self._clock())

    # -- who is let in

    def _tick(self) -> None:
        self._ticking = self._wheel.arm(TICK, self._tick)
        self._tell()

    def _tell(self) -> None:
        """Something may be different."""
        now = self._clock()
        self._measure(now)
        self._call(now)

    def _call(self, now: float) -> None:
        """Let in whom there are slots for."""
        for ticket in self.queue.admit(now):
            self._signals[ticket].set()
        self._meter.queue_depth.value = self.queue.waiting

    def _look(self, now: float) -> None:
        """The same slots as the last time, unless something has changed; that a pause is over nobody tells."""
        if self._seen != self.pool.version or not self.queue.slots:
            self._measure(now)

    def _measure(self, now: float) -> None:
        """How many slots there are now."""
        if self._gone:
            self.queue.slots = math.inf
            return
        pool = self.pool
        self._seen = pool.version
        most = pool.spec.max_in_flight
        room = pool.room(now) if pool.gated else math.inf
        if room == math.inf and pool.lacking(now, None) is not None:
            # Nobody is there to wait for, whoever still holds a slot: only an answer at once helps.
            self.queue.slots = math.inf
        elif self._limit is not None:
            self.queue.slots = min(room, self._limit.limit)
        else:
            self.queue.slots = min(room, most) if isinstance(most, int) else room

    # -- what a client is told

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

    def _in_vain(self, exchange: Exchange, ticket: Ticket) -> errors.GatewayError:
        """After a wait that was too long: for a place, or for anybody to be there at all."""
        now = self._clock()
        self._meter.queue_refused("timeout")
        if not self.queue.slots:
            why = self.pool.nobody(now, exchange.model)
            return self._nobody(why.reason, why.retry_after)
        seconds = self.queue.retry_after(ticket, now)
        return errors.QueueTimeout(
            f"No place was free within {self._wait:g} s (the pool's queue.wait). Try again in {seconds} s.",
            retry_after=seconds,
        )

    def _nobody(self, reason: str, seconds: float) -> errors.NoEndpoint:
        whole = _whole(seconds)
        return errors.NoEndpoint(
            f"No endpoint of pool {self.pool.name} is available now ({reason}). Try again in {whole} s.",
            retry_after=whole,
        )


def _whole(seconds: float) -> int:
    return max(1, min(LONGEST_RETRY_AFTER, math.ceil(seconds)))
