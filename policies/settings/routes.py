"""What clients may ask for (POLICY: `routes`)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from policies.addresses import URL
from policies.forms import (
    BOOL,
    BOUND,
    GLOB,
    HEADER_NAME,
    HEADER_VALUE,
    MODEL,
    NAME,
    OUTCOME,
    PATH_GLOB,
    PLAN_NAME,
    TEXT,
    Bound,
)
from policies.kind import UNSET
from policies.settings.secret import Secret
from policies.units import (
    COUNT,
    COUNT_ABOVE_0,
    FACTOR,
    NUMBER,
    PERCENT,
    PERCENT_ABOVE_0,
    SECONDS,
    SECONDS_ABOVE_0,
    SHARE,
    SIZE,
    STATUS,
)

Method = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """Further conditions of a route; all must hold.

    plan: the principal's plan
    prompt_tokens: a comparison with the estimated prompt, such as "<=2048"
    header: headers with their values
    stream: whether a stream is asked for
    """

    plan: Annotated[str | None, PLAN_NAME, UNSET] = None
    prompt_tokens: Annotated[Bound | None, BOUND, UNSET] = None
    header: Mapping[Annotated[str, HEADER_NAME], Annotated[str, HEADER_VALUE]] = field(default_factory=dict)
    stream: Annotated[bool | None, BOOL, UNSET] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """How long each phase may take.

    connect: to an endpoint, TLS included
    first_byte: to the first content of a stream
    first_byte_plain: the same for a plain answer
    idle: between bytes of a stream
    attempt: one attempt
    total: the whole request, all attempts together
    """

    connect: Annotated[float, SECONDS_ABOVE_0] = 2.0
    first_byte: Annotated[float, SECONDS_ABOVE_0] | None = 60.0
    first_byte_plain: Annotated[float, SECONDS_ABOVE_0] | None = None
    idle: Annotated[float, SECONDS_ABOVE_0] | None = 60.0
    attempt: Annotated[float, SECONDS_ABOVE_0] | None = 1800.0
    total: Annotated[float, SECONDS_ABOVE_0] | None = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """When and how often another attempt is made.

    retries: attempts after the first, shared with hedges and fallback pools
    backoff: first wait before an endpoint is tried again
    factor: how much longer each further wait is
    max: longest wait
    jitter: full draws each wait from 0 to its length
    budget: retries for each request of the last 10 s, per pool and process
    floor: retries that are always allowed in 10 s
    when: outcomes that are retried; a broken_off answer never is, whatever stands here
    """

    retries: Annotated[int, COUNT] = 3
    backoff: Annotated[float, SECONDS] = 1.0
    factor: Annotated[float, FACTOR] = 2.0
    max: Annotated[float, SECONDS] = 4.0
    jitter: Literal["full", "none"] = "full"
    budget: Annotated[float, NUMBER] = 0.2
    floor: Annotated[int, COUNT] = 10
    when: tuple[Annotated[str | int, OUTCOME], ...] = ("not_sent", "no_answer", "too_slow", 429, 502, 503, 504)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hedge:
    """A second attempt beside a slow first one.

    after: how long the first may be silent
    budget: hedges for each request
    """

    after: Annotated[float, SECONDS_ABOVE_0] = 2.0
    budget: Annotated[float, SHARE] = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Cache:
    """Answers that are given again.

    mode: deterministic (temperature 0 or a seed) or always
    ttl: how long an answer is fresh
    stale: how long it may serve as a fallback
    scope: who shares answers
    max_size: the largest answer that is kept
    """

    mode: Literal["deterministic", "always"] = "deterministic"
    ttl: Annotated[float, SECONDS_ABOVE_0] = 600.0
    stale: Annotated[float, SECONDS] = 86400.0
    scope: Literal["tenant", "shared"] = "tenant"
    max_size: Annotated[int, SIZE] = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """Whom to tell.

    url: receives a POST
    token: sent as a bearer
    """

    url: Annotated[str, URL]
    token: Annotated[Secret | None, UNSET] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fallback:
    """One step once the pool cannot answer: exactly one of pool, cache and message.

    pool: another pool
    upstream_model: the model's name there; absent: the route's own
    max_tokens: at most so many tokens from it
    label: what x-sluice-degraded says of it; absent: simplified
    concurrency: so many requests at once are sent there; others go to the next step
    cache: stale: an answer past its ttl
    message: a text of ours
    status: the text's HTTP status; from 400 on, and where the path's answers hold no text, it is an error's text
    webhook: who is told once an incident when this step answers
    """

    pool: Annotated[str | None, NAME, UNSET] = None
    upstream_model: Annotated[str | None, MODEL, UNSET] = None
    max_tokens: Annotated[int | None, COUNT_ABOVE_0, UNSET] = None
    label: Annotated[str | None, NAME, UNSET] = None
    concurrency: Annotated[int, COUNT_ABOVE_0] | None = 64
    cache: Annotated[Literal["stale"] | None, UNSET] = None
    message: Annotated[str | None, TEXT, UNSET] = None
    status: Annotated[int, STATUS] = 200
    webhook: Annotated[Webhook | None, UNSET] = None

    def __post_init__(self) -> None:
        if sum(kind is not None for kind in (self.pool, self.cache, self.message)) != 1:
            raise ValueError("a step of fallback has exactly one of pool, cache and message")
        if self.pool is None and any(one is not None for one in (self.upstream_model, self.max_tokens, self.label)):
            raise ValueError("upstream_model, max_tokens and label belong to a step with a pool")
        if self.message is None and self.status != 200:
            raise ValueError("status belongs to a step with a message")
        if self.message is not None and not _is_text(self.message):
            raise ValueError("a message has text in it, and nothing that is no Unicode")
        if 300 <= self.status < 400:
            raise ValueError("a message has a status of 200 to 299, or from 400 on")


def _is_text(message: str) -> bool:
    """YAML can say half a surrogate pair, which nobody could be sent."""
    return bool(message.strip()) and not any("\ud800" <= one <= "\udfff" for one in message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """When a canary is as good as the pool beside it.

    min_requests: fewest requests before a verdict
    confidence: how sure
    error_rate: margin over the baseline's
    first_byte_p95: ratio to the baseline's
    gap_p95: ratio to the baseline's
    broken_streams: margin over the baseline's
    """

    min_requests: Annotated[int, COUNT_ABOVE_0] = 200
    confidence: Annotated[float, SHARE] = 0.95
    error_rate: Annotated[float, SHARE] = 0.01
    first_byte_p95: Annotated[float, FACTOR] = 1.3
    gap_p95: Annotated[float, FACTOR] = 1.5
    broken_streams: Annotated[float, SHARE] = 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """A new pool that gets more and more of the traffic.

    pool: the new one
    steps: percent of the traffic, rising
    every: how long a step lasts
    sticky: the same caller stays on the same side
    judge: when it is good enough
    on_failure: what happens when it is not
    """

    pool: Annotated[str, NAME]
    steps: tuple[Annotated[float, PERCENT_ABOVE_0], ...] = (5.0, 10.0, 25.0, 50.0, 100.0)
    every: Annotated[float, SECONDS_ABOVE_0] = 300.0
    sticky: Literal["key", "tenant", "user", "session"] | None = "tenant"
    judge: Judge = Judge()
    on_failure: Literal["rollback", "pause"] = "rollback"

    def __post_init__(self) -> None:
        if not self.steps or list(self.steps) != sorted(set(self.steps)):
            raise ValueError("steps are percentages, each more than the one before")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shadow:
    """A pool that gets a copy of some requests and whose answers nobody sees.

    pool: the pool
    percent: how many of the requests
    """

    pool: Annotated[str, NAME]
    percent: Annotated[float, PERCENT] = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """What a client may ask for, and who answers it; the first match wins. Exactly one of model and path.

    model: a name or a glob in the request's body
    aliases: other names or globs for it
    path: or a path, for what names no model
    methods: methods of that path
    match: further conditions
    pool: who answers
    upstream_model: the model's name there; rewritten in the request only when it differs
    timeouts: how long each phase may take
    retry: when and how often another attempt is made
    hedge: a second attempt beside a slow first one
    cache: answers that are given again
    fallback: what is tried, in this order, once the pool cannot answer
    canary: a new pool that gets more and more of the traffic
    shadow: a pool that gets copies
    """

    model: Annotated[str | None, GLOB, UNSET] = None
    aliases: tuple[Annotated[str, GLOB], ...] = ()
    path: Annotated[str | None, PATH_GLOB, UNSET] = None
    methods: tuple[Method, ...] = ("POST",)
    match: Match | None = None
    pool: Annotated[str, NAME]
    upstream_model: Annotated[str | None, MODEL, UNSET] = None
    timeouts: Timeouts = Timeouts()
    retry: Retry | None = Retry()
    hedge: Hedge | None = None
    cache: Cache | None = None
    fallback: tuple[Fallback, ...] = ()
    canary: Canary | None = None
    shadow: Shadow | None = None

    def __post_init__(self) -> None:
        if (self.model is None) == (self.path is None):
            raise ValueError("a route has a model or a path, one of them")
        if self.path is not None and (self.aliases or self.upstream_model is not None):
            raise ValueError("aliases and upstream_model belong to a route with a model")
        if not self.methods:
            raise ValueError("methods is empty")
        if self.hedge is not None and (self.retry is None or not self.retry.retries):
            raise ValueError("hedge needs retry.retries: a hedge is an attempt after the first")
