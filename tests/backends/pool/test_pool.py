"""Whom a pool chooses: candidates first, then the last resort, and never what is broken, drained or told to wait."""

from __future__ import annotations

import random
import sys
import time
from collections import Counter
from math import inf

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from backends.control.events import EndpointEvent
from policies.config.settings.pools import BreakerSettings, EjectionSettings, QueueSettings
from policies.resilience.outcome import BROKEN_OFF, CLIENT_GONE, NO_ANSWER, NOT_SENT, OK, TOO_SLOW, of_status
from tests.backends.rig import MODEL, Rig
from tests.fakes.request_view import FakeRequest


def broken(rig: Rig, *names: str, model: str = MODEL) -> None:
    for name in names:
        rig.ends(name, NO_ANSWER, times=5, model=model)


# -- the usual case


def test_a_healthy_pool_is_used_evenly() -> None:
    rig = Rig("a", "b", "c", "d")
    counts = Counter(rig.choose() for _ in range(4000))
    assert max(counts.values()) < 1.2 * min(counts.values())


def test_a_pool_without_endpoints_chooses_nobody_and_says_so() -> None:
    rig = Rig()
    assert rig.choose() is None
    assert rig.pool.why_no_candidate(rig.now, MODEL).reason == "empty"
    assert not rig.pool.fresh(rig.now, MODEL, ())


def test_the_budget_is_the_pools_over_tables() -> None:
    rig = Rig("a")
    before = rig.pool.budget
    rig.install("b")
    assert rig.pool.budget is before


# -- how many it takes


def test_an_endpoint_that_has_as_many_as_it_takes_is_not_chosen() -> None:
    rig = Rig("a", "b", most={"a": 1})
    assert rig.chosen() == {"a", "b"}
    rig["a"].in_flight = 1
    rig["b"].in_flight = 5
    assert rig.chosen() == {"b"}
    # A retry of a request that has its slot goes past a bound sooner than to the one that has failed it.
    assert rig.chosen(tried=["b"]) == {"a"}


def test_the_room_is_what_those_take_that_may_be_tried() -> None:
    rig = Rig("a", "b", "c", most={"a": 2, "b": 3, "c": 4})
    assert (rig.pool.gated, rig.pool.room(rig.now)) == (True, 9)
    rig.install("a", "b", "c", drained=frozenset({"b"}))
    assert rig.pool.room(rig.now) == 6
    broken(rig, "c")
    assert rig.pool.room(rig.now) == 2
    broken(rig, "a")
    # Which model a request is for is not asked here: they are let in, and told that nobody is there.
    assert rig.pool.room(rig.now) == 6


def test_one_without_a_bound_bounds_nothing() -> None:
    rig = Rig("a", "b", most={"a": 2})
    assert rig.pool.room(rig.now) == inf


def test_while_all_are_paused_by_their_own_word_there_is_no_room() -> None:
    rig = Rig("a", "b", max_in_flight=5)
    for name in "ab":
        rig.ends(name, of_status(503), retry_after=3.0)
    assert rig.pool.room(rig.now) == 0
    rig.passes(3.1)
    assert rig.pool.room(rig.now) == inf


@pytest.mark.parametrize(("coming", "queue", "gated"), [
    (True, QueueSettings(), True), (True, None, False), (False, QueueSettings(), False),
])  # fmt: skip
def test_nobody_yet_is_waited_for_where_somebody_comes(coming: bool, queue: QueueSettings | None, gated: bool) -> None:
    rig = Rig(coming=coming, queue=queue)
    assert rig.pool.gated is gated
    assert rig.pool.room(rig.now) == (0 if coming else inf)


def test_a_new_table_has_its_own_bounds() -> None:
    rig = Rig("a", most={"a": 2})
    rig.install("a", most={})
    assert (rig["a"].most, rig.pool.gated) == (inf, False)


# -- who was tried already


def test_whoever_was_not_tried_comes_first() -> None:
    rig = Rig("a", "b", "c")
    assert rig.chosen(tried=["a"]) == {"b", "c"}
    assert rig.chosen(tried=["a", "c"]) == {"b"}
    assert rig.chosen(tried=["a", "b", "c"]) == {"a", "b", "c"}


