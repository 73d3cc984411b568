"""Every metric of the gateway: its name, labels, buckets and help, and the narrow methods by which the parts count.

No global registry, no `_created` series.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from gateway.observe import metric_catalog as names
from gateway.observe.exposition import Snapshot, expose
from gateway.observe.member_metrics import EndpointMetrics, MemberFamilies, PoolMetrics, WorkerMetrics
from gateway.observe.metric_catalog import METRICS
from gateway.observe.series import Budget, Family, HistogramSeries, Metric, Number

__all__ = ["METRICS", "EndpointMetrics", "Metrics", "PoolMetrics", "WorkerMetrics"]

Observe = Callable[[float], None]
Pair = tuple[str, str]

# What the policy may leave out of the labels.
_OPTIONAL = frozenset({"tenant", "model", "pool"})


class Metrics:
    """All that one process counts. Every method is synchronous and for the event loop's thread only.

    `labels` and `max_series` are policy key `observe.metrics`: of tenant, model and pool, a label that is not listed is
    left out, save on what belongs to one endpoint, worker or pool; beyond `max_series` lines that traffic brought into
    being, models and tenants not seen before are counted as `other`. What the policy names is never refused.
    """

    def __init__(
        self, *, version: str, labels: Iterable[str] = ("tenant", "model", "pool"), max_series: int = 2000
    ) -> None:
        self._budget = Budget(max_series, _OPTIONAL - frozenset(labels))
        self._families: dict[str, Family[Any]] = {}
        self._requests = self._numbers(names.REQUESTS)
        self._request_seconds = self._histograms(names.REQUEST_SECONDS)
        self._first_byte = self._histograms(names.FIRST_BYTE)
        self._gap = self._histograms(names.GAP)
        self._output_token = self._histograms(names.OUTPUT_TOKEN)
        self._tokens = self._numbers(names.TOKENS)
        self._members = MemberFamilies(self._numbers, self._histograms)
        self._client_gone = self._words(names.CLIENT_GONE, names.CLIENT_GONE_PHASES)
        self._timeouts = self._words(names.TIMEOUTS, names.TIMEOUT_KINDS)
        self._auth_failures = self._words(names.AUTH_FAILURES, names.AUTH_REASONS)
        self.store_seconds: Observe = self._histograms(names.STORE_SECONDS).known().observe
        self._store_errors = self._words(names.STORE_ERRORS, names.STORE_ERROR_KINDS)
        self._limit_refused = self._numbers(names.LIMIT_REFUSED)
        self._limit_mode = self._words(names.LIMIT_MODE, names.LIMIT_MODES)
        self._cache = self._words(names.CACHE, names.CACHE_RESULTS)
        self.overhead: Observe = self._histograms(names.OVERHEAD).known().observe
        self.loop_lag: Observe = self._histograms(names.LOOP_LAG).known().observe
        self.open_streams = self._numbers(names.OPEN_STREAMS).known()
        self._generation = self._numbers(names.POLICY_GENERATION).known()
        self._reload_failures = self._numbers(names.POLICY_RELOAD_FAILURES).known()
        self._log_dropped = self._numbers(names.LOG_DROPPED).known()
        self._numbers(names.BUILD_INFO).known(version).value = 1
        self._pools: dict[str, PoolMetrics] = {}
        self._endpoints: dict[Pair, EndpointMetrics] = {}
        self._workers: dict[Pair, WorkerMetrics] = {}

    def limit_series(self, max_series: int, labels: Iterable[str] = ("tenant", "model", "pool")) -> None:
        """Apply policy key `observe.metrics`; call before anything is counted."""
        self._budget.left, self._budget.off = max_series, _OPTIONAL - frozenset(labels)

    def finished(
        self, route: str | None, model: str | None, pool: str | None, tenant: str | None, stream: bool, code: int,
        seconds: float,
    ) -> None:  # fmt: skip
        """Count a finished client request: `code` is its HTTP status (499: the client left), `seconds` from first byte
        in to last byte out. A request refused before it was routed has None for what is not known."""
        self._requests.get(route, model, pool, tenant, stream, code).value += 1
        if pool is not None:
            self._request_seconds.get(model, pool, stream).observe(seconds)

    def first_byte(self, model: str | None, pool: str | None) -> Observe:
        """Return the observer of the seconds from a streamed request's dispatch to its first content."""
        return self._first_byte.get(model, pool).observe

    def gap(self, model: str | None, pool: str | None) -> Observe:
        """Return the observer of the seconds between two reads of a stream: look up once a stream, call per event."""
        return self._gap.get(model, pool).observe

    def output_token(self, model: str | None, pool: str | None) -> Observe:
        """Return the observer of the seconds an output token: time after the first content of a stream, divided by the
        tokens after the first."""
        return self._output_token.get(model, pool).observe

    def tokens(self, model: str | None, tenant: str | None, prompt: int, completion: int) -> None:
        """Tokens of one finished exchange, by the engine's own usage."""
        self._tokens.get(model, tenant, "prompt").value += prompt
        self._tokens.get(model, tenant, "completion").value += completion

    def client_gone(self, phase: str) -> None:
        """The client left in this phase, one of CLIENT_GONE_PHASES; KeyError for another."""
        self._client_gone[phase].value += 1

    def timed_out(self, kind: str) -> None:
        """One of the timeouts has passed, one of TIMEOUT_KINDS; KeyError for another."""
        self._timeouts[kind].value += 1

    def auth_failed(self, reason: str) -> None:
        """A credential was missing or no good, one of AUTH_REASONS; KeyError for another."""
        self._auth_failures[reason].value += 1

    def store_error(self, kind: str) -> None:
        """A question of limits or of keys met an error, one of STORE_ERROR_KINDS; KeyError for another."""
        self._store_errors[kind].value += 1

    def limit_refused(self, rule: str) -> None:
        """A rule of a plan refused a request; rules come from the policy, so their number is bounded."""
        self._limit_refused.known(rule).value += 1

    def fallback(self, route: str, kind: str) -> Number:
        """Answers of one kind of a route's fallback; both names come from the policy, so their number is bounded."""
        return self._members.fallbacks.known(route, kind)

    def limit_mode(self, state: str) -> None:
        """By whom limits are decided now, one of LIMIT_MODES; KeyError for another."""
        for known, number in self._limit_mode.items():
            number.value = known == state

    def cached(self, result: str) -> None:
        """Count the result of a lookup in a route's cache, one of CACHE_RESULTS; KeyError for another."""
        self._cache[result].value += 1

    def policy_loaded(self, generation: int) -> None:
        """This generation of the policy is in force."""
        self._generation.value = generation

    def reload_failed(self) -> None:
        """A changed policy file was refused; the last good one stays."""
        self._reload_failures.value += 1

    def log_dropped(self, lines: int) -> None:
        """Set (not add) how many access log lines were lost since the start."""
        self._log_dropped.value = lines

    def pool(self, name: str) -> PoolMetrics:
        """The counters of one pool; they exist, at 0, from the first call on. The same object each time."""
        found = self._pools.get(name)
        if found is None:
            found = self._pools[name] = PoolMetrics(self._members, name)
        return found

    def endpoint(self, pool: str, endpoint: str) -> EndpointMetrics:
        """The counters of one endpoint; they exist, at 0, from the first call on. The same object each time."""
        found = self._endpoints.get((pool, endpoint))
        if found is None:
            found = self._endpoints[pool, endpoint] = EndpointMetrics(self._members, pool, endpoint)
        return found

    def worker(self, pool: str, worker: str) -> WorkerMetrics:
        """The counters of one worker; they exist, at 0, from the first call on. The same object each time."""
        found = self._workers.get((pool, worker))
        if found is None:
            found = self._workers[pool, worker] = WorkerMetrics(self._members, pool, worker)
        return found

    def known(
        self, *, pools: Iterable[str], routes: Iterable[Pair], endpoints: Iterable[Pair], workers: Iterable[Pair] = (),
        leaving: Iterable[Pair] = (),
    ) -> None:  # fmt: skip
        """Create the series of the table in force: pools, named routes as (model, pool), (pool, endpoint) and
        (pool, worker).

        The series of pools, endpoints and workers that are gone are dropped; those of endpoints that are `leaving`,
        with their pools', only once no longer named."""
        endpoints, workers, leaving = set(endpoints), set(workers), set(leaving)
        kept = frozenset(pools) | {pool for pool, _ in leaving}
        for family in self._families.values():
            if "pool" in family.metric.labels:
                family.keep("pool", kept)
        self._pools = {name: found for name, found in self._pools.items() if name in kept}
        for name in kept:
            self.pool(name)
        self._forget(self._endpoints, endpoints | leaving, "endpoint")
        self._forget(self._workers, workers, "worker")
        for model, pool in routes:
            self._request_seconds.known(model, pool, False)
            self._request_seconds.known(model, pool, True)
            for histograms in (self._first_byte, self._gap, self._output_token):
                histograms.known(model, pool)
        for pool, endpoint in endpoints:
            self.endpoint(pool, endpoint)
        for pool, worker in workers:
            self.worker(pool, worker)

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """The exposition and its content type, by the scraper's Accept header: text 0.0.4 or OpenMetrics 1.0.
        5 us a line; inside the gateway use `scrape`, which leaves the loop alone."""
        return expose(self._snapshot(), accept)

    async def scrape(self, accept: str = "") -> tuple[bytes, str]:
        """The same, written in a thread: only the copy of the numbers (0.4 us a line) is made on the loop."""
        return await asyncio.to_thread(expose, self._snapshot(), accept)

    def _forget(self, have: dict[Pair, Any], wanted: set[Pair], label: str) -> None:
        for pool, name in [pair for pair in have if pair not in wanted]:
            del have[pool, name]
            for family in self._families.values():
                if label in family.metric.labels:
                    family.drop(pool=pool, **{label: name})

    def _numbers(self, metric: Metric) -> Family[Number]:
        assert metric.name not in self._families, "one family a name"
        family = Family(metric, Number, self._budget)
        self._families[metric.name] = family
        return family

    def _words(self, metric: Metric, words: Iterable[str]) -> dict[str, Number]:
        """By its one label, which has these values and no other."""
        family = self._numbers(metric)
        return {word: family.known(word) for word in words}

    def _histograms(self, metric: Metric) -> Family[HistogramSeries]:
        assert metric.name not in self._families, "one family a name"
        family = Family(metric, HistogramSeries, self._budget)
        self._families[metric.name] = family
        return family

    def _snapshot(self) -> Snapshot:
        return [
            (family.metric, [(labels, list(child.samples())) for labels, child in family.labelled()])
            for family in self._families.values()
        ]
