"""What one endpoint comes to by its outcomes, its probes and the operator's word."""

from __future__ import annotations

import pytest

from backends.control.events import ProbeVerdict
from backends.pool.breakers import MODELS
from policies.config.settings.pools import BreakerSettings, EjectionSettings
from policies.resilience import outcome as outcomes
from policies.resilience.outcome import BROKEN_OFF, CLIENT_GONE, NO_ANSWER, NOT_SENT, OK, TOO_SLOW, of_status
from tests.backends.rig import MODEL, Rig, spec

FAULTY = [NOT_SENT, NO_ANSWER, TOO_SLOW, BROKEN_OFF, of_status(500), of_status(502), of_status(504)]
NOBODYS_FAULT = [CLIENT_GONE, of_status(400), of_status(404), of_status(408), of_status(413), of_status(501)]


def label(outcome: outcomes.Outcome) -> str:
    return outcome.label


# -- what counts


@pytest.mark.parametrize("outcome", FAULTY, ids=label)
def test_five_failures_in_a_row_eject_and_open_the_breaker(outcome: outcomes.Outcome) -> None:
    rig = Rig("a", "b", "c")
    rig.ends("a", outcome, times=4)
    assert rig.told("ejected", "breaker_open") == []
    rig.ends("a", outcome)
    assert rig.told("ejected", "breaker_open") == [
        ("a", "ejected", "consecutive"),
        ("a", "breaker_open", outcome.label),
    ]
    assert rig.chosen() == {"b", "c"}
    assert (rig.shown("a"), rig.meter("a").breakers[-1], rig.meter("a").ejections) == (
        "ejected",
        "open",
        ["consecutive"],
    )


@pytest.mark.parametrize("outcome", NOBODYS_FAULT, ids=label)
def test_what_is_nobodys_fault_counts_for_nothing(outcome: outcomes.Outcome) -> None:
    rig = Rig("a", "b")
    rig.ends("a", NO_ANSWER, times=4)
    rig.told()
    rig.ends("a", outcome, times=50)
    assert rig.told() == []
    # Nor does it end a row: it says nothing of the endpoint.
    rig.ends("a", NO_ANSWER)
    assert rig.told("ejected", "breaker_open") == [("a", "ejected", "consecutive"), ("a", "breaker_open", "no_answer")]


def test_what_is_excused_is_counted_and_counts_for_nothing() -> None:
    rig = Rig("a", "b")
    rig.ends("a", TOO_SLOW, times=50, excused=True)
    assert rig.told() == []
    assert rig.meter("a").outcomes == ["too_slow"] * 50


def test_a_success_ends_a_row() -> None:
    rig = Rig("a", "b")
    for _ in range(4):
        rig.ends("a", NO_ANSWER, NO_ANSWER, NO_ANSWER, NO_ANSWER, OK)
    assert rig.told("ejected", "breaker_open") == []


def test_half_of_the_requests_failing_ejects_by_the_rate() -> None:
    rig = Rig("a", "b", "c", "d")
    rig.ends("a", OK, of_status(500), times=10)
    assert rig.told("ejected") == [("a", "ejected", "error_rate")]
    assert rig.chosen() == {"b", "c", "d"}


def test_the_lists_of_the_policy_say_what_a_failure_is() -> None:
    rig = Rig("a", "b", ejection=EjectionSettings(when=("not_sent",)), breaker=BreakerSettings(when=(500,)))
    rig.ends("a", NO_ANSWER, times=30)
    assert rig.told("ejected", "breaker_open") == []
    rig.ends("a", of_status(500), times=5)
    assert rig.told("ejected", "breaker_open") == [("a", "breaker_open", "500")]
    rig.ends("b", NOT_SENT, times=5)
    assert rig.told("ejected", "breaker_open") == [("b", "ejected", "consecutive")]


def test_with_ejection_and_breaker_off_nothing_is_left_out() -> None:
    rig = Rig("a", "b", ejection=None, breaker=None)
    rig.ends("a", *FAULTY, times=10)
    assert rig.chosen() == {"a", "b"}
    assert rig.told("ejected", "breaker_open") == []


