"""The table of every metric: names, types, labels, buckets and help. README's table is generated from METRICS.

Released names change only with a changelog line that says what to do: dashboards and alerts hang on them.
"""

from __future__ import annotations

from typing import get_args

from gateway.observe.series import Metric
from policies.identity.principal import Reason

PREFIX = "sluice_"

# What may be said of an attempt, beside a status as a number.
OUTCOMES = ("ok", "not_sent", "no_answer", "too_slow", "broken_off", "client_gone", "hedge_lost")
# One at a time. `unknown` is an endpoint that no probe has looked at yet.
ENDPOINT_STATES = ("unknown", "up", "suspect", "down", "paused", "ejected", "draining")
BREAKER_STATES = ("closed", "half_open", "open")
EJECTION_REASONS = ("consecutive", "error_rate", "saturated")
PROBE_RESULTS = ("ok", "failed")
# Outcomes that the default `retry.when` lists; others appear with their first retry.
RETRY_REASONS = ("not_sent", "no_answer", "too_slow", "429", "502", "503", "504")
# Why a request did not get the slot that it wanted.
QUEUE_REASONS = ("full", "pushed_out", "late", "timeout", "nobody")
# What came of asking a route's cache.
CACHE_RESULTS = ("hit", "stale", "miss", "bypass", "store_error", "shared")
TIMEOUT_KINDS = ("connect", "first_byte", "idle", "attempt", "total", "header", "body", "write")
WORKER_STATES = ("starting", "ready", "backoff", "stopping", "stopped", "quarantined")
AUTH_REASONS: tuple[str, ...] = get_args(Reason)
# What can be wrong with the store of limits, and by whom they are decided.
STORE_ERROR_KINDS = ("timeout", "connection", "readonly", "loading", "oom", "noauth", "moved", "other")
LIMIT_MODES = ("store", "local", "open", "closed")
# Where in the order of policies a client was lost.
CLIENT_GONE_PHASES = ("request", "queue", "connect", "first_byte", "stream", "retry")

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_FIRST_BYTE = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_GAP = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_OVERHEAD = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1)
_STORE = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
_LAG = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_START = (0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)

