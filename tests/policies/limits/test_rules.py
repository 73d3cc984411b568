"""What a plan's limits come to, and what a request asks of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.config.settings.auth import LimitSettings, Per
from policies.config.units import RateValue
from policies.limits import DemandBuilder, LimitSubject, demands, rules_of

SUBJECT = LimitSubject(key="k1", tenant="acme", user="ann", ip="192.0.2.1", model="qwen")
DAY = 86400


def test_every_default_is_filled_in() -> None:
    rules = rules_of(
        "free",
        (
            LimitSettings(requests=RateValue(60, 60), burst=20),
            LimitSettings(requests=RateValue(1000, 3600), strategy="sliding_window", per="tenant"),
            LimitSettings(tokens=RateValue(100_000, 60), per="tenant", on_outage="closed"),
            LimitSettings(output_tokens=RateValue(20_000, 60)),
            LimitSettings(concurrency=4),
            LimitSettings(tokens=RateValue(5_000_000, DAY), per="tenant", strategy="fixed_window"),
        ),
        "open",
    )
    assert [(rule.name, rule.kind, rule.strategy) for rule in rules] == [
        ("free.0", "requests", "token_bucket"),
        ("free.1", "requests", "sliding_window"),
        ("free.2", "tokens", "token_bucket"),
        ("free.3", "output_tokens", "token_bucket"),
        ("free.4", "concurrency", "slots"),
        ("free.5", "tokens", "fixed_window"),
    ]
    assert [(rule.count, rule.seconds, rule.burst) for rule in rules] == [
        (60, 60, 20), (1000, 3600, 1000), (100_000, 60, 100_000), (20_000, 60, 20_000), (4, 0, 4),
        (5_000_000, DAY, 5_000_000),
    ]  # fmt: skip
    assert [rule.on_outage for rule in rules] == ["open", "open", "closed", "open", "open", "open"]
    assert [rule.quota for rule in rules] == [False] * 5 + [True]


@pytest.mark.parametrize(
    ("seconds", "strategy", "quota"),
    [(3600, "fixed_window", False), (DAY, "fixed_window", True), (30 * DAY, "fixed_window", True),
     (DAY, "token_bucket", False), (DAY, "moving_window", False)],
)  # fmt: skip
def test_a_fixed_window_of_a_day_or_longer_is_a_quota(seconds: int, strategy: str, quota: bool) -> None:
    (rule,) = rules_of("p", [LimitSettings(requests=RateValue(5, seconds), strategy=strategy)], "local")  # type: ignore[arg-type]
    assert rule.quota is quota


def test_states_that_cannot_be_compared_never_share_a_bucket() -> None:
    limits = [
        LimitSettings(requests=RateValue(5, 60)),
        LimitSettings(requests=RateValue(5, 3600)),
        LimitSettings(tokens=RateValue(5, 60)),
        LimitSettings(output_tokens=RateValue(5, 60)),
        LimitSettings(requests=RateValue(5, 60), strategy="fixed_window"),
        LimitSettings(requests=RateValue(5, 60), strategy="sliding_window"),
        LimitSettings(requests=RateValue(5, 60), strategy="moving_window"),
        LimitSettings(concurrency=5),
    ]
    stems = [rules_of("p", [limit], "local")[0].stem for limit in limits]
    assert len(set(stems)) == len(limits)
    again = rules_of("p", [replace(limits[0], requests=RateValue(9, 60), burst=3, on_outage="open")], "local")[0]
    assert again.stem == stems[0], "a changed count keeps what was used"


@pytest.mark.parametrize(
    ("per", "values"),
    [("key", "k1"), ("tenant", "acme"), ("user", "ann"), ("ip", "192.0.2.1"), ("model", "qwen"),
     ("tenant+model", "acme|qwen"), ("all", "")],
)  # fmt: skip
def test_what_is_counted_apart(per: str, values: str) -> None:
    (rule,) = rules_of("free", [LimitSettings(requests=RateValue(5, 60), per=per)], "local")  # type: ignore[arg-type]
    (demand,) = demands([rule], SUBJECT)
    assert (demand.bucket, demand.amount) == (f"free.0:rt60|{values}", 1)


def test_what_a_request_cannot_use_is_not_asked_for() -> None:
    rules = rules_of(
        "p", [LimitSettings(tokens=RateValue(9, 60)), LimitSettings(output_tokens=RateValue(9, 60)),
        LimitSettings(concurrency=1)], "local"
    )  # fmt: skip
    assert [demand.amount for demand in demands(rules, SUBJECT, tokens=7, output_tokens=3)] == [7, 3, 1]
    assert [demand.rule.kind for demand in demands(rules, SUBJECT, tokens=7)] == ["tokens", "concurrency"]


TEXT = st.one_of(st.text(max_size=8), st.text("|%~ab", max_size=6), st.text(max_size=200))


@given(st.tuples(TEXT, TEXT), st.tuples(TEXT, TEXT))
def test_two_subjects_share_a_bucket_only_if_they_are_one(one: tuple[str, str], other: tuple[str, str]) -> None:
    (rule,) = rules_of("p", [LimitSettings(requests=RateValue(5, 60), per="tenant+model")], "local")
    subjects = [replace(SUBJECT, tenant=tenant, model=model) for tenant, model in (one, other)]
    first, second = (demands([rule], subject)[0].bucket for subject in subjects)
    assert (first == second) == (one == other)


PERS = ("key", "tenant", "user", "ip", "model", "tenant+model", "all")
FEW = st.sampled_from(["a", "b", "a|b", ""])
AMOUNTS = st.integers(0, 2)


@given(
    st.lists(st.sampled_from(PERS), min_size=1, max_size=4),
    st.lists(st.tuples(st.builds(LimitSubject, FEW, FEW, FEW, FEW, FEW), AMOUNTS, AMOUNTS), max_size=20),
)
def test_remembered_buckets_are_those_that_would_be_named_anew(
    pers: list[Per], asked: list[tuple[LimitSubject, int, int]]
) -> None:
    kinds = (
        {"requests": RateValue(5, 60)},
        {"tokens": RateValue(5, 60)},
        {"output_tokens": RateValue(5, 60)},
        {"concurrency": 1},
    )
    rules = rules_of("p", [LimitSettings(**kind, per=per) for kind, per in zip(kinds, pers, strict=False)], "local")  # type: ignore[arg-type]
    asking = DemandBuilder(rules)
    for subject, tokens, output in asked:
        assert asking.demands(subject, tokens, output) == demands(rules, subject, tokens, output)


def test_only_so_many_subjects_are_remembered_and_only_what_rules_look_at() -> None:
    asking = DemandBuilder(
        rules_of("p", [LimitSettings(requests=RateValue(5, 60)), LimitSettings(concurrency=1, per="tenant")], "local")
    )
    (first, _) = asking.demands(SUBJECT)
    assert asking.demands(replace(SUBJECT, user="bob", ip="192.0.2.2"))[0] is first
    for number in range(5000):
        assert asking.demands(replace(SUBJECT, key=f"k{number}"))[0].bucket == f"p.0:rt60|k{number}"
    assert asking.demands(SUBJECT)[0] is not first


@given(st.text(max_size=100_000) | st.just("\ud800" * 100))
def test_a_name_is_short_however_long_the_value(value: str) -> None:
    (rule,) = rules_of("p", [LimitSettings(requests=RateValue(5, 60), per="user")], "local")
    (demand,) = demands([rule], replace(SUBJECT, user=value))
    assert len(demand.bucket.encode(errors="surrogatepass")) <= len(rule.stem) + 1 + 3 * 64


def test_nobody_passes_for_anothers_hash() -> None:
    (rule,) = rules_of("p", [LimitSettings(requests=RateValue(5, 60), per="user")], "local")
    hashed = demands([rule], replace(SUBJECT, user="x" * 65))[0].bucket.partition("|")[2]
    assert demands([rule], replace(SUBJECT, user=hashed))[0].bucket.partition("|")[2] != hashed