def test_a_stream_that_broke_after_its_first_byte_is_counted_as_broken() -> None:
    rig = Rig("a")
    rig.ends("a", BROKEN_OFF, released=True)
    rig.ends("a", TOO_SLOW, released=True)
    rig.ends("a", TOO_SLOW, NO_ANSWER)
    rig.ends("a", CLIENT_GONE, released=True)
    assert rig.meter("a").broken.value == 2


# -- who is told of what


def test_an_attempt_that_found_nobody_is_told_so_that_the_probes_look() -> None:
    rig = Rig("a", "b")
    rig.ends("a", NOT_SENT, NO_ANSWER, BROKEN_OFF)
    assert rig.told() == [("a", "failed", "not_sent"), ("a", "failed", "no_answer"), ("a", "failed", "broken_off")]
    rig.ends("a", of_status(500), OK, CLIENT_GONE)
    assert rig.told() == []


def test_one_that_is_too_slow_is_suspect_until_a_probe_finds_it_well() -> None:
    rig = Rig("a", "b")
    rig.ends("a", TOO_SLOW, times=3)
    assert rig.told() == [("a", "suspect", "too_slow")]
    assert rig.shown("a") == "suspect"
    assert rig.chosen() == {"a", "b"}, "it stays a candidate"
    rig.probed("a", "up")
    assert rig.shown("a") == "up"
    rig.ends("a", TOO_SLOW)
    assert rig.told() == [("a", "suspect", "too_slow")]


def test_without_probes_a_suspect_is_forgotten_after_a_while() -> None:
    rig = Rig("a", "b")
    rig.ends("a", TOO_SLOW)
    rig.passes(9.9)
    assert rig.shown("a") == "suspect"
    rig.passes(0.5)
    assert rig.shown("a") == "unknown"


# -- pauses


def test_who_says_429_or_503_is_paused_and_told_once() -> None:
    rig = Rig("a", "b")
    rig.ends("a", of_status(429), times=4, retry_after=7.0)
    assert rig.told() == [("a", "paused", "429")]
    assert rig.shown("a") == "paused"
    assert rig.chosen() == {"b"}
    rig.passes(6.9)
    assert rig.chosen() == {"b"}
    rig.passes(0.2)
    assert rig.chosen() == {"a", "b"}
    assert rig.shown("a") == "unknown"
    assert rig["a"].warmth == 1.0, "after a pause there is no slow start"


def test_a_pause_ends_on_a_pool_that_nobody_asks() -> None:
    rig = Rig("a", "b")
    rig.ends("a", of_status(503))
    assert rig.shown("a") == "paused"
    rig.passes(1.3)
    assert rig.shown("a") == "unknown"
    assert rig.loop.timers == 0, "the wheel turns only while something is troubled"


def test_a_pause_doubles_until_a_success() -> None:
    rig = Rig("a", "b")
    for seconds in (1.0, 2.0, 4.0):
        rig.ends("a", of_status(503))
        rig.passes(seconds - 0.05)
        assert rig.chosen() == {"b"}
        rig.passes(0.1)
        assert rig.chosen() == {"a", "b"}
    rig.ends("a", OK)
    rig.ends("a", of_status(503))
    rig.passes(1.05)
    assert rig.chosen() == {"a", "b"}


def test_five_503_without_retry_after_eject_and_with_one_they_do_not() -> None:
    rig = Rig("a", "b", "c", "d")
    rig.ends("a", of_status(503), times=19, retry_after=1.0)
    rig.ends("b", of_status(503), times=5)
    assert rig.told("ejected") == [("b", "ejected", "saturated")]


def test_429_counts_in_the_error_rate_alone() -> None:
    rig = Rig("a", "b", "c", "d")
    rig.ends("a", of_status(429), times=19)
    assert rig.told("ejected", "breaker_open") == []
    rig.ends("a", of_status(429))
    assert rig.told("ejected", "breaker_open") == [("a", "ejected", "error_rate")]


