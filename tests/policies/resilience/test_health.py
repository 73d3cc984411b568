"""What probes come to, with the time given and no socket near."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.config.settings.pools import HealthSettings
from policies.resilience.health import ASK_EVERY, IN_VAIN, MOST_DEMANDED, HealthChange, HealthRecord, Kind, ProbeFinding

SETTINGS = HealthSettings(every=5.0, suspect_every=0.25, unhealthy_after=3, healthy_after=2)
WELL = ProbeFinding("good")


class Probed:
    """A record, and its probes one after another, a second apart."""

    def __init__(self, settings: HealthSettings = SETTINGS) -> None:
        self.record = HealthRecord(settings)
        self.now = 0.0

    def health(self, kind: Kind = "good", *, yielding: bool = False) -> HealthChange | None:
        self.now += 1.0
        return self.record.health(ProbeFinding(kind, kind), yielding=yielding, now=self.now)

    def token(self, kind: Kind = "good", *, yielding: bool = False) -> HealthChange | None:
        self.now += 1.0
        return self.record.token(ProbeFinding(kind, kind), yielding=yielding, now=self.now)

    def asks(self, *, idle: bool = True, while_well: bool = True) -> bool:
        return self.record.wants_token(idle=idle, while_well=while_well)

    def round(self) -> HealthChange | None:
        """Good health and, where it is asked for one, a token."""
        change = self.health()
        return (self.token() if self.asks() else None) or change


@pytest.fixture
def well() -> Probed:
    probed = Probed()
    assert probed.health() == HealthChange("up", "answers")
    return probed


@pytest.fixture
def down() -> Probed:
    probed = Probed()
    assert [probed.health("refused") for _ in range(3)][-1] == HealthChange("down", "refused")
    return probed


# -- up and down


def test_the_first_good_probe_is_believed() -> None:
    probed = Probed()
    assert (probed.record.state, probed.record.probed) == ("unknown", False)
    assert probed.health() == HealthChange("up", "answers")
    assert (probed.record.state, probed.record.probed) == ("up", True)
    assert probed.health() is None


def test_so_many_failed_probes_in_a_row_take_it_down_and_each_change_is_told_once(well: Probed) -> None:
    changes = [well.health("unwell") for _ in range(5)]
    assert changes == [HealthChange("suspect", "unwell"), None, HealthChange("down", "unwell"), None, None]


def test_a_good_probe_between_them_begins_the_row_anew(well: Probed) -> None:
    kinds: list[Kind] = ["unwell", "unwell", "good", "unwell", "unwell"]
    assert [change.state for kind in kinds if (change := well.health(kind))] == ["suspect"]
    assert well.health("unwell") == HealthChange("down", "unwell")


def test_so_many_good_probes_in_a_row_bring_it_back(down: Probed) -> None:
    assert [down.health(), down.health("silent"), down.health()] == [None] * 3
    assert down.health() == HealthChange("up", "answers again")


def test_an_endpoint_that_never_was_up_goes_down_too_and_comes_back(down: Probed) -> None:
    assert [down.health(), down.health()] == [None, HealthChange("up", "answers again")]


def test_one_is_looked_at_slowly_while_well_and_fast_while_in_doubt_and_until_it_is_well(well: Probed) -> None:
    assert well.record.pause == 5.0
    well.health("silent")
    assert well.record.pause == 0.25
    well.health()
    assert well.record.pause == 0.25
    assert well.health() == HealthChange("up", "answers again")
    assert well.record.pause == 5.0


# -- busy is not dead


@pytest.mark.parametrize("kind", ["silent", "unwell"])
def test_a_probe_that_fails_while_the_endpoint_yields_counts_for_nothing(well: Probed, kind: Kind) -> None:
    assert [well.health(kind, yielding=True) for _ in range(20)] == [None] * 20
    assert (well.record.state, well.record.pause) == ("up", 5.0)


def test_a_refused_connection_counts_even_then_for_no_new_request_gets_in(well: Probed) -> None:
    assert [well.health("refused", yielding=True) for _ in range(3)][-1] == HealthChange("down", "refused")


def test_no_token_while_it_yields_counts_for_nothing(well: Probed) -> None:
    assert [well.token("silent", yielding=True) for _ in range(20)] == [None] * 20
    assert well.record.state == "up"


# -- when a token is asked for


def test_a_well_and_idle_endpoint_is_asked_every_sixth_time_at_most(well: Probed) -> None:
    asked = []
    for _ in range(3 * ASK_EVERY):
        well.health()
        asked.append(well.asks())
        if asked[-1]:
            well.token()
    # The probe that found it well for the first time was one of the first six.
    assert [number for number, yes in enumerate(asked, 2) if yes] == [ASK_EVERY, 2 * ASK_EVERY, 3 * ASK_EVERY]


def test_one_that_is_not_idle_or_costs_money_is_not_asked_while_well(well: Probed) -> None:
    for _ in range(2 * ASK_EVERY):
        well.health()
    assert well.asks()
    assert not well.asks(idle=False)
    assert not well.asks(while_well=False)


@pytest.mark.parametrize("trouble", ["ejected", "breaker", "slow", "no token"])
def test_one_in_trouble_is_asked_each_time_idle_or_not(well: Probed, trouble: str) -> None:
    if trouble == "slow":
        assert well.record.doubted(slow=True)
    elif trouble == "no token":
        well.token("silent")
    else:
        assert well.record.shut("ejected" if trouble == "ejected" else "breaker", 1.0)
    well.health()
    assert well.asks(idle=False, while_well=False)
    assert well.record.pause == 0.25


def test_a_failed_connection_is_followed_by_health_probes_alone(well: Probed) -> None:
    assert well.record.doubted()
    assert not well.record.doubted(), "known already"
    assert well.record.pause == 0.25
    assert not well.asks()
    assert [well.health(), well.health()] == [None, HealthChange("up", "answers again")]
    assert well.record.pause == 5.0


def test_one_that_was_too_slow_is_well_only_once_it_gave_a_token(well: Probed) -> None:
    well.record.doubted(slow=True)
    assert [well.health() for _ in range(5)] == [None] * 5
    assert well.record.pause == 0.25
    assert well.token() == HealthChange("up", "answers again")
    assert well.record.pause == 5.0
    assert not well.asks()


# -- the engine that hangs while /health says 200


@pytest.fixture
def mute(well: Probed) -> Probed:
    changes = []
    for _ in range(3):
        assert well.health() is None
        changes.append(well.token("silent"))
    told = "accepts, but gives no token: silent"
    assert changes == [HealthChange("suspect", told), None, HealthChange("down", told)]
    return well


def test_no_token_so_many_times_in_a_row_is_down_whatever_health_says(mute: Probed) -> None:
    assert mute.record.state == "down"
    assert [mute.health() for _ in range(20)] == [None] * 20
    assert mute.record.state == "down"


def test_good_tokens_in_a_row_bring_it_back(mute: Probed) -> None:
    assert [mute.round(), mute.token("silent"), mute.round()] == [None] * 3
    assert mute.round() == HealthChange("up", "gives tokens again")
    assert mute.record.pause == 5.0


@pytest.mark.parametrize("kind", ["failed", "full", "unaskable"])
def test_any_answer_at_all_says_that_it_hangs_no_more(mute: Probed, kind: Kind) -> None:
    assert mute.token(kind) == HealthChange("up", "answers again")


@pytest.mark.parametrize("kind", ["failed", "full", "unaskable"])
def test_an_answer_without_a_token_takes_nobody_down(well: Probed, kind: Kind) -> None:
    assert [well.token(kind) for _ in range(20)] == [None] * 20
    assert well.record.state == "up"


def test_one_that_can_not_be_asked_is_not_asked_again_until_something_is_different(well: Probed) -> None:
    well.token("unaskable")
    well.record.shut("ejected", well.now)
    well.health()
    assert not well.asks()
    well.record.ask_again()
    assert well.asks()


def test_one_that_was_down_may_be_another_process_and_is_asked_again(well: Probed) -> None:
    well.token("unaskable")
    for kind in ("refused", "refused", "refused", "good", "good"):
        well.health(kind)
    well.record.shut("ejected", well.now)
    assert well.asks()


# -- back early


def shut_out(probed: Probed, *, seen: bool = True) -> None:
    if seen:
        probed.record.doubted()
    probed.record.shut("ejected", probed.now)


def readmitted_after(probed: Probed, most: int = 1000) -> int | None:
    """How many rounds of good probes it takes to be let in."""
    for number in range(1, most + 1):
        change = probed.round()
        if change is not None and change.readmit:
            return number
    return None


def test_two_good_tokens_let_an_ejected_endpoint_in_again(well: Probed) -> None:
    shut_out(well)
    assert readmitted_after(well) == 2
    assert well.record.pause == 5.0
    assert not well.asks()


def test_good_health_alone_does_not(well: Probed) -> None:
    shut_out(well)
    assert all(change is None or not change.readmit for change in (well.health() for _ in range(20)))


def test_of_an_engine_that_can_not_be_asked_good_health_is_enough(well: Probed) -> None:
    well.token("unaskable")
    shut_out(well)
    assert readmitted_after(well) == 2


def test_what_no_probe_could_see_no_probe_can_see_the_end_of(well: Probed) -> None:
    # It was ejected for 500s on some requests, and every probe was good.
    shut_out(well, seen=False)
    assert readmitted_after(well, 100) is None
    assert well.record.pause == 5.0, "and it is not looked at so often for nothing"


@pytest.mark.parametrize("kind", ["refused", "silent", "unwell"])
def test_what_a_probe_has_seen_meanwhile_it_can_see_the_end_of(well: Probed, kind: Kind) -> None:
    shut_out(well, seen=False)
    well.health()
    if kind == "silent":
        well.token(kind)
    else:
        well.health(kind)
    assert readmitted_after(well) == 2


def test_an_answer_that_it_failed_says_nothing_of_what_is_seen_and_begins_the_row_anew(well: Probed) -> None:
    shut_out(well, seen=False)
    well.token("failed")
    assert readmitted_after(well, 100) is None
    shut_out(well)
    well.token("failed")
    well.record.doubted()
    well.token()
    well.token("failed")
    assert readmitted_after(well) == 2


def test_one_that_returned_by_itself_is_not_let_in_once_more(well: Probed) -> None:
    shut_out(well)
    well.record.opened("ejected")
    assert readmitted_after(well, 50) is None


def test_ejected_and_broken_it_is_shut_until_both_are_over(well: Probed) -> None:
    well.record.doubted()
    assert well.record.shut("ejected", 1.0)
    assert not well.record.shut("breaker", 1.0)
    well.record.opened("ejected")
    assert readmitted_after(well) == 2


def test_each_early_return_in_vain_asks_for_twice_as_much_proof_of_the_next(well: Probed) -> None:
    proofs = []
    for _ in range(8):
        shut_out(well)
        proofs.append(readmitted_after(well))
    assert proofs == [2, 4, 8, 16, 32, 64, 64, 64]
    assert proofs[-1] == MOST_DEMANDED * SETTINGS.healthy_after
    well.now += IN_VAIN
    shut_out(well)
    assert readmitted_after(well) == 2


def test_an_endpoint_that_is_down_and_ejected_comes_back_from_both(down: Probed) -> None:
    down.record.shut("ejected", down.now)
    assert down.round() is None
    change = down.round()
    assert change == HealthChange("up", "answers again", readmit=True)


# -- for any order of findings


@given(st.lists(st.tuples(st.booleans(), st.sampled_from(["good", "refused", "silent", "unwell", "full", "failed",
                                                          "unaskable"]), st.booleans()), max_size=60))  # fmt: skip
def test_every_change_changes_something_and_the_record_agrees(findings: list[tuple[bool, Kind, bool]]) -> None:
    probed, told = Probed(), "unknown"
    for asked, kind, yielding in findings:
        change = probed.token(kind, yielding=yielding) if asked else probed.health(kind, yielding=yielding)
        if change is not None:
            assert change.state == probed.record.state
            told = change.state
        assert probed.record.state == told
        assert probed.record.pause in (0.25, 5.0)
        if probed.record.state in ("suspect", "down"):
            assert probed.record.pause == 0.25


@given(st.lists(st.sampled_from(["good", "refused", "silent", "unwell"]), max_size=40))
def test_from_any_state_good_probes_make_it_well(kinds: list[Kind]) -> None:
    probed = Probed()
    for kind, on_token in zip(kinds, _every_third(), strict=False):
        if on_token:
            probed.token(kind)
        else:
            probed.health(kind)
    for _ in range(3):
        probed.round()
    assert (probed.record.state, probed.record.pause) == ("up", 5.0)


def _every_third() -> Iterator[bool]:
    return (number % 3 == 2 for number in count())


def rounds_until_calm(probed: Probed) -> int:
    for number in range(1, 20):
        probed.round()
        if probed.record.pause == 5.0:
            return number
    raise AssertionError("never calm again")


def test_a_new_doubt_needs_its_whole_proof_anew(well: Probed) -> None:
    well.record.doubted(slow=True)
    whole = rounds_until_calm(well)
    well.record.doubted()
    well.round()
    # A request that was too slow is news: the good round before it does not count.
    assert well.record.doubted(slow=True)
    assert rounds_until_calm(well) == whole


def test_a_doubt_that_is_no_news_takes_no_proof_away(well: Probed) -> None:
    well.record.doubted(slow=True)
    whole = rounds_until_calm(well)
    well.record.doubted(slow=True)
    well.round()
    assert rounds_until_calm(well) == whole - 1


def test_an_endpoint_that_is_kept_out_for_what_probes_cannot_see_is_probed_slowly_once_they_had_their_row(
    well: Probed,
) -> None:
    shut_out(well, seen=False)
    pauses = []
    for _ in range(4):
        well.round()
        pauses.append(well.record.pause)
    assert pauses == [0.25, 5.0, 5.0, 5.0]