def test_a_candidate_that_was_tried_comes_before_one_that_is_left_out() -> None:
    rig = Rig("a", "b", breaker=None)
    broken(rig, "b")
    assert rig.chosen(tried=["a"]) == {"a"}


def test_fresh_says_whether_a_candidate_is_left_to_try() -> None:
    rig = Rig("a", "b", "c", ejection=None)
    a, b, c = rig.pool.candidates
    assert rig.pool.fresh(rig.now, MODEL, [a])
    broken(rig, "b")
    assert rig.pool.fresh(rig.now, MODEL, [a])
    assert not rig.pool.fresh(rig.now, MODEL, [a, c])
    assert rig.pool.fresh(rig.now, "another", [a, c])
    rig.ends("c", of_status(503))
    assert not rig.pool.fresh(rig.now, MODEL, [a])
    assert not rig.pool.fresh(rig.now, MODEL, [a, b, c])


# -- panic


def left_out(rig: Rig) -> None:
    """`paused`, `ejected` and `down` are each left out for one reason."""
    rig.ends("paused", of_status(503))
    broken(rig, "ejected")
    rig.probed("down", "down")
    rig.told()


def test_panic_prefers_paused_to_ejected_to_down() -> None:
    rig = Rig("paused", "ejected", "down", "well", breaker=None)
    left_out(rig)
    assert rig.chosen() == {"well"}
    rig.install("paused", "ejected", "down", "well", drained=frozenset({"well"}))
    assert rig.chosen() == {"paused"}
    assert rig.chosen(tried=["paused"]) == {"ejected"}
    assert rig.chosen(tried=["paused", "ejected"]) == {"down"}
    assert rig.chosen(tried=["paused", "ejected", "down"]) == {"paused"}


def test_a_panic_is_counted_each_time_and_told_once() -> None:
    rig = Rig("a", breaker=None)
    rig.probed("a", "down")
    rig.told()
    for _ in range(30):
        assert rig.choose() == "a"
        rig.passes(1.0)
    assert rig.meters.pools["pool"].panics.value == 30
    assert rig.told() == [("", "panic", "no candidate")]
    rig.passes(11.0)
    rig.choose()
    assert rig.events == [EndpointEvent("pool", "", "panic", "no candidate", {"down": 1})]


def test_panic_never_looks_past_a_pause_that_the_engine_asked_for() -> None:
    """fault 85."""
    rig = Rig("a", "b")
    rig.ends("a", of_status(429), retry_after=20.0)
    rig.ends("b", of_status(503), retry_after=7.0)
    assert rig.choose() is None
    nobody = rig.pool.why_no_candidate(rig.now, MODEL)
    assert (nobody.reason, nobody.retry_after) == ("paused", 7.0)
    rig.passes(7.1)
    assert rig.choose() == "b"


def test_panic_looks_past_pauses_of_our_own() -> None:
    rig = Rig("a", "b")
    rig.ends("a", of_status(503))
    rig.ends("b", of_status(503), retry_after=5.0)
    assert rig.chosen() == {"a"}


def test_nothing_looks_past_an_open_breaker() -> None:
    """fault 1: all are down, and the client is told so at once."""
    rig = Rig("a", "b", ejection=None)
    broken(rig, "a", "b")
    assert rig.choose() is None
    nobody = rig.pool.why_no_candidate(rig.now, MODEL)
    assert (nobody.reason, nobody.retry_after) == ("breaker", 1.0)
    assert rig.pool.why_no_candidate(rig.now, "another").reason == "breaker", (
        "of a model that anybody lets, nobody would ask"
    )
    assert rig.chosen(model="another") == {"a", "b"}


def test_nothing_looks_past_a_drain() -> None:
    rig = Rig("a", "b", drained=frozenset({"a", "b"}))
    assert rig.choose() is None
    assert rig.pool.why_no_candidate(rig.now, MODEL).reason == "drained"