def test_a_retry_after_of_a_pause_that_was_over_begins_another() -> None:
    rig = Rig("a", "b")
    rig.ends("a", of_status(503))
    rig.loop.now += 2.0  # Nobody chose, and the wheel has not turned.
    rig.ends("a", of_status(503))
    assert rig.told("paused") == [("a", "paused", "503"), ("a", "paused", "503")]


# -- ejection


def test_an_ejection_ends_by_itself_and_is_longer_the_next_time() -> None:
    rig = Rig("a", "b", breaker=None)
    for seconds in (10.0, 20.0, 40.0):
        rig.ends("a", NO_ANSWER, times=5)
        rig.passes(seconds - 0.1)
        assert rig.shown("a") == "ejected"
        assert rig.chosen() == {"b"}
        rig.passes(0.4)
        assert rig.told("ejected", "returned") == [("a", "ejected", "consecutive"), ("a", "returned", "served")]


def test_the_last_one_is_not_ejected_but_suspect() -> None:
    rig = Rig("a", breaker=None)
    rig.ends("a", NO_ANSWER, times=20)
    assert rig.told("ejected", "suspect") == [("a", "suspect", "consecutive")]
    assert (rig.shown("a"), rig.choose()) == ("suspect", "a")


def test_at_most_half_of_a_pool_is_ejected() -> None:
    rig = Rig("a", "b", "c", "d", "e", breaker=None)
    for name in "abcde":
        rig.ends(name, NO_ANSWER, times=5)
    assert [name for name in "abcde" if rig.shown(name) == "ejected"] == ["a", "b"]
    assert rig.told("ejected", "suspect") == [
        ("a", "ejected", "consecutive"), ("b", "ejected", "consecutive"), ("c", "suspect", "consecutive"),
        ("d", "suspect", "consecutive"), ("e", "suspect", "consecutive"),
    ]  # fmt: skip
    # Once there is room again, the next failure of one that goes on failing ejects it.
    rig.passes(10.1)
    rig.ends("c", NO_ANSWER)
    assert rig.shown("c") == "ejected"


def test_those_that_are_down_or_drained_do_not_make_the_pool_larger() -> None:
    rig = Rig("a", "b", "c", breaker=None, drained=frozenset({"b"}))
    rig.probed("c", "down")
    rig.ends("a", NO_ANSWER, times=5)
    assert rig.shown("a") == "suspect"
    assert rig.choose() == "a"


def test_what_was_under_way_at_an_ejection_does_not_make_it_longer() -> None:
    rig = Rig("a", "b", "c", breaker=None)
    rig.ends("a", NO_ANSWER, times=40)
    assert len(rig.told("ejected")) == 1
    rig.passes(10.3)
    assert rig.shown("a") == "unknown"


# -- the breaker


def broken(rig: Rig, name: str = "a", model: str | None = MODEL) -> None:
    rig.ends(name, NO_ANSWER, times=5, model=model)


def test_an_open_breaker_lets_probes_through_after_a_while_and_so_many_successes_close_it() -> None:
    rig = Rig("a", "b", ejection=None)
    broken(rig)
    assert (rig.choose(tried=["b"]), rig.meter("a").breakers[-1]) == ("b", "open")
    rig.passes(10.3)
    assert (rig.chosen(), rig.meter("a").breakers[-1]) == ({"a", "b"}, "half_open")
    rig.tries("a", OK)
    rig.tries("a", OK)
    assert rig.meter("a").breakers[-1] == "closed"
    assert rig.told("breaker_open", "breaker_half_open", "breaker_closed") == [
        ("a", "breaker_open", "no_answer"),
        ("a", "breaker_half_open", "open_for is over"),
        ("a", "breaker_closed", "ok"),
    ]
    assert rig["a"].warmth == pytest.approx(0.1), "it starts slowly"


