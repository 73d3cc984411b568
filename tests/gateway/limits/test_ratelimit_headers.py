"""Where a client stands, in OpenAI's formats: of the rule with the least share left."""

import re
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.durations import duration, whole_seconds
from gateway.limits.ratelimit_headers import limit_headers
from policies.config.settings.auth import LimitSettings
from policies.config.units import RateValue
from policies.limits import LimitLevel, LimitRule, rules_of

MINUTE = RateValue(60, 60)
REQUESTS, HOURLY, TOKENS, OUTPUT, SLOTS = rules_of(
    "free",
    (
        LimitSettings(requests=MINUTE),
        LimitSettings(requests=RateValue(1000, 3600)),
        LimitSettings(tokens=RateValue(100_000, 60)),
        LimitSettings(output_tokens=RateValue(20_000, 60)),
        LimitSettings(concurrency=4),
    ),
    "local",
)


def shown(*levels: LimitLevel) -> dict[str, str]:
    return {name.decode().removeprefix("x-ratelimit-"): value.decode() for name, value in limit_headers(levels)}


def level(rule: LimitRule, remaining: int, reset: float = 1.0) -> LimitLevel:
    return LimitLevel(rule, rule.burst, remaining, reset)


def test_the_rule_with_the_least_share_left_speaks_for_its_kind() -> None:
    found = shown(level(REQUESTS, 30, 30.0), level(HOURLY, 400, 2160.0), level(TOKENS, 99_000, 0.6))
    assert found == {
        "limit-requests": "1000", "remaining-requests": "400", "reset-requests": "36m0s",
        "limit-tokens": "100000", "remaining-tokens": "99000", "reset-tokens": "600ms",
    }  # fmt: skip


def test_output_tokens_are_tokens() -> None:
    assert shown(level(TOKENS, 50_000), level(OUTPUT, 5_000, 45.0))["limit-tokens"] == "20000"


def test_of_equal_shares_the_one_that_is_full_again_later_speaks() -> None:
    assert shown(level(REQUESTS, 0, 1.0), level(HOURLY, 0, 3.0))["limit-requests"] == "1000"
    assert shown(level(HOURLY, 0, 3.0), level(REQUESTS, 0, 1.0))["limit-requests"] == "1000"


def test_a_limit_of_nothing_has_the_least_share_of_all() -> None:
    (nothing,) = rules_of("p", (LimitSettings(requests=RateValue(0, 60)),), "local")
    assert shown(level(REQUESTS, 1), level(nothing, 0, 0.0))["limit-requests"] == "0"


def test_concurrency_and_no_rules_have_no_headers() -> None:
    assert shown(level(SLOTS, 1)) == shown() == {}


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (0.0, "0s"), (-1.0, "0s"), (0.0001, "1ms"), (0.012, "12ms"), (0.9995, "1s"), (1.0, "1s"), (1.5, "1.5s"),
        (7.6591, "7.66s"), (59.9999, "1m0s"), (360.0, "6m0s"), (89.2, "1m30s"), (3600.0, "1h0m0s"),
        (86400.0, "24h0m0s"),
    ],
)  # fmt: skip
def test_a_duration_is_written_as_go_prints_it(seconds: float, written: str) -> None:
    assert duration(seconds) == written.encode()


@given(st.floats(0, 3e6))
def test_whoever_waits_as_long_as_is_said_is_not_too_early(seconds: float) -> None:
    units = {"h": 3600, "m": 60, "s": 1, "ms": 0.001}
    parts = re.findall(r"([0-9.]+)(ms|h|m|s)", duration(seconds).decode())
    said = sum(float(number) * units[unit] for number, unit in parts)
    assert seconds - 1e-6 <= said <= seconds + 1
    whole = whole_seconds(seconds)
    assert whole is not None and max(seconds, 1) <= whole < max(seconds, 1) + 1


def test_never_is_no_number_of_seconds() -> None:
    assert whole_seconds(inf) is None