def test_held_open_by_the_operator_there_is_somebody_again_when_he_says_so() -> None:
    rig = Rig("a", forced={"a": "open"})
    assert rig.choose() is None
    nobody = rig.pool.why_no_candidate(rig.now, MODEL)
    assert (nobody.reason, nobody.retry_after) == ("breaker", 1.0)


def test_the_reason_is_that_of_whoever_is_back_first() -> None:
    rig = Rig("a", "b", "c", ejection=None)
    broken(rig, "a")
    rig.ends("b", of_status(429), retry_after=30.0)
    rig.ends("c", of_status(429), retry_after=25.0)
    assert rig.choose() is None
    assert rig.pool.why_no_candidate(rig.now, MODEL).reason == "breaker"
    rig.passes(10.3)
    assert rig.chosen() == {"a"}


def test_probes_of_a_half_open_breaker_that_are_all_under_way_leave_nobody() -> None:
    rig = Rig("a")
    broken(rig, "a")
    rig.passes(1.3)
    assert [rig["a"].permit(MODEL, rig.now) is None for _ in range(3)] == [False, False, True]
    assert rig.choose() is None
    assert rig.pool.why_no_candidate(rig.now, MODEL).retry_after == 0.0


def test_after_a_pause_one_request_tries_before_all_come() -> None:
    rig = Rig("a", "b", "c")
    rig.ends("a", of_status(429), retry_after=1.0)
    rig.passes(1.1)
    sent = []
    for _ in range(60):
        chosen = rig.pool.choose(rig.now, FakeRequest(MODEL), ())
        assert chosen is not None
        chosen.permit(MODEL, rig.now)
        sent.append(chosen.name)
    assert sent.count("a") == 1
    rig.ends("a", OK)
    assert rig.chosen() == {"a", "b", "c"}


def test_where_everybody_is_on_trial_all_are_sent_there_without_panic() -> None:
    rig = Rig("a")
    rig.ends("a", of_status(503))
    rig.passes(1.1)
    for _ in range(5):
        assert rig.choose() == "a"
        rig["a"].permit(MODEL, rig.now)
    assert rig.meters.pools["pool"].panics.value == 0


# -- shares


def shares(rig: Rig, *, requests: int, bad: str, fails: float, rng: random.Random, status: int = 500) -> list[float]:
    """Of each 200 requests at 200/s, 0.1 s each, the share of the one that fails so often, and at once."""
    under_way: list[tuple[float, str]] = []
    series, counts = [], Counter[str]()
    for number in range(1, requests + 1):
        rig.loop.now += 0.005
        while under_way and under_way[0][0] <= rig.now:
            _, name = under_way.pop(0)
            rig[name].slot.__exit__(None, None, None)
            rig.ends(name, OK)
        name = str(rig.choose())
        counts[name] += 1
        if name == bad and rng.random() < fails:
            rig.ends(name, of_status(status))
        else:
            rig[name].slot.__enter__()
            under_way.append((rig.now + 0.1, name))
        if number % 200 == 0:
            series.append(counts[bad] / 200)
            counts.clear()
    for _, name in under_way:
        rig[name].slot.__exit__(None, None, None)
    return series


@pytest.mark.parametrize("balance", ["least_requests", "round_robin"])
@pytest.mark.parametrize("fails", [0.5, 1.0])
def test_one_that_fails_fast_never_has_more_than_its_share(balance: str, fails: float) -> None:
    """fault 34, with nothing else to protect the pool."""
    rig = Rig("a", "b", "c", "d", balance=balance, ejection=None, breaker=None)
    series = shares(rig, requests=4000, bad="a", fails=fails, rng=random.Random(5))
    assert max(series) <= 0.27


@pytest.mark.parametrize("balance", ["least_requests", "round_robin"])
def test_one_that_says_503_has_next_to_nothing_after_a_second_and_its_share_once_it_is_well(balance: str) -> None:
    rig = Rig("a", "b", "c", "d", balance=balance, slow_start=10.0)
    ill = shares(rig, requests=2000, bad="a", fails=1.0, rng=random.Random(6), status=503)
    assert max(ill[1:]) < 0.02
    well = shares(rig, requests=8000, bad="a", fails=0.0, rng=random.Random(6))
    assert 0.22 < well[-1] < 0.28
    assert sorted(well) == pytest.approx(well, abs=0.05), "it grows"