def test_the_first_content_of_a_long_answer_is_its_success() -> None:
    rig = Rig("a", "b", ejection=None)
    broken(rig)
    rig.passes(10.3)
    permits = [rig["a"].permit(MODEL, rig.now) for _ in range(2)]
    assert "a" not in rig.chosen()
    for permit in permits:
        assert permit is not None
        rig["a"].began(MODEL, permit, rig.now)
    assert rig.meter("a").breakers[-1] == "closed"
    assert "a" in rig.chosen()
    for permit in permits:
        rig["a"].record_outcome(BROKEN_OFF, rig.now, model=MODEL, permit=permit, released=True)
    assert rig.meter("a").breakers[-1] == "closed", "what came of them is not counted again"


def test_only_so_many_probes_are_under_way_at_a_time() -> None:
    rig = Rig("a", "b", ejection=None)
    broken(rig)
    rig.passes(10.3)
    permits = [rig["a"].permit(MODEL, rig.now), rig["a"].permit(MODEL, rig.now)]
    assert None not in permits
    assert rig.chosen() == {"b"}
    rig["a"].record_outcome(CLIENT_GONE, rig.now, model=MODEL, permit=permits[0])
    assert rig.chosen() == {"a", "b"}, "a probe whose client left gives its place back"


@pytest.mark.parametrize("status", [429, 503])
def test_a_saturated_answer_fails_a_probe_and_is_no_failure_else(status: int) -> None:
    rig = Rig("a", "b", ejection=None)
    rig.ends("a", of_status(status), times=30)
    assert rig.told("breaker_open") == []
    broken(rig)
    rig.passes(70.0)
    rig.told()
    rig.tries("a", of_status(status))
    assert rig.told("breaker_open") == [("a", "breaker_open", str(status))]


def test_one_models_breaker_says_nothing_of_the_others() -> None:
    """fault 32."""
    rig = Rig("a", "b", ejection=None)
    broken(rig, "a", "ill")
    broken(rig, "b", "ill")
    assert rig.choose("ill") is None
    assert rig.chosen(model="well") == {"a", "b"}
    assert rig.chosen(model=None) == {"a", "b"}
    assert rig["a"].health.report(rig.now).breakers == {"ill": "open"}


def test_breakers_are_bounded_whatever_models_clients_name() -> None:
    rig = Rig("a", ejection=None)
    for number in range(3 * MODELS):
        rig.ends("a", NO_ANSWER, model=f"m{number}")
    assert len(rig["a"].health.report(rig.now).breakers) == MODELS + 1
    for number in range(3 * MODELS):
        rig.ends("a", OK, model=f"m{number}")
    # What the others share has opened meanwhile; those of their own are forgotten.
    assert rig["a"].health.report(rig.now).breakers == {"(others)": "open"}


def test_the_last_closed_breaker_of_a_pool_opens_for_a_second_first() -> None:
    rig = Rig("a", "b", ejection=None)
    broken(rig, "a")
    broken(rig, "b")
    assert rig.choose() is None
    rig.passes(1.1)
    assert rig.chosen() == {"b"}
    rig.tries("b", NO_ANSWER)
    rig.passes(1.5)
    assert rig.choose() is None
    rig.passes(0.8)
    assert rig.chosen() == {"b"}, "it is open for 2 s the second time"


# -- probes


def test_who_is_down_gets_nothing_and_starts_slowly_once_it_is_up() -> None:
    rig = Rig("a", "b")
    rig.probed("a", "suspect", reason="/health says 500")
    assert (rig.shown("a"), rig.chosen()) == ("suspect", {"a", "b"})
    rig.probed("a", "down", reason="/health says 500")
    assert (rig.shown("a"), rig.chosen()) == ("down", {"b"})
    rig.probed("a", "up", reason="answers again")
    assert rig.shown("a") == "up"
    assert rig["a"].warmth == pytest.approx(0.1)
    assert rig.told() == [
        ("a", "suspect", "/health says 500"), ("a", "down", "/health says 500"), ("a", "returned", "answers again"),
    ]  # fmt: skip


def test_the_first_good_probe_is_no_return() -> None:
    rig = Rig("a", "b")
    assert rig.shown("a") == "unknown"
    rig.probed("a", "up")
    assert (rig.shown("a"), rig["a"].warmth, rig.told()) == ("up", 1.0, [])


