"""Metrics of one pool, one endpoint and one worker. Callers look each object up once and keep it."""

from collections.abc import Callable

from gateway.observe import metric_catalog as names
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
from gateway.observe.series import Family, HistogramSeries, Metric, Number


class MemberFamilies:
    """Metric families with a label `pool`, `endpoint`, `worker` or `route`, in the order of the exposition."""

    def __init__(
        self, numbers: Callable[[Metric], Family[Number]], histograms: Callable[[Metric], Family[HistogramSeries]]
    ) -> None:
        """`numbers` and `histograms` create a family and register it."""
        self.attempts = numbers(names.ATTEMPTS)
        self.endpoint_in_flight = numbers(names.ENDPOINT_IN_FLIGHT)
        self.endpoint_state = numbers(names.ENDPOINT_STATE)
        self.ejections = numbers(names.EJECTIONS)
        self.breaker_state = numbers(names.BREAKER_STATE)
        self.probes = numbers(names.PROBES)
        self.retries = numbers(names.RETRIES)
        self.retry_budget_exhausted = numbers(names.RETRY_BUDGET_EXHAUSTED)
        self.hedges = numbers(names.HEDGES)
        self.fallbacks = numbers(names.FALLBACKS)
        self.panics = numbers(names.PANICS)
        self.queue_seconds = histograms(names.QUEUE_SECONDS)
        self.queue_depth = numbers(names.QUEUE_DEPTH)
        self.queue_refused = numbers(names.QUEUE_REFUSED)
        self.streams_broken = numbers(names.STREAMS_BROKEN)
        self.unframed_ends = numbers(names.UNFRAMED_ENDS)
        self.worker_state = numbers(names.WORKER_STATE)
        self.worker_restarts = numbers(names.WORKER_RESTARTS)
        self.worker_start = histograms(names.WORKER_START)


class PoolMetrics:
    """Metrics of one pool. `budget_exhausted`, `hedges` and `panics` are counters: add to their `value`. `queue_depth`
    is a gauge; `queued` observes how long a request waited in the queue, in seconds."""

    __slots__ = (
        "_family", "_name", "_queue_refused", "_retries", "budget_exhausted", "hedges", "panics", "queue_depth",
        "queued",
    )  # fmt: skip

    def __init__(self, families: MemberFamilies, pool: str) -> None:
        self._name = pool
        self._family = families.retries
        self._retries = {reason: self._family.known(pool, reason) for reason in RETRY_REASONS}
        self.budget_exhausted = families.retry_budget_exhausted.known(pool)
        self.hedges = families.hedges.known(pool)
        self.panics = families.panics.known(pool)
        self.queued: Callable[[float], None] = families.queue_seconds.known(pool).observe
        self.queue_depth = families.queue_depth.known(pool)
        self._queue_refused = {reason: families.queue_refused.known(pool, reason) for reason in QUEUE_REASONS}

    def queue_refused(self, reason: str) -> None:
        """Count a request that got no slot, for one of QUEUE_REASONS; KeyError for another."""
        self._queue_refused[reason].value += 1

    def retried(self, reason: str) -> None:
        """Count one more attempt, made because of an outcome: its name (`no_answer` ...) or a status (`503`)."""
        number = self._retries.get(reason)
        if number is None:
            number = self._retries[reason] = self._family.get(self._name, reason)
        number.value += 1


class EndpointMetrics:
    """Metrics of one endpoint. `in_flight` is a gauge: add to its `value` at dispatch, subtract at the end."""

    __slots__ = (
        "_attempts", "_breaker", "_ejections", "_names", "_outcomes", "_probes", "_states", "broken", "in_flight",
        "unframed",
    )  # fmt: skip

    def __init__(self, families: MemberFamilies, pool: str, endpoint: str) -> None:
        self._names = (pool, endpoint)
        self._attempts = families.attempts
        self.in_flight = families.endpoint_in_flight.known(pool, endpoint)
        self.broken = families.streams_broken.known(pool, endpoint)
        self.unframed = families.unframed_ends.known(pool, endpoint)
        self._states = {state: families.endpoint_state.known(pool, endpoint, state) for state in ENDPOINT_STATES}
        self._breaker = {state: families.breaker_state.known(pool, endpoint, state) for state in BREAKER_STATES}
        self._ejections = {reason: families.ejections.known(pool, endpoint, reason) for reason in EJECTION_REASONS}
        self._probes = {result: families.probes.known(pool, endpoint, result) for result in PROBE_RESULTS}
        self._outcomes = {outcome: self._attempts.known(pool, endpoint, outcome) for outcome in OUTCOMES}

    def attempt(self, outcome: str) -> None:
        """Count an attempt that has ended: an outcome's name (`ok`, `not_sent` ...) or a status as text (`503`)."""
        number = self._outcomes.get(outcome)
        if number is None:
            number = self._outcomes[outcome] = self._attempts.get(*self._names, outcome)
        number.value += 1

    def state(self, name: str) -> None:
        """Set the endpoint's present state, one of ENDPOINT_STATES; KeyError for another."""
        _set_state(self._states, name)

    def breaker(self, state: str) -> None:
        """Set the worst present state of the endpoint's breakers, one of BREAKER_STATES; KeyError for another."""
        _set_state(self._breaker, state)

    def ejected(self, reason: str) -> None:
        """Count an ejection of the endpoint, for one of EJECTION_REASONS; KeyError for another."""
        self._ejections[reason].value += 1

    def probed(self, ok: bool) -> None:
        """Count a probe that has ended."""
        self._probes["ok" if ok else "failed"].value += 1


class WorkerMetrics:
    """Metrics of one worker."""

    __slots__ = ("_restarts", "_start", "_states")

    def __init__(self, families: MemberFamilies, pool: str, worker: str) -> None:
        self._states = {state: families.worker_state.known(pool, worker, state) for state in WORKER_STATES}
        self._restarts = families.worker_restarts.known(pool, worker)
        self._start = families.worker_start.known(pool).observe

    def state(self, name: str) -> None:
        """Set the worker's present state, one of WORKER_STATES; KeyError for another."""
        _set_state(self._states, name)

    def restarted(self) -> None:
        """Count a restart of the worker."""
        self._restarts.value += 1

    def started(self, seconds: float) -> None:
        """Observe the seconds from the start of the process to its first good health check."""
        self._start(seconds)


def _set_state(states: dict[str, Number], name: str) -> None:
    now = states[name]
    for number in states.values():
        number.value = 0
    now.value = 1
