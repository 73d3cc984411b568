"""A total outage is not multiplied: upstream attempts <= 1.2 x requests beyond the floor, over a simulated minute.

The budget is used up too: a budget that no request refills allows the floor alone, which the lower bounds exclude."""

import heapq
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from random import Random

import pytest

from policies.config.settings.routes import RetrySettings
from policies.resilience.outcome import NO_ANSWER, NOT_SENT, TOO_SLOW, Outcome, of_status
from policies.resilience.retry import RetryBudget, judge

MINUTE = 60.0
ENDPOINTS = 4
DEFAULT = RetrySettings()


@dataclass
class Outage:
    """A pool whose every attempt fails after `length` seconds; the clients of a route come, and nobody comes again.

    settings: the route's
    outcome: what every attempt ends in
    length: seconds of an attempt
    retry_after: what every answer asks for
    """

    settings: RetrySettings = DEFAULT
    outcome: Outcome = NO_ANSWER
    length: float = 0.001
    retry_after: float | None = None
    seed: int = 3
    requests: list[float] = field(default_factory=list)
    attempts: list[float] = field(default_factory=list)
    retries: list[float] = field(default_factory=list)
    whys: Counter[str] = field(default_factory=Counter)

    def run(self, arrivals: Iterator[float]) -> "Outage":
        budget, chance, order = RetryBudget(), Random(self.seed).random, count()
        # What comes next: the end of the n-th attempt of a request (0: its arrival).
        coming = [(moment, next(order), 0) for moment in arrivals]
        heapq.heapify(coming)
        while coming:
            now, _, attempts = heapq.heappop(coming)
            if attempts == 0:
                budget.request(now)
                self.requests.append(now)
                self._attempt(coming, now, 1, next(order))
                continue
            said = judge(
                self.outcome,
                settings=self.settings,
                attempts=attempts,
                fresh=attempts < ENDPOINTS,
                retry_after=self.retry_after,
                left=None,
                budget=budget,
                now=now,
                chance=chance,
            )
            self.whys[said.why] += 1
            if said.again:
                self.retries.append(now)
                self._attempt(coming, now + said.wait, attempts + 1, next(order))
        return self

    def _attempt(self, coming: list[tuple[float, int, int]], now: float, number: int, order: int) -> None:
        self.attempts.append(now)
        heapq.heappush(coming, (now + self.length, order, number))

    def allowed(self) -> float:
        """Attempts in all: each ten seconds, also those after the last request, have the floor."""
        spans = (max(self.attempts) - self.requests[0]) // 10 + 1
        return len(self.requests) * (1 + self.settings.budget) + self.settings.floor * spans

    def granted(self) -> float:
        """Retries that the requests alone pay for, without the floor."""
        return self.settings.budget * len(self.requests)


def steady(rate: float) -> Iterator[float]:
    return (5.0 + number / rate for number in range(int(MINUTE * rate)))


def by_chance(rate: float) -> Iterator[float]:
    chance, now = Random(11), 5.0
    while (now := now + chance.expovariate(rate)) < 5.0 + MINUTE:
        yield now


def in_bursts(rate: float) -> Iterator[float]:
    """All of ten seconds at once."""
    return (5.0 + 10 * burst for burst in range(6) for _ in range(int(10 * rate)))


def assert_within_the_budget_at_every_moment(outage: Outage) -> None:
    requests, retries, settings = outage.requests, outage.retries, outage.settings
    for number, now in enumerate(retries, start=1):
        recent = number - bisect_right(retries, now - 10, hi=number)
        asked = bisect_right(requests, now) - bisect_right(requests, now - 10)
        assert recent <= settings.floor + settings.budget * asked + 1e-6, now


@pytest.mark.parametrize("arrivals", [steady, by_chance, in_bursts], ids=lambda how: how.__name__)
@pytest.mark.parametrize("rate", [0.2, 1, 7.3, 50, 400])
def test_a_total_outage_is_not_multiplied(rate: float, arrivals: Callable[[float], Iterator[float]]) -> None:
    outage = Outage().run(arrivals(rate))

    assert len(outage.attempts) <= outage.allowed()
    # Requests count for ten seconds at least and retries for a slot longer: of bursts at the bounds half is lost.
    assert len(outage.retries) >= outage.granted() * (0.5 if arrivals is in_bursts else 1.0)
    assert_within_the_budget_at_every_moment(outage)


@pytest.mark.parametrize("outcome", [NOT_SENT, NO_ANSWER, TOO_SLOW, of_status(503)], ids=lambda outcome: outcome.label)
@pytest.mark.parametrize("length", [0.0, 0.05, 2.0, 60.0])
def test_it_is_not_whatever_the_outage_looks_like(outcome: Outcome, length: float) -> None:
    outage = Outage(outcome=outcome, length=length).run(by_chance(100))

    assert len(outage.attempts) <= outage.allowed()
    # A request that fails after a minute no longer counts: the floor of each ten seconds is left.
    assert len(outage.retries) >= (outage.granted() if length < 10 else DEFAULT.floor * MINUTE / 10)
    assert_within_the_budget_at_every_moment(outage)


@pytest.mark.parametrize("retry_after", [0.0, 1.0, 30.0, 1e9])
def test_nor_if_the_engines_ask_for_more(retry_after: float) -> None:
    patient = RetrySettings(retries=20)
    outage = Outage(settings=patient, outcome=of_status(503), retry_after=retry_after).run(by_chance(30))

    assert len(outage.attempts) <= outage.allowed()
    assert len(outage.retries) >= outage.granted()
    assert_within_the_budget_at_every_moment(outage)


def test_a_busy_pool_has_the_whole_of_its_budget() -> None:
    outage = Outage().run(steady(400))
    assert len(outage.attempts) >= 1.19 * len(outage.requests)
    assert outage.whys["budget"] > 0


def test_a_quiet_pool_has_every_retry() -> None:
    # Three retries every five seconds are six in ten, under the floor.
    outage = Outage().run(steady(0.2))
    assert outage.whys == {"again": 3 * 12, "spent": 12}


def test_without_a_budget_it_would_be_multiplied() -> None:
    outage = Outage(settings=RetrySettings(floor=10**6)).run(steady(10))
    assert len(outage.attempts) == 4 * len(outage.requests)