def test_probes_end_an_ejection_and_an_opening_early() -> None:
    rig = Rig("a", "b")
    broken(rig)
    rig.passes(1.0)
    rig.told()
    rig.probed("a", "up", reason="gives tokens", readmit=True)
    assert rig.told() == [("a", "breaker_half_open", "gives tokens"), ("a", "returned", "gives tokens")]
    assert rig.shown("a") == "suspect", "its breaker asks it first"
    rig.tries("a", OK)
    rig.tries("a", OK)
    assert rig.shown("a") == "up"


def test_a_good_health_probe_alone_ends_no_ejection() -> None:
    rig = Rig("a", "b")
    broken(rig)
    rig.probed("a", "up")
    assert (rig.shown("a"), rig.chosen()) == ("ejected", {"b"})


def test_who_is_down_when_its_ejection_ends_has_not_returned() -> None:
    rig = Rig("a", "b", breaker=None)
    broken(rig)
    rig.probed("a", "down")
    rig.told()
    rig.passes(11.0)
    assert (rig.shown("a"), rig.told()) == ("down", [])
    rig.probed("a", "up")
    assert rig.told() == [("a", "returned", "probes")]


def test_a_verdict_on_another_incarnation_is_ignored() -> None:
    rig = Rig(spec("w", incarnation=2))
    rig.plane.apply_verdict(ProbeVerdict("pool", "w", 1, "down"))
    rig.plane.apply_verdict(ProbeVerdict("pool", "x", 2, "down"))
    assert rig.shown("w") == "up"


# -- slow start


def test_a_share_grows_from_a_tenth_to_all_in_the_time_of_the_policy() -> None:
    rig = Rig(spec("a", weight=4.0), "b", slow_start=10.0, breaker=None)
    broken(rig)
    rig.passes(10.0)
    seen = []
    for _ in range(12):
        rig.passes(1.0)
        rig.choose()
        seen.append((round(rig["a"].warmth, 1), round(rig["a"].weight, 1)))
    assert 0.1 <= seen[0][0] <= 0.25
    assert seen[0][1] <= 1.0
    assert seen == sorted(seen)
    assert seen[-1] == (1.0, 4.0)
    assert rig["a"].usual


def test_with_slow_start_off_a_share_is_whole_at_once() -> None:
    rig = Rig("a", "b", slow_start=None, breaker=None)
    broken(rig)
    rig.passes(10.5)
    assert (rig.shown("a"), rig["a"].warmth, rig["a"].usual) == ("unknown", 1.0, True)


def test_a_worker_that_was_started_again_starts_slowly_and_the_first_time_not() -> None:
    rig = Rig(spec("w", incarnation=1), "b")
    assert rig["w"].warmth == 1.0
    rig.install(spec("w", incarnation=2), "b")
    assert rig["w"].warmth == pytest.approx(0.1)


def test_a_failure_holds_the_merit_of_few_requests_back_for_a_moment() -> None:
    rig = Rig("a", "b")
    rig.ends("a", of_status(500))
    assert (rig["a"].failing, rig["a"].usual) == (True, False)
    rig.passes(0.5)
    assert (rig["a"].failing, rig["a"].usual) == (False, True)


# -- the operator


def test_a_drained_endpoint_gets_nothing_new_and_starts_slowly_once_resumed() -> None:
    rig = Rig("a", "b")
    rig.install("a", "b", drained=frozenset({"a"}))
    assert (rig.shown("a"), rig.chosen()) == ("draining", {"b"})
    rig.ends("a", OK)
    rig.install("a", "b", drained=frozenset())
    assert rig["a"].warmth == pytest.approx(0.1)
    assert "a" in rig.chosen(300)
    assert rig.told() == [("a", "returned", "resumed")]


