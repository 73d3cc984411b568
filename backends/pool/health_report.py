"""Report of one endpoint's health, for the admin API and the metrics."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from backends.control.table import Forced
from policies.resilience.breaker import State

Shown = Literal["unknown", "up", "suspect", "down", "paused", "ejected", "draining"]
"""State that is shown; where several hold, the first of draining, down, ejected, paused, suspect."""
Probed = Literal["unknown", "up", "suspect", "down"]
"""State by the probes alone."""


@dataclass(frozen=True, slots=True)
class HealthReport:
    """One endpoint for operators.

    paused_for, ejected_for: seconds from now; 0 where not so
    warmth: the part of its share that the endpoint gets; 1 when it is warm
    forced: state in which an operator holds the breakers
    breaker: the worst state of all models' breakers
    breakers: by model; those without a recorded failure are left out
    """

    state: Shown
    probes: Probed
    paused_for: float
    ejected_for: float
    warmth: float
    drained: bool
    forced: Forced | None
    breaker: State
    breakers: Mapping[str, State]
