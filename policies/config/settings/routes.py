"""Settings of the routes (policy key `routes`)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from policies.config.forms import (
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
    Bound,
)
from policies.config.kind import UNSET
from policies.config.settings.fallback import FallbackSettings
from policies.config.settings.rollout import CanarySettings, ShadowSettings
from policies.config.units import COUNT, FACTOR, NUMBER, SECONDS, SECONDS_ABOVE_0, SHARE, SIZE

Method = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchSettings:
    """Further conditions of a route; all must hold.

    plan: plan of the principal
    prompt_tokens: comparison with the estimated prompt, such as "<=2048"
    header: headers with their values
    stream: true: streams only; false: plain answers only
    """

    plan: Annotated[str | None, PLAN_NAME, UNSET] = None
    prompt_tokens: Annotated[Bound | None, BOUND, UNSET] = None
    header: Mapping[Annotated[str, HEADER_NAME], Annotated[str, HEADER_VALUE]] = field(default_factory=dict)
    stream: Annotated[bool | None, BOOL, UNSET] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeoutSettings:
    """Timeouts of the phases of a request.

    connect: connection to an endpoint, TLS included
    first_byte: time to the first content of a stream
    first_byte_plain: time to the first byte of a plain answer
    idle: time between bytes of a stream
    attempt: duration of one attempt
    total: duration of the whole request, all attempts together
    """

    connect: Annotated[float, SECONDS_ABOVE_0] = 2.0
    first_byte: Annotated[float, SECONDS_ABOVE_0] | None = 60.0
    first_byte_plain: Annotated[float, SECONDS_ABOVE_0] | None = None
    idle: Annotated[float, SECONDS_ABOVE_0] | None = 60.0
    attempt: Annotated[float, SECONDS_ABOVE_0] | None = 1800.0
    total: Annotated[float, SECONDS_ABOVE_0] | None = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrySettings:
    """Retries: conditions, number and waits of further attempts.

    retries: attempts after the first, shared with hedges and fallback pools
    backoff: first wait before another attempt at the same endpoint
    factor: growth of each further wait
    max: longest wait
    jitter: full draws each wait from 0 to its length
    budget: retries per request of the last 10 s, per pool and process
    floor: retries that are always allowed in 10 s
    when: outcomes that are retried; a broken_off answer is never retried
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
class HedgeSettings:
    """A second attempt beside a slow first one.

    after: silence of the first attempt after which a hedge is sent
    budget: hedges per request
    """

    after: Annotated[float, SECONDS_ABOVE_0] = 2.0
    budget: Annotated[float, SHARE] = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSettings:
    """Response cache of the route.

    mode: deterministic (temperature 0 or a seed) or always
    ttl: time for which an answer is fresh
    stale: time after ttl for which an answer may serve as a fallback
    scope: clients that share answers: those of one tenant, or all
    max_size: the largest answer that is kept
    """

    mode: Literal["deterministic", "always"] = "deterministic"
    ttl: Annotated[float, SECONDS_ABOVE_0] = 600.0
    stale: Annotated[float, SECONDS] = 86400.0
    scope: Literal["tenant", "shared"] = "tenant"
    max_size: Annotated[int, SIZE] = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteSettings:
    """Route from a model or a path to a pool; the first match wins. Exactly one of model and path.

    model: a name or a glob in the request's body
    aliases: other names or globs for it
    path: path, for requests that name no model; instead of model
    methods: methods of that path
    match: further conditions
    pool: pool that answers
    upstream_model: name of the model at the engine; rewritten in the request only when it differs
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
    match: MatchSettings | None = None
    pool: Annotated[str, NAME]
    upstream_model: Annotated[str | None, MODEL, UNSET] = None
    timeouts: TimeoutSettings = TimeoutSettings()
    retry: RetrySettings | None = RetrySettings()
    hedge: HedgeSettings | None = None
    cache: CacheSettings | None = None
    fallback: tuple[FallbackSettings, ...] = ()
    canary: CanarySettings | None = None
    shadow: ShadowSettings | None = None

    def __post_init__(self) -> None:
        if (self.model is None) == (self.path is None):
            raise ValueError("a route has a model or a path, one of them")
        if self.path is not None and (self.aliases or self.upstream_model is not None):
            raise ValueError("aliases and upstream_model belong to a route with a model")
        if not self.methods:
            raise ValueError("methods is empty")
        if self.cache is not None and not self.cache.stale and any(step.cache is not None for step in self.fallback):
            raise ValueError("a stale answer as a fallback needs cache.stale: with 0s none is kept past its ttl")
        self._check_hedge()

    def _check_hedge(self) -> None:
        if self.hedge is None:
            return
        if self.timeouts.first_byte is not None and self.hedge.after >= self.timeouts.first_byte:
            raise ValueError("hedge.after must be less than timeouts.first_byte, which ends an attempt that is silent")
        retries = 0 if self.retry is None else self.retry.retries
        pools = sum(step.pool is not None for step in self.fallback)
        if not retries:
            raise ValueError("hedge needs retry.retries: a hedge is an attempt after the first")
        if retries <= pools:
            raise ValueError(
                f"hedge needs more retry.retries than {retries}: each pool of fallback is left one of them, and a "
                "hedge takes one"
            )