def test_half_of_the_answers_failing_costs_the_pool_less_than_one_in_a_hundred() -> None:
    """50% 500s, which are not retried."""
    rig = Rig("a", "b", "c", "d")
    rng = random.Random(7)
    shares(rig, requests=12000, bad="a", fails=0.5, rng=rng)
    errors = sum(count for word, count in Counter(rig.meter("a").outcomes).items() if word != "ok")
    assert errors <= 120


def test_choosing_among_256_takes_under_200_us_also_in_trouble() -> None:
    rig = Rig(*(f"e{number}" for number in range(256)))
    for number in range(0, 256, 4):
        broken(rig, f"e{number}")
    rig.passes(10.3)
    broken(rig, *(f"e{number}" for number in range(0, 256, 9)))
    best, pool = 1.0, rig.pool
    for _ in range(20):
        began = time.process_time()
        for _ in range(10):
            pool.choose(rig.now, FakeRequest(MODEL), ())
        best = min(best, (time.process_time() - began) / 10)
    # Coverage's tracer, under which `make test` runs, takes several times as long as the choice.
    assert best < (200e-6 if sys.gettrace() is None else 2e-3)


# -- whatever happens

NAMES = ("a", "b", "c", "d", "e")
OUTCOMES = (OK, NOT_SENT, NO_ANSWER, TOO_SLOW, BROKEN_OFF, CLIENT_GONE, *map(of_status, (400, 429, 500, 502, 503)))
MODELS = ("m", "n")


