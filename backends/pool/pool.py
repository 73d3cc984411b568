"""A pool of the data plane: which of its endpoints may be tried now, and the strategy that chooses among them.

While nothing is wrong a choice is two comparisons and the strategy. Who is a candidate is worked out again only when
something has changed or expired; breakers, which depend on the model, are asked each time while there are any.
"""

from collections import Counter
from collections.abc import Sequence
from math import inf
from typing import Protocol

from backends.control.events import NoCandidate
from backends.control.table import PoolSpec
from backends.pool.endpoint import Endpoint
from backends.pool.pool_state import PoolState
from policies.balancing import RequestView
from policies.resilience.hedging import HedgeBudget
from policies.resilience.retry_budget import RetryBudget

# For what nobody can say how long it takes: a client may ask again after so many seconds.
SOON = 1.0


class PoolStrategy(Protocol):
    """Strategy of a pool: it chooses among candidates, all of which are available."""

    def choose(self, candidates: Sequence[Endpoint], request: RequestView) -> Endpoint: ...


class Pool:
    """One pool of one table. Every `now` is in seconds of one monotonic clock.

    candidates: all endpoints of the table, whatever is wrong with them
    gated: whether a request needs leave to enter (`gateway.admission.gate`): it is bounded, or has no endpoint yet
    """

    __slots__ = (
        "_doubtful", "_guarded", "_known", "_seen", "_state", "_usual", "candidates", "engine", "gated", "max_context",
        "name", "spec", "strategy",
    )  # fmt: skip

    def __init__(
        self, spec: PoolSpec, candidates: tuple[Endpoint, ...], strategy: PoolStrategy, state: PoolState
    ) -> None:
        self.name = spec.name
        self.engine = spec.engine
        self.max_context = spec.max_context
        self.candidates = candidates
        self.strategy = strategy
        self.spec = spec
        self.gated = spec.bounded or (not candidates and spec.coming and spec.queue is not None)
        self._known = spec.known
        self._state = state
        self._seen = -1
        self._doubtful = self._guarded = False
        self._usual: Sequence[Endpoint] = ()

    @property
    def budget(self) -> RetryBudget:
        """The pool's retries of the last 10 s; it lives on over tables."""
        return self._state.budget

    @property
    def hedges(self) -> HedgeBudget:
        """Budget of the pool's hedges; it outlives the tables."""
        return self._state.hedges

    def choose(
        self, now: float, request: RequestView, tried: Sequence[Endpoint] = (), *, absent: bool = False
    ) -> Endpoint | None:
        """Return the endpoint for the next attempt, or None: `why_no_candidate` has the reason. `absent`: the tried
        endpoints accept no connection, so any other one is better.

        Who was not tried yet comes first. Where there is no candidate it looks past ejection, probes and pauses that
        the engine did not ask for (panic), never past an open breaker, a drain or an engine's own Retry-After.
        """
        state, model = self._state, request.model
        if now >= state.due:
            state.refresh(now)
        if self._seen != state.version:
            self._look()
        usual = self._usual
        if self._guarded:
            usual = self._let(usual, model, now)
        if not usual:
            return self._panic(now, request, tried)
        if tried:
            left = [one for one in usual if one not in tried]
            # Better one that is on trial than one that has failed this very request.
            left = left or [one for one in self._past_trials(model, now) if one not in tried]
            if absent and not left:
                return self._panic(now, request, tried)
            usual = left or usual
        return self.strategy.choose(usual, request)

    def fresh(self, now: float, model: str | None, tried: Sequence[Endpoint], *, absent: bool = False) -> bool:
        """Return whether a candidate is left that was not tried yet; with `absent` one of the last resort counts
        too."""
        if any(one not in tried for one in self.available(now) if one.health.breakers.lets(model, now)):
            return True
        return absent and any(one not in tried for one in self._last_resorts(now, model))

    def available(self, now: float) -> Sequence[Endpoint]:
        """The candidates now, save for their breakers."""
        self._state.refresh(now)
        if self._seen != self._state.version:
            self._look()
        return self._usual

    def lacking(self, now: float, model: str | None) -> NoCandidate | None:
        """Return the reason where `choose` would return None now; else None."""
        self._state.refresh(now)
        return None if self._last_resorts(now, model) else self.why_no_candidate(now, model)

    def why_no_candidate(self, now: float, model: str | None) -> NoCandidate:
        """Return the reason for which `choose` returned None; of several the one of the endpoint that is back first."""
        if not self.candidates:
            return NoCandidate("down" if self._known else "empty", SOON)
        there = [one.health for one in self.candidates if not one.health.drained]
        if not there:
            return NoCandidate("drained", SOON)
        reasons: list[NoCandidate] = []
        for health in there:
            pause = health.paused_until - now if health.paused_by_engine else 0.0
            retry_in = health.breakers.retry_in(model, now)
            reasons.append(NoCandidate("paused", pause) if pause > retry_in else NoCandidate("breaker", retry_in))
        soonest = min(reasons, key=lambda one: one.retry_after)
        return soonest if soonest.retry_after < float("inf") else NoCandidate("breaker", SOON)

    @property
    def version(self) -> int:
        """Goes up with every change of who is a candidate."""
        return self._state.version

    def room(self, now: float) -> float:
        """Return the number of attempts that the available endpoints take at a time: 0 while there is none yet or
        all are paused by their own word, so that waiting helps; inf where nothing bounds them, or where only an
        answer at once helps."""
        if not self.candidates:
            return 0.0 if self.spec.coming else inf
        usual = [one for one in self.available(now) if one.health.breakers.worst(now) == "closed"]
        there = usual or self._last_resorts(now, None)
        if there:
            return sum(one.most for one in there)
        return 0.0 if self.why_no_candidate(now, None).reason == "paused" else inf

    def _let(self, usual: Sequence[Endpoint], model: str | None, now: float) -> Sequence[Endpoint]:
        """Return the endpoints that may get an attempt for this model now; a trial is no reason to panic. Where all
        are full, one of them gets more than its bound: admission counts slots, so that is a retry, or they have
        become fewer."""
        let = usual
        if self._doubtful:
            let = [one for one in usual if one.health.lets(model, now)] or self._past_trials(model, now)
        return [one for one in let if one.in_flight < one.most] or let

    def _past_trials(self, model: str | None, now: float) -> Sequence[Endpoint]:
        return [one for one in self._usual if one.health.breakers.lets(model, now)]

    def _look(self) -> None:
        """Work out who is a candidate."""
        self._seen = self._state.version
        self._usual = [one for one in self.candidates if one.health.available]
        self._doubtful = any(one.health.guarded for one in self._usual)
        self._guarded = self._doubtful or bool(self.spec.most)

    def _last_resorts(self, now: float, model: str | None) -> list[Endpoint]:
        """Return the endpoints that may be tried at all."""
        return [
            one for one in self.candidates
            if not one.health.drained and not one.health.paused_by_engine and one.health.breakers.lets(model, now)
        ]  # fmt: skip

    def _panic(self, now: float, request: RequestView, tried: Sequence[Endpoint]) -> Endpoint | None:
        """The last resort: paused ones before ejected ones before those that are down."""
        left = self._last_resorts(now, request.model)
        if not left:
            return None
        left = [one for one in left if one not in tried] or left
        best = min(_trouble(one) for one in left)
        counts = Counter(_TROUBLES[_trouble(one)] for one in left)
        self._state.panic(now, counts)
        return self.strategy.choose([one for one in left if _trouble(one) == best], request)


_TROUBLES = ("none", "paused", "ejected", "down")


def _trouble(endpoint: Endpoint) -> int:
    """Return the worst obstacle of an endpoint, as an index into _TROUBLES."""
    health = endpoint.health
    return 3 if health.down else 2 if health.ejected else 1 if health.paused else 0
