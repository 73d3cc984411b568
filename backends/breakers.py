"""The breakers of one endpoint, one a model: what is wrong with one model says nothing about the others."""

from collections.abc import Iterator, Mapping
from typing import Final

from policies.breaker import Breaker, Permit, State
from policies.settings.pools import Breaker as Settings

# So many models have a breaker of their own; further ones share one. A route with a glob lets clients choose the names.
MODELS: Final = 64
REST: Final = "(others)"

_WORST: Final[Mapping[State, int]] = {"closed": 0, "half_open": 1, "open": 2}


class Breakers:
    """Made at the first failure and forgotten once they are as good as new: while nothing fails there is none."""

    __slots__ = ("_by_model", "_rest", "_shown")

    def __init__(self) -> None:
        self._by_model: dict[str | None, Breaker] = {}
        self._rest: Breaker | None = None
        self._shown: dict[int, State] = {}

    def __bool__(self) -> bool:
        return bool(self._by_model) or self._rest is not None

    def of(self, model: str | None) -> Breaker | None:
        """The one that is asked for this model, or None."""
        return self._by_model.get(model, self._rest)

    def make(self, model: str | None, settings: Settings) -> Breaker:
        """A new one for a model that has none."""
        breaker = Breaker(settings)
        if len(self._by_model) < MODELS:
            self._by_model[model] = breaker
        else:
            self._rest = breaker
        return breaker

    def lets(self, model: str | None, now: float) -> bool:
        """Whether an attempt may be sent."""
        breaker = self._by_model.get(model, self._rest)
        return breaker is None or breaker.available(now)

    def permit(self, model: str | None, now: float) -> Permit | None:
        breaker = self._by_model.get(model, self._rest)
        return None if breaker is None else breaker.permit(now)

    def half_open(self, now: float) -> None:
        """It is well, say the probes: each that is open asks it before its time is over."""
        for _, breaker in self._all():
            breaker.half_open(now)

    def forget(self) -> None:
        """Drop those that are as good as new."""
        for model in [model for model, breaker in self._by_model.items() if breaker.idle()]:
            self._shown.pop(id(self._by_model.pop(model)), None)
        if self._rest is not None and self._rest.idle():
            self._shown.pop(id(self._rest), None)
            self._rest = None

    def clear(self) -> None:
        """Drop all: the operator holds them in one state."""
        self._by_model.clear()
        self._shown.clear()
        self._rest = None

    def steps(self, now: float) -> list[tuple[str, State, float]]:
        """What has changed since the last call: model, new state, seconds until it asks again."""
        steps = []
        for model, breaker in self._all():
            state = breaker.state(now)
            if state != self._shown.get(id(breaker), "closed"):
                self._shown[id(breaker)] = state
                steps.append((model, state, breaker.retry_in(now)))
        return steps

    def states(self, now: float) -> dict[str, State]:
        """By model."""
        return {model: breaker.state(now) for model, breaker in self._all()}

    def worst(self, now: float) -> State:
        """The state of the one that is least closed."""
        return max((breaker.state(now) for _, breaker in self._all()), key=_WORST.__getitem__, default="closed")

    def due(self, now: float) -> float:
        """The moment at which the next of them turns half open; inf when none is open."""
        open_ones = (breaker for _, breaker in self._all() if breaker.state(now) == "open")
        return min((now + breaker.retry_in(now) for breaker in open_ones), default=float("inf"))

    def _all(self) -> Iterator[tuple[str, Breaker]]:
        for model, breaker in self._by_model.items():
            yield model or "", breaker
        if self._rest is not None:
            yield REST, self._rest
