"""The chain of a fallback: who is next, and whether anybody is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.config.settings import FallbackSettings, RetrySettings
from policies.resilience.fallback import (
    FALLS,
    FailureKind,
    Incidents,
    failure_of,
    falls,
    fits,
    kept_back,
    kind_of,
    label_of,
    longer,
    next_member,
    says_too_long,
)

POOL = FallbackSettings(pool="small")
STALE = FallbackSettings(cache="stale")
MESSAGE = FallbackSettings(message="busy")
CHAIN = (POOL, STALE, MESSAGE)


def yes(_: FallbackSettings) -> bool:
    return True


def test_members_are_tried_in_their_order() -> None:
    places = [next_member(CHAIN, at, FailureKind("503"), yes) for at in range(-1, 3)]
    assert places == [0, 1, 2, None]


def test_a_pool_that_takes_none_is_passed_by() -> None:
    assert next_member(CHAIN, -1, FailureKind("503"), lambda _: False) == 1


def test_what_may_not_be_sent_again_goes_to_no_pool() -> None:
    assert next_member(CHAIN, -1, FailureKind("no_answer", again=False), yes) == 1


def test_what_is_too_long_goes_to_pools_alone() -> None:
    failure = FailureKind("context_length_exceeded", too_long=True)
    assert next_member((MESSAGE, POOL), -1, failure, yes) == 1
    assert next_member((STALE, MESSAGE), -1, failure, yes) is None


@pytest.mark.parametrize(
    ("code", "outcome", "rule", "expected"),
    [
        ("no_endpoint_available", None, RetrySettings(), FailureKind("no_endpoint_available")),
        ("queue_full", None, None, FailureKind("queue_full")),
        ("upstream_unreachable", "not_sent", RetrySettings(when=()), FailureKind("upstream_unreachable")),
        ("upstream_error", "no_answer", RetrySettings(), FailureKind("upstream_error")),
        ("upstream_error", "no_answer", RetrySettings(when=(503,)), FailureKind("upstream_error", again=False)),
        ("upstream_error", "no_answer", None, FailureKind("upstream_error")),
        ("first_byte_timeout", "too_slow", RetrySettings(when=(503,)), FailureKind("first_byte_timeout", again=False)),
        ("invalid_request", None, RetrySettings(), None),
        ("rate_limit_exceeded", None, RetrySettings(), None),
        ("deadline_exceeded", "too_slow", RetrySettings(), None),
        ("context_length_exceeded", None, RetrySettings(), None),
        ("shutting_down", None, RetrySettings(), None),
        ("internal_error", None, RetrySettings(), None),
    ],
)
def test_which_errors_lead_into_the_chain(
    code: str, outcome: str | None, rule: RetrySettings | None, expected: FailureKind | None
) -> None:
    assert failure_of(code, outcome, rule) == expected


def test_what_an_engine_said_is_why() -> None:
    assert failure_of("upstream_error", "502", RetrySettings(), "502") == FailureKind("502")
    found = failure_of("context_length_exceeded", "400", RetrySettings(), "context_length_exceeded")
    assert found == FailureKind("context_length_exceeded", too_long=True)


@pytest.mark.parametrize(("label", "true"), [("503", True), ("429", True), ("500", False), ("400", False)])
def test_an_engines_status_falls_where_it_is_retried(label: str, true: bool) -> None:
    assert falls(label, RetrySettings()) is true
    assert falls(label, None) is true
    assert falls("500", RetrySettings(when=(500,)))


def test_every_pool_after_it_has_an_attempt_kept_back() -> None:
    chain = (POOL, STALE, FallbackSettings(pool="other"), MESSAGE)
    assert [kept_back(chain, at) for at in range(-1, 4)] == [2, 1, 1, 0, 0]


def test_labels_and_kinds() -> None:
    assert [kind_of(one) for one in CHAIN] == ["pool", "cache", "message"]
    assert [label_of(one) for one in CHAIN] == ["simplified", "cache", "message"]
    assert label_of(FallbackSettings(pool="p", label="tiny")) == "tiny"


def test_what_is_not_known_is_tried() -> None:
    assert fits(None, 5) and fits(5, None) and fits(5, 5) and not fits(6, 5)
    assert longer(None, 5) and longer(5, None) and longer(6, 5) and not longer(5, 5)


@pytest.mark.parametrize(
    "body",
    [
        b'{"error":{"message":"This model\'s maximum context length is 512 tokens."}}',
        b'{"error":{"code":"context_length_exceeded"}}',
        b'{"error":{"type":"exceed_context_size_error"}}',
        b'{"type":"error","error":{"message":"prompt is too long: 9 tokens > 8 maximum"}}',
        b'{"error":"Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096"}',
        b"max_tokens=99999 cannot be greater than max_model_len=512.",
    ],
)
def test_engines_say_in_their_own_words_that_it_is_too_long(body: bytes) -> None:
    assert says_too_long(body)
    assert not says_too_long(b'{"error":{"message":"temperature must be at most 2"}}')


def test_an_incident_is_told_once_and_over_when_the_pool_was_well_and_a_while_has_passed() -> None:
    incidents = Incidents(quiet=60.0)
    assert incidents.degraded("r", 2, 0.0)
    assert not incidents.degraded("r", 2, 10.0)
    assert incidents.degraded("r", 1, 10.0), "another step tells somebody else"
    assert not incidents.degraded("r", 2, 100_000.0), "a quiet night ends nothing"
    incidents.well("r")
    assert not incidents.degraded("r", 2, 100_030.0), "a pool that fails every other request is one incident"
    incidents.well("other")
    assert not incidents.degraded("r", 2, 100_200.0)
    incidents.well("r")
    assert incidents.degraded("r", 2, 100_260.0)


MEMBERS = st.sampled_from([POOL, FallbackSettings(pool="b"), STALE, MESSAGE])


@given(
    chain=st.lists(MEMBERS, max_size=6),
    refused=st.sets(st.integers(0, 5)),
    failures=st.lists(st.tuples(st.sampled_from(sorted(FALLS)), st.booleans(), st.booleans()), min_size=1),
)
def test_a_chain_always_ends_and_never_goes_back(
    chain: list[FallbackSettings], refused: set[int], failures: list[tuple[str, bool, bool]]
) -> None:
    place, seen = -1, list[int]()
    for step in range(len(chain) + 1):
        why, again, too_long = failures[step % len(failures)]
        failure = FailureKind(why, again, too_long)
        found = next_member(chain, place, failure, lambda one: chain.index(one) not in refused)
        if found is None:
            break
        assert found > place
        member = chain[found]
        assert member.pool is None or (again and chain.index(member) not in refused)
        assert member.pool is not None or not too_long
        place = found
        seen.append(found)
    else:
        raise AssertionError(f"no end: {seen}")