REQUESTS = Metric(
    "requests_total",
    "counter",
    ("route", "model", "pool", "tenant", "stream", "code"),
    "Finished client requests, by HTTP status (499: the client left).",
)
REQUEST_SECONDS = Metric(
    "request_seconds",
    "histogram",
    ("model", "pool", "stream"),
    "Time from the request's first byte to the answer's last byte, for requests that reached a pool.",
    _SECONDS,
)
FIRST_BYTE = Metric(
    "first_byte_seconds",
    "histogram",
    ("model", "pool"),
    "Streams: time from dispatch to the first content (time to first token).",
    _FIRST_BYTE,
)
GAP = Metric("gap_seconds", "histogram", ("model", "pool"), "Streams: time between two reads from the engine.", _GAP)
OUTPUT_TOKEN = Metric(
    "output_token_seconds",
    "histogram",
    ("model", "pool"),
    "Streams: time after the first content, divided by the completion tokens after the first.",
    _GAP,
)
OVERHEAD = Metric("overhead_seconds", "histogram", (), "Time that the gateway itself adds to a request.", _OVERHEAD)
QUEUE_SECONDS = Metric(
    "queue_seconds", "histogram", ("pool",), "Time that requests waited for a slot, for those that waited.", _SECONDS
)
QUEUE_DEPTH = Metric("queue_depth", "gauge", ("pool",), "Requests that wait for a slot.")
QUEUE_REFUSED = Metric(
    "queue_refused_total",
    "counter",
    ("pool", "reason"),
    "Requests that got no slot, by reason: " + ", ".join(QUEUE_REASONS) + ".",
)
OPEN_STREAMS = Metric("open_streams", "gauge", (), "Streamed answers under way.")
TOKENS = Metric(
    "tokens_total",
    "counter",
    ("model", "tenant", "kind"),
    "Tokens, by the usage that engines report: prompt, completion.",
)
ATTEMPTS = Metric(
    "attempts_total",
    "counter",
    ("pool", "endpoint", "outcome"),
    "Finished attempts, by outcome: " + ", ".join(OUTCOMES) + " or a status.",
)
ENDPOINT_IN_FLIGHT = Metric("endpoint_in_flight", "gauge", ("pool", "endpoint"), "Attempts in flight.")
ENDPOINT_STATE = Metric(
    "endpoint_state",
    "gauge",
    ("pool", "endpoint", "state"),
    "1 for the state it is in: " + ", ".join(ENDPOINT_STATES) + ".",
)
BREAKER_STATE = Metric(
    "breaker_state",
    "gauge",
    ("pool", "endpoint", "state"),
    "1 for the state of its breaker, the worst of all models': " + ", ".join(BREAKER_STATES) + ".",
)
EJECTIONS = Metric(
    "ejections_total",
    "counter",
    ("pool", "endpoint", "reason"),
    "Ejections of the endpoint, by reason: " + ", ".join(EJECTION_REASONS) + ".",
)
PROBES = Metric("probes_total", "counter", ("pool", "endpoint", "result"), "Finished health probes: ok, failed.")
RETRIES = Metric(
    "retries_total",
    "counter",
    ("pool", "reason"),
    "Retries, by the outcome of the attempt before: a word or a status.",
)
RETRY_BUDGET_EXHAUSTED = Metric(
    "retry_budget_exhausted_total", "counter", ("pool",), "Retries that the retry budget refused."
)
HEDGES = Metric("hedges_total", "counter", ("pool",), "Second attempts beside a slow first one (`routes[].hedge`).")
FALLBACKS = Metric(
    "fallbacks_total",
    "counter",
    ("route", "kind"),
    "Answers by a step of `routes[].fallback`, by the value of `x-sluice-degraded`: cache, message or a pool's label.",
)
PANICS = Metric(
    "panics_total",
    "counter",
    ("pool",),
    "Choices that ignored ejection, pauses and probes, because no candidate was left.",
)
TIMEOUTS = Metric(
    "timeouts_total", "counter", ("kind",), "Expired timeouts, by kind: " + ", ".join(TIMEOUT_KINDS) + "."
)
WORKER_STATE = Metric(
    "worker_state", "gauge", ("pool", "worker", "state"), "1 for the state it is in: " + ", ".join(WORKER_STATES) + "."
)
WORKER_RESTARTS = Metric("worker_restarts_total", "counter", ("pool", "worker"), "Restarts of a worker.")
WORKER_START = Metric(
    "worker_start_seconds", "histogram", ("pool",), "Time from a worker's start to its first good health check.", _START
)
POLICY_GENERATION = Metric(
    "policy_generation", "gauge", (), "Number of policies that have been in force since the start."
)
POLICY_RELOAD_FAILURES = Metric(
    "policy_reload_failures_total",
    "counter",
    (),
    "Changed policy files that were refused; the last good policy stays in force.",
)
LOOP_LAG = Metric("loop_lag_seconds", "histogram", (), "Delay with which the event loop ran a timer.", _LAG)
CLIENT_GONE = Metric(
    "client_gone_total",
    "counter",
    ("phase",),
    "Clients that left before the end, by phase: " + ", ".join(CLIENT_GONE_PHASES) + ".",
)
STREAMS_BROKEN = Metric(
    "streams_broken_total", "counter", ("pool", "endpoint"), "Answers that broke off after the first byte."
)
UNFRAMED_ENDS = Metric(
    "unframed_ends_total",
    "counter",
    ("pool", "endpoint"),
    "Answers that ended with their connection, so that a cut cannot be told from the end.",
)
LOG_DROPPED = Metric(
    "access_log_dropped_total", "counter", (), "Access log lines lost to a full disk or a stalled reader."
)
AUTH_FAILURES = Metric(
    "auth_failures_total",
    "counter",
    ("reason",),
    "Requests without a valid credential, by reason: " + ", ".join(AUTH_REASONS) + ".",
)
STORE_SECONDS = Metric("store_seconds", "histogram", (), "Time of one call to the store (limits, cache).", _STORE)
STORE_ERRORS = Metric(
    "store_errors_total",
    "counter",
    ("kind",),
    "Failed calls to the store (limits, keys), by kind: " + ", ".join(STORE_ERROR_KINDS) + ".",
)
LIMIT_MODE = Metric(
    "limit_mode",
    "gauge",
    ("state",),
    "1 for who decides on limits: store (`memory://` as well), or while it is away what `store.on_outage` says (a "
    "limit may say its own). Of the states one is 1 as soon as a plan has limits; before that all are 0, as no store "
    "is used.",
)
LIMIT_REFUSED = Metric(
    "limit_refused_total", "counter", ("rule",), "Requests that a limit refused, by the rule (`PLAN.N`, from 0)."
)
CACHE = Metric(
    "cache_total",
    "counter",
    ("result",),
    "Requests of routes with a cache, by result: " + ", ".join(CACHE_RESULTS) + ".",
)
BUILD_INFO = Metric("build_info", "info", ("version",), "The gateway's version.")

METRICS: tuple[Metric, ...] = (
    REQUESTS,
    REQUEST_SECONDS,
    FIRST_BYTE,
    GAP,
    OUTPUT_TOKEN,
    OVERHEAD,
    QUEUE_SECONDS,
    QUEUE_DEPTH,
    QUEUE_REFUSED,
    OPEN_STREAMS,
    TOKENS,
    ATTEMPTS,
    ENDPOINT_IN_FLIGHT,
    ENDPOINT_STATE,
    BREAKER_STATE,
    EJECTIONS,
    PROBES,
    RETRIES,
    RETRY_BUDGET_EXHAUSTED,
    HEDGES,
    FALLBACKS,
    PANICS,
    TIMEOUTS,
    WORKER_STATE,
    WORKER_RESTARTS,
    WORKER_START,
    POLICY_GENERATION,
    POLICY_RELOAD_FAILURES,
    LOOP_LAG,
    CLIENT_GONE,
    STREAMS_BROKEN,
    UNFRAMED_ENDS,
    LOG_DROPPED,
    AUTH_FAILURES,
    STORE_SECONDS,
    STORE_ERRORS,
    LIMIT_MODE,
    LIMIT_REFUSED,
    CACHE,
    BUILD_INFO,
)
