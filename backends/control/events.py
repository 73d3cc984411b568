"""What the data plane tells of its endpoints, and what the probes tell it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

Kind = Literal[
    "failed",
    "suspect",
    "down",
    "paused",
    "ejected",
    "returned",
    "breaker_open",
    "breaker_half_open",
    "breaker_closed",
    "panic",
]
Figures = Mapping[str, float | int | str]

_NO_FIGURES: Final[Figures] = {}


@dataclass(frozen=True, slots=True)
class EndpointEvent:
    """One change of an endpoint (`panic`: of a pool, `endpoint` is empty), with its reason and figures for the log.

    `failed` is no change: an attempt found nobody there, and `reason` says how.
    """

    pool: str
    endpoint: str
    kind: Kind
    reason: str = ""
    figures: Figures = field(default_factory=lambda: _NO_FIGURES)


@dataclass(frozen=True, slots=True)
class ProbeVerdict:
    """What the probes of one endpoint have come to.

    `suspect` changes nothing but what is shown; `readmit` ends an ejection early and lets an open breaker go half
    open: it answered a real request.
    """

    pool: str
    endpoint: str
    incarnation: int
    state: Literal["up", "down", "suspect"]
    reason: str = ""
    readmit: bool = False


@dataclass(frozen=True, slots=True)
class NoCandidate:
    """Why no endpoint of a pool can be chosen, and in how many seconds that may be otherwise."""

    reason: Literal["empty", "down", "drained", "paused", "breaker"]
    retry_after: float
