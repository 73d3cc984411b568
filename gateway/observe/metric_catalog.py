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
    "Client requests that are over, by the HTTP status they got (499: the client left).",
)
REQUEST_SECONDS = Metric(
    "request_seconds",
    "histogram",
    ("model", "pool", "stream"),
    "From the request's first byte in to the answer's last byte out, of requests that reached a pool.",
    _SECONDS,
)
FIRST_BYTE = Metric(
    "first_byte_seconds",
    "histogram",
    ("model", "pool"),
    "Streams: from the dispatch to the engine to its first content.",
    _FIRST_BYTE,
)
GAP = Metric("gap_seconds", "histogram", ("model", "pool"), "Streams: between two reads from the engine.", _GAP)
OUTPUT_TOKEN = Metric(
    "output_token_seconds",
    "histogram",
    ("model", "pool"),
    "Streams: time after the first content, divided by the completion tokens after the first.",
    _GAP,
)
OVERHEAD = Metric("overhead_seconds", "histogram", (), "What the gateway itself adds to a request.", _OVERHEAD)
QUEUE_SECONDS = Metric(
    "queue_seconds", "histogram", ("pool",), "How long requests waited for a slot, of those that had to wait.", _SECONDS
)
QUEUE_DEPTH = Metric("queue_depth", "gauge", ("pool",), "Requests that wait for a slot.")
QUEUE_REFUSED = Metric(
    "queue_refused_total",
    "counter",
    ("pool", "reason"),
    "Requests that got no slot: " + ", ".join(QUEUE_REASONS) + ".",
)
OPEN_STREAMS = Metric("open_streams", "gauge", (), "Streamed answers that are being relayed now.")
TOKENS = Metric(
    "tokens_total", "counter", ("model", "tenant", "kind"), "Tokens by the engines' own usage: prompt, completion."
)
ATTEMPTS = Metric(
    "attempts_total",
    "counter",
    ("pool", "endpoint", "outcome"),
    "Attempts that are over, by outcome: " + ", ".join(OUTCOMES) + " or a status.",
)
ENDPOINT_IN_FLIGHT = Metric("endpoint_in_flight", "gauge", ("pool", "endpoint"), "Attempts under way.")
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
    "Times it was left out for its failures: " + ", ".join(EJECTION_REASONS) + ".",
)
PROBES = Metric("probes_total", "counter", ("pool", "endpoint", "result"), "Health probes that are over: ok, failed.")
RETRIES = Metric(
    "retries_total",
    "counter",
    ("pool", "reason"),
    "Attempts after the first, by the outcome of the one before: a word or a status.",
)
RETRY_BUDGET_EXHAUSTED = Metric(
    "retry_budget_exhausted_total", "counter", ("pool",), "Retries that were not made because the budget was spent."
)
HEDGES = Metric(
    "hedges_total", "counter", ("pool",), "Second attempts that were made beside a slow first one (`routes[].hedge`)."
)
FALLBACKS = Metric(
    "fallbacks_total",
    "counter",
    ("route", "kind"),
    "Answers of a step of `routes[].fallback`, by what `x-sluice-degraded` says: cache, message or a pool's label.",
)
PANICS = Metric(
    "panics_total", "counter", ("pool",), "Choices that looked past ejection, pauses and probes: nobody else was there."
)
TIMEOUTS = Metric(
    "timeouts_total", "counter", ("kind",), "Timeouts that have passed: " + ", ".join(TIMEOUT_KINDS) + "."
)
WORKER_STATE = Metric(
    "worker_state", "gauge", ("pool", "worker", "state"), "1 for the state it is in: " + ", ".join(WORKER_STATES) + "."
)
WORKER_RESTARTS = Metric("worker_restarts_total", "counter", ("pool", "worker"), "Times a worker was started again.")
WORKER_START = Metric(
    "worker_start_seconds", "histogram", ("pool",), "From a worker's start to its first good health check.", _START
)
POLICY_GENERATION = Metric("policy_generation", "gauge", (), "How many policies have been in force since the start.")
POLICY_RELOAD_FAILURES = Metric(
    "policy_reload_failures_total", "counter", (), "Changed policy files that were refused; the last good one stayed."
)
LOOP_LAG = Metric("loop_lag_seconds", "histogram", (), "How late the event loop ran a timer.", _LAG)
CLIENT_GONE = Metric(
    "client_gone_total",
    "counter",
    ("phase",),
    "Clients that left before the end: " + ", ".join(CLIENT_GONE_PHASES) + ".",
)
STREAMS_BROKEN = Metric(
    "streams_broken_total", "counter", ("pool", "endpoint"), "Answers that the engine broke off after the first byte."
)
UNFRAMED_ENDS = Metric(
    "unframed_ends_total",
    "counter",
    ("pool", "endpoint"),
    "Answers whose end was the closing of the connection, so that a cut can't be told from the end.",
)
LOG_DROPPED = Metric(
    "access_log_dropped_total", "counter", (), "Access log lines lost to a full disk or a reader that stalls."
)
AUTH_FAILURES = Metric(
    "auth_failures_total",
    "counter",
    ("reason",),
    "Requests without a good credential: " + ", ".join(AUTH_REASONS) + ".",
)
STORE_SECONDS = Metric(
    "store_seconds", "histogram", (), "From a question to the store (limits, kept answers) to its answer.", _STORE
)
STORE_ERRORS = Metric(
    "store_errors_total",
    "counter",
    ("kind",),
    "Questions of limits and of keys that the store did not answer, or with an error: "
    + ", ".join(STORE_ERROR_KINDS)
    + ".",
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
    "Requests of routes with a cache, by what came of it: " + ", ".join(CACHE_RESULTS) + ".",
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
