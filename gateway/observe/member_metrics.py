"""What is counted of one pool, one endpoint and one worker. Each is looked up once and kept by whoever counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from gateway.observe.metric_catalog import (
    BREAKER_STATES,
    EJECTION_REASONS,
    ENDPOINT_STATES,
    OUTCOMES,
    PROBE_RESULTS,
    QUEUE_REASONS,
    RETRY_REASONS,
    WORKER_STATES,
)
from gateway.observe.series import Number

if TYPE_CHECKING:
    from gateway.observe.metrics import Metrics


class PoolMetrics:
    """What is counted of one pool. `budget_exhausted`, `hedges` and `panics` are counters: add to their `value`.
    `queue_depth` is a gauge; `queued` is told how long each request waited that had to, in seconds."""

    __slots__ = (
        "_family", "_name", "_queue_refused", "_retries", "budget_exhausted", "hedges", "panics", "queue_depth",
        "queued",
    )  # fmt: skip

    def __init__(self, owner: Metrics, pool: str) -> None:
        self._name = pool
        self._family = owner.retries
        self._retries = {reason: self._family.known(pool, reason) for reason in RETRY_REASONS}
        self.budget_exhausted = owner.retry_budget_exhausted.known(pool)
        self.hedges = owner.hedges.known(pool)
        self.panics = owner.panics.known(pool)
        self.queued: Callable[[float], None] = owner.queue_seconds.known(pool).observe
        self.queue_depth = owner.queue_depth.known(pool)
        self._queue_refused = {reason: owner.queue_refused.known(pool, reason) for reason in QUEUE_REASONS}

    def queue_refused(self, reason: str) -> None:
        """A request got no slot, for one of QUEUE_REASONS; KeyError for another."""
        self._queue_refused[reason].value += 1

    def retried(self, reason: str) -> None:
        """One more attempt was made because of this outcome: its word (`no_answer` ...) or a status as text (`503`)."""
        number = self._retries.get(reason)
        if number is None:
            number = self._retries[reason] = self._family.get(self._name, reason)
        number.value += 1


class EndpointMetrics:
    """What is counted of one endpoint. `in_flight` is a gauge: add to its `value` at dispatch, take off at the end."""

    __slots__ = (
        "_attempts", "_breaker", "_ejections", "_names", "_outcomes", "_probes", "_states", "broken", "in_flight",
        "unframed",
    )  # fmt: skip

    def __init__(self, owner: Metrics, pool: str, endpoint: str) -> None:
        self._names = (pool, endpoint)
        self._attempts = owner.attempts
        self.in_flight = owner.endpoint_in_flight.known(pool, endpoint)
        self.broken = owner.streams_broken.known(pool, endpoint)
        self.unframed = owner.unframed_ends.known(pool, endpoint)
        self._states = {state: owner.endpoint_state.known(pool, endpoint, state) for state in ENDPOINT_STATES}
        self._breaker = {state: owner.breaker_state.known(pool, endpoint, state) for state in BREAKER_STATES}
        self._ejections = {reason: owner.ejections.known(pool, endpoint, reason) for reason in EJECTION_REASONS}
        self._probes = {result: owner.probes.known(pool, endpoint, result) for result in PROBE_RESULTS}
        self._outcomes = {outcome: self._attempts.known(pool, endpoint, outcome) for outcome in OUTCOMES}

    def attempt(self, outcome: str) -> None:
        """One attempt has ended: an outcome's word (`ok`, `not_sent` ...) or a status as text (`503`)."""
        number = self._outcomes.get(outcome)
        if number is None:
            number = self._outcomes[outcome] = self._attempts.get(*self._names, outcome)
        number.value += 1

    def state(self, name: str) -> None:
        """The endpoint is in this state now, one of ENDPOINT_STATES; KeyError for another."""
        _set_state(self._states, name)

    def breaker(self, state: str) -> None:
        """The worst of its breakers is in this state now, one of BREAKER_STATES; KeyError for another."""
        _set_state(self._breaker, state)

    def ejected(self, reason: str) -> None:
        """It was ejected, for one of EJECTION_REASONS; KeyError for another."""
        self._ejections[reason].value += 1

    def probed(self, ok: bool) -> None:
        """One probe of it has ended."""
        self._probes["ok" if ok else "failed"].value += 1


class WorkerMetrics:
    """What is counted of one worker."""

    __slots__ = ("_restarts", "_start", "_states")

    def __init__(self, owner: Metrics, pool: str, worker: str) -> None:
        self._states = {state: owner.worker_state.known(pool, worker, state) for state in WORKER_STATES}
        self._restarts = owner.worker_restarts.known(pool, worker)
        self._start = owner.worker_start.known(pool).observe

    def state(self, name: str) -> None:
        """The worker is in this state now, one of WORKER_STATES; KeyError for another."""
        _set_state(self._states, name)

    def restarted(self) -> None:
        """The worker was started again."""
        self._restarts.value += 1

    def started(self, seconds: float) -> None:
        """From the start of the process to its first good health check."""
        self._start(seconds)


def _set_state(states: dict[str, Number], name: str) -> None:
    now = states[name]
    for number in states.values():
        number.value = 0
    now.value = 1
