"""Events that the data plane emits about its endpoints, and verdicts that the probes send to it."""

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
    """Verdict of the probes of one endpoint.

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
    """Reason for which a pool has no candidate, and the seconds until it may have one."""

    reason: Literal["empty", "down", "drained", "paused", "breaker"]
    retry_after: float
