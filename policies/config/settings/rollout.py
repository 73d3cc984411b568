"""Settings of canary and shadow traffic (policy keys `routes[].canary`, `routes[].shadow`)."""

from dataclasses import dataclass
from typing import Annotated, Literal

from policies.config.forms import NAME
from policies.config.units import COUNT_ABOVE_0, FACTOR, PERCENT, PERCENT_ABOVE_0, SECONDS_ABOVE_0, SHARE


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeSettings:
    """Criteria by which a canary is compared with the route's pool.

    min_requests: fewest requests before a verdict
    confidence: statistical confidence of a verdict
    error_rate: accepted margin over the baseline's
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
class CanarySettings:
    """Canary: a new pool that gets a growing share of the traffic.

    pool: pool of the canary
    steps: percent of the traffic, rising
    every: duration of a step
    sticky: unit that stays on the same side
    judge: criteria of the verdict
    on_failure: action on a bad verdict
    """

    pool: Annotated[str, NAME]
    steps: tuple[Annotated[float, PERCENT_ABOVE_0], ...] = (5.0, 10.0, 25.0, 50.0, 100.0)
    every: Annotated[float, SECONDS_ABOVE_0] = 300.0
    sticky: Literal["key", "tenant", "user", "session"] | None = "tenant"
    judge: JudgeSettings = JudgeSettings()
    on_failure: Literal["rollback", "pause"] = "rollback"

    def __post_init__(self) -> None:
        if not self.steps or list(self.steps) != sorted(set(self.steps)):
            raise ValueError("steps are percentages, each more than the one before")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowSettings:
    """Shadow traffic: a pool that gets a copy of some requests; its answers are discarded.

    pool: pool that gets the copies
    percent: share of the requests that is copied
    """

    pool: Annotated[str, NAME]
    percent: Annotated[float, PERCENT] = 1.0