class PoolMachine(RuleBasedStateMachine):
    """Everything that can happen to a pool, in any order; what must hold is asked after each."""

    @initialize(
        ejection=st.sampled_from([EjectionSettings(), None, EjectionSettings(consecutive=1, max_ejected=1.0, for_=2.0)])
    )
    def begin(self, ejection: EjectionSettings | None) -> None:
        self.names: tuple[str, ...] = NAMES
        breaker = BreakerSettings(failures=2, open_for=3.0, max_open_for=12.0)
        self.rig = Rig(*NAMES, ejection=ejection, breaker=breaker, slow_start=4.0)
        self.under_way: list[tuple[object, object, str]] = []

    @rule(seconds=st.sampled_from([0.01, 0.3, 1.0, 3.0, 11.0, 40.0]), turning=st.booleans())
    def time_passes(self, seconds: float, turning: bool) -> None:
        if turning:
            self.rig.passes(seconds)
        else:
            self.rig.loop.now += seconds

    @rule(model=st.sampled_from(MODELS), tried=st.sets(st.sampled_from(NAMES)))
    def a_request_is_sent(self, model: str, tried: set[str]) -> None:
        rig = self.rig
        endpoints = [one for one in rig.pool.candidates if one.name in tried]
        chosen = rig.pool.choose(rig.now, FakeRequest(model), endpoints)
        if chosen is None:
            assert rig.pool.why_no_candidate(rig.now, model).retry_after >= 0.0
            assert not rig.pool.fresh(rig.now, model, endpoints)
            return
        standing = chosen.health
        assert standing.breakers.lets(model, rig.now), "never one with an open breaker"
        assert not standing.drained
        assert not (standing.paused_by_engine and standing.paused_until > rig.now), (
            "never against the engine's Retry-After"
        )
        fresh = rig.pool.fresh(rig.now, model, endpoints)
        assert not (fresh and (chosen in endpoints or not standing.available)), "never while there is a better one"
        permit = chosen.permit(model, rig.now)
        assert permit is not None or model not in standing.breakers.states(rig.now)
        self.under_way.append((chosen, permit, model))

    @rule(name=st.sampled_from(NAMES), model=st.sampled_from(MODELS))
    def an_attempt_begins(self, name: str, model: str) -> None:
        if name in self.names and len(self.under_way) < 20:
            endpoint = self.rig[name]
            self.under_way.append((endpoint, endpoint.permit(model, self.rig.now), model))

    @rule(
        outcome=st.sampled_from(OUTCOMES), after=st.sampled_from([None, None, 0.0, 5.0, 60.0]), pick=st.integers(0, 19)
    )
    def an_attempt_ends(self, outcome: object, after: float | None, pick: int) -> None:
        if self.under_way:
            endpoint, permit, model = self.under_way.pop(pick % len(self.under_way))
            endpoint.record_outcome(outcome, self.rig.now, model=model, permit=permit, retry_after=after)  # type: ignore[attr-defined]

    @rule(name=st.sampled_from(NAMES), outcome=st.sampled_from(OUTCOMES), times=st.integers(1, 8))
    def attempts_end_alike(self, name: str, outcome: object, times: int) -> None:
        if name in self.names:
            self.rig.ends(name, outcome, times=times)  # type: ignore[arg-type]

    @rule(name=st.sampled_from(NAMES), state=st.sampled_from(["up", "down", "suspect"]), readmit=st.booleans())
    def a_probe_is_over(self, name: str, state: str, readmit: bool) -> None:
        if name in self.names:
            self.rig.probed(name, state, readmit=readmit and state == "up")

    @rule(
        names=st.sets(st.sampled_from(NAMES), min_size=1), drained=st.sets(st.sampled_from(NAMES)),
        forced=st.dictionaries(st.sampled_from(NAMES), st.sampled_from(["open", "closed"]), max_size=2),
    )  # fmt: skip
    def a_table_is_installed(self, names: set[str], drained: set[str], forced: dict[str, str]) -> None:
        self.names = tuple(sorted(names))
        self.rig.install(*self.names, drained=frozenset(drained), forced=forced)

    @invariant()
    def at_most_the_allowed_share_is_ejected(self) -> None:
        if not hasattr(self, "rig"):
            return
        standings = [one.health for one in self.rig.pool.candidates]
        settings = self.rig.settings["ejection"]
        ejected = sum(one.ejected for one in standings)
        if settings is None:
            assert not ejected
        else:
            assert ejected <= max(0, min(int(settings.max_ejected * len(standings)), len(standings) - 1))

    @invariant()
    def what_is_shown_is_so(self) -> None:
        if not hasattr(self, "rig"):
            return
        rig = self.rig
        rig.pool.available(rig.now)
        for one in rig.pool.candidates:
            report = one.health.report(rig.now)
            assert rig.shown(one.name) == report.state
            assert rig.meter(one.name).breakers[-1] == report.breaker
            assert 0.0 < one.warmth <= 1.0
            assert one.weight == one.spec.weight * one.warmth
            assert one.usual == (one.warmth == 1.0 and not one.failing)

    @invariant()
    def who_needs_nothing_is_left_alone(self) -> None:
        if not hasattr(self, "rig"):
            return
        for one in self.rig.pool.candidates:
            if not one.health.troubled:
                assert one.permit(MODEL, self.rig.now) is None

    def teardown(self) -> None:
        if not hasattr(self, "rig"):
            return
        # However bad it was: once everybody is well, everybody is back, and the wheel stands still.
        rig = self.rig
        while self.under_way:
            self.an_attempt_ends(CLIENT_GONE, None, 0)
        rig.install(*self.names, drained=frozenset(), forced={})
        rig.passes(400.0)
        for name in self.names:
            rig.probed(name, "up", readmit=True)
        for _ in range(40):
            for name in self.names:
                for model in MODELS:
                    rig.tries(name, OK, model=model)
            rig.passes(2.0)
        assert {rig.shown(name) for name in self.names} == {"up"}
        assert all(not rig[name].health.troubled and rig[name].usual for name in self.names)
        assert rig.chosen(200) == set(self.names)
        assert rig.loop.timers == 0


PoolMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=40, deadline=None)
TestPoolMachine = PoolMachine.TestCase
