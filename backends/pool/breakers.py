"""The breakers of one endpoint, one a model: what is wrong with one model says nothing about the others."""

from collections.abc import Iterator, Mapping
from math import inf
from typing import Final

from backends.control.table import Forced
from policies.config.settings.pools import BreakerSettings
from policies.resilience.breaker import BreakerPermit, CircuitBreaker, State

MODELS: Final = 64
"""Number of models with a breaker of their own; further ones share one. A route with a glob lets clients choose
names."""
REST: Final = "(others)"

_WORST: Final[Mapping[State, int]] = {"closed": 0, "half_open": 1, "open": 2}


class Breakers:
    """Each is made at the first failure and forgotten once it is as good as new: while nothing fails there is none.

    While the operator holds them in one state (`forced`) there is none either, and outcomes count for nothing.
    """

    __slots__ = ("_by_model", "_rest", "_shown", "forced")

    def __init__(self) -> None:
        self.forced: Forced | None = None
        self._by_model: dict[str | None, CircuitBreaker] = {}
        self._rest: CircuitBreaker | None = None
        # What was told of each, where it is not closed.
        self._shown: dict[str, State] = {}

    def __bool__(self) -> bool:
        return bool(self._by_model) or self._rest is not None

    @property
    def matter(self) -> bool:
        """True if a breaker may refuse an attempt."""
        return bool(self._shown)

    def closed(self, model: str | None, now: float) -> bool:
        """Return whether the breaker of this model is closed."""
        breaker = self._of(model)
        return self.forced != "open" and (breaker is None or breaker.state(now) == "closed")

    def probing(self, model: str | None, now: float) -> bool:
        """Return whether the breaker of this model is half open."""
        breaker = self._of(model)
        return breaker is not None and breaker.state(now) == "half_open"

    def lets(self, model: str | None, now: float) -> bool:
        """Return whether an attempt may be sent."""
        breaker = self._by_model.get(model, self._rest)
        return self.forced != "open" and (breaker is None or breaker.available(now))

    def retry_in(self, model: str | None, now: float) -> float:
        """Seconds until an attempt may be sent; inf while the operator holds them open."""
        breaker = self._of(model)
        return inf if self.forced == "open" else 0.0 if breaker is None else breaker.retry_in(now)

    def permit(self, model: str | None, now: float) -> BreakerPermit | None:
        """Leave for one attempt; None where none is needed."""
        breaker = self._by_model.get(model, self._rest)
        return None if breaker is None else breaker.permit(now)

    def record_outcome(
        self, model: str | None, permit: BreakerPermit | None, failed: bool | None, now: float, *, settings:
        BreakerSettings | None, last_closed: bool,
    ) -> bool:  # fmt: skip
        """Tell the one for this model how an attempt ended (None: neutral); whether there is something to tell."""
        breaker = self._of(model)
        if breaker is None:
            if not failed or settings is None or self.forced is not None:
                return False
            breaker = self._make(model, settings)
        return breaker.record_outcome(permit, failed, now, last_closed=last_closed) is not None

    def half_open(self, now: float) -> None:
        """The endpoint is well, say its probes: each that is open asks it before its time is over."""
        for _, breaker in self._all():
            breaker.half_open(now)

    def force(self, state: Forced | None) -> None:
        """Hold them in one state; None lets them go by the outcomes again, from closed."""
        self.forced = state
        self.clear()

    def clear(self) -> None:
        """Forget all that they know."""
        self._by_model.clear()
        self._shown.clear()
        self._rest = None

    def forget(self) -> None:
        """Drop those that are as good as new."""
        for model in [model for model, breaker in self._by_model.items() if breaker.idle()]:
            del self._by_model[model]
        if self._rest is not None and self._rest.idle():
            self._rest = None

    def steps(self, now: float) -> list[tuple[str, State, float]]:
        """Return the changes since the last call: model, new state, seconds until the next probe."""
        steps = []
        for model, breaker in self._all():
            state = breaker.state(now)
            if state == self._shown.get(model, "closed"):
                continue
            if state == "closed":
                del self._shown[model]
            else:
                self._shown[model] = state
            steps.append((model, state, breaker.retry_in(now)))
        return steps

    def states(self, now: float) -> dict[str, State]:
        """By model; those that have nothing to remember are left out."""
        return {model: breaker.state(now) for model, breaker in self._all()}

    def worst(self, now: float) -> State:
        """The state of the one that is least closed."""
        if self.forced is not None:
            return self.forced
        return max((breaker.state(now) for _, breaker in self._all()), key=_WORST.__getitem__, default="closed")

    def due(self, now: float) -> float:
        """The moment at which the next of them turns half open; inf when none is open."""
        opened = [breaker for _, breaker in self._all() if breaker.state(now) == "open"]
        return min((now + breaker.retry_in(now) for breaker in opened), default=inf)

    def _of(self, model: str | None) -> CircuitBreaker | None:
        return self._by_model.get(model, self._rest)

    def _make(self, model: str | None, settings: BreakerSettings) -> CircuitBreaker:
        breaker = CircuitBreaker(settings)
        if len(self._by_model) < MODELS:
            self._by_model[model] = breaker
        else:
            self._rest = breaker
        return breaker

    def _all(self) -> Iterator[tuple[str, CircuitBreaker]]:
        for model, breaker in self._by_model.items():
            yield model or "", breaker
        if self._rest is not None:
            yield REST, self._rest