def test_a_breaker_can_be_held_open_and_closed() -> None:
    rig = Rig("a", "b", ejection=None)
    rig.install("a", "b", forced={"a": "open"})
    assert (rig.chosen(), rig.meter("a").breakers[-1]) == ({"b"}, "open")
    rig.passes(600)
    assert rig.chosen() == {"b"}
    rig.install("a", "b", forced={"a": "closed"})
    rig.ends("a", NO_ANSWER, times=50)
    assert rig.meter("a").breakers[-1] == "closed"
    assert "a" in rig.chosen(300)
    rig.install("a", "b", forced={})
    broken(rig)
    assert rig.meter("a").breakers[-1] == "open"
    assert rig.told("breaker_open", "breaker_closed") == [
        ("a", "breaker_open", "by the operator"),
        ("a", "breaker_closed", "by the operator"),
        ("a", "breaker_open", "no_answer"),
    ]


def test_a_breaker_that_is_held_closed_ends_an_opening() -> None:
    rig = Rig("a", "b", ejection=None)
    broken(rig)
    rig.install("a", "b", forced={"a": "closed"})
    assert rig["a"].permit(MODEL, rig.now) is None
    assert rig["a"].health.breakers.lets(MODEL, rig.now)


def test_the_report_tells_all_of_it() -> None:
    rig = Rig("a", "b", drained=frozenset({"b"}))
    rig.ends("a", of_status(503), retry_after=20.0)
    broken(rig)
    report = rig["a"].health.report(rig.now)
    assert (report.state, report.probes, report.paused_for) == ("paused", "unknown", 20.0)
    assert (report.drained, report.forced, report.breaker, report.breakers) == (False, None, "open", {MODEL: "open"})
    assert rig["b"].health.report(rig.now).drained


# -- reloads


def test_what_an_endpoint_has_come_to_survives_a_reload() -> None:
    rig = Rig("a", "b", "c", "d")
    broken(rig, "a")
    rig.ends("b", of_status(503), retry_after=20.0)
    rig.probed("c", "down")
    rig.told()
    rig.install(
        "a", "b", "c", "d", ejection=EjectionSettings(consecutive=2, for_=60.0), breaker=BreakerSettings(failures=2)
    )
    assert [rig.shown(name) for name in "abcd"] == ["ejected", "paused", "down", "unknown"]
    assert rig.chosen() == {"d"}
    assert rig.told() == []
    rig.passes(10.3)
    assert rig.shown("a") == "suspect", "it was ejected for 10 s; its breaker is half open"
    rig.ends("d", NO_ANSWER, times=2)
    assert rig.told("breaker_open") == [("d", "breaker_open", "no_answer")], "the new settings are in force"


def test_ejection_turned_off_lets_everybody_back() -> None:
    rig = Rig("a", "b", breaker=None)
    broken(rig)
    rig.install("a", "b", ejection=None)
    assert rig.told("returned") == [("a", "returned", "ejection is off")]
    assert rig.shown("a") == "unknown"


def test_a_pool_that_gets_smaller_lets_back_whom_it_can_not_spare() -> None:
    rig = Rig("a", "b", "c", "d", breaker=None)
    broken(rig, "a")
    rig.passes(1.0)
    broken(rig, "b")
    rig.install("a", "b", "c")
    assert (rig.shown("a"), rig.shown("b")) == ("unknown", "ejected")
    rig.install("a", "b")
    rig.install("b")
    assert rig.shown("b") == "unknown"
    assert rig.chosen() == {"b"}


def test_one_that_left_the_table_learns_nothing_more_and_nobody_hears_of_it() -> None:
    rig = Rig("a", "b")
    gone = rig["a"]
    rig.install("b")
    rig.told()
    for _ in range(50):
        gone.record_outcome(NO_ANSWER, rig.now, model=MODEL)
        gone.record_outcome(of_status(503), rig.now, model=MODEL)
    assert rig.told() == []
    rig.passes(5.0)
    assert rig.loop.timers == 0


# -- bytes on other streams


def test_an_answer_says_that_the_endpoint_yields() -> None:
    rig = Rig("a")
    assert not rig["a"].yielded_since(rig.now - 5)
    rig.ends("a", NO_ANSWER)
    assert not rig["a"].yielded_since(rig.now - 5)
    rig.ends("a", OK)
    assert rig["a"].yielded_since(rig.now - 5)
    assert rig.plane.yielded_since("a", rig.now - 5)
    assert not rig["a"].yielded_since(rig.now)
