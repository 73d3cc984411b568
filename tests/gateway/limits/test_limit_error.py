"""The error of a refused request names the rule, the limit, and the time of the next try."""

from math import inf

import pytest

from gateway.limits.limit_error import limit_error, rule_text
from policies.config.settings.auth import LimitSettings
from policies.config.units import RateValue
from policies.limits import Demand, LimitLevel, LimitRefused, LimitRule, rules_of

REQUESTS, SLOTS, QUOTA, TOKENS, NOTHING = rules_of(
    "free",
    (
        LimitSettings(requests=RateValue(60, 60), burst=20),
        LimitSettings(concurrency=1),
        LimitSettings(tokens=RateValue(5_000_000, 86400), per="tenant", strategy="fixed_window"),
        LimitSettings(output_tokens=RateValue(1, 2592000), per="tenant+model"),
        LimitSettings(requests=RateValue(0, 3600), per="all"),
    ),
    "local",
)


@pytest.mark.parametrize(
    ("rule", "wait", "status", "code", "retry_after", "message"),
    [
        (
            REQUESTS, 0.2, 429, "rate_limit_exceeded", 1,
            "Rate limit reached: 60 requests a minute for each key (at most 20 at once) (rule free.0). "
            "Try again in 1s.",
        ),
        (
            SLOTS, 1.0, 429, "concurrency_limit_exceeded", 1,
            "Too many requests at a time: the limit is 1 request at a time for each key (rule free.1). "
            "Wait until one is over, or try again in 1s.",
        ),
        (
            QUOTA, 12000.5, 429, "insufficient_quota", 12001,
            "The quota is used up: 5000000 tokens a day for each tenant (rule free.2). It begins anew in 3h20m1s.",
        ),
        (
            TOKENS, 59.1, 429, "rate_limit_exceeded", 60,
            "Rate limit reached: 1 output token a month for each tenant and model (rule free.3). Try again in 1m0s.",
        ),
        (
            NOTHING, inf, 429, "rate_limit_exceeded", None,
            "The limit is 0 requests an hour for all clients together: none is let through (rule free.4).",
        ),
        (
            QUOTA, inf, 429, "insufficient_quota", None,
            "This request may use 6000000 tokens, which is over the limit at any time: 5000000 tokens a day for each "
            "tenant. Ask for fewer (rule free.2).",
        ),
    ],
)  # fmt: skip
def test_each_kind_of_limit_has_its_code_and_its_words(
    rule: LimitRule, wait: float, status: int, code: str, retry_after: int | None, message: str
) -> None:
    error = limit_error(LimitRefused(rule, wait), (Demand(QUOTA, "b", 6_000_000),))
    assert (error.status, error.code, error.type) == (status, code, "rate_limit_error")
    assert (error.retry_after, error.message) == (retry_after, message)


def test_it_says_where_the_client_stands() -> None:
    error = limit_error(LimitRefused(REQUESTS, 0.2, (LimitLevel(REQUESTS, 20, 0, 20.0),)))
    assert dict(error.headers) == {
        b"x-ratelimit-limit-requests": b"20",
        b"x-ratelimit-remaining-requests": b"0",
        b"x-ratelimit-reset-requests": b"20s",
    }


@pytest.mark.parametrize(("wait", "tells"), [(60.0, False), (60.5, True), (inf, True)])
def test_an_sdk_that_would_come_back_too_early_is_told_not_to(wait: float, tells: bool) -> None:
    error = limit_error(LimitRefused(TOKENS, wait))
    assert ((b"x-should-retry", b"false") in error.headers) is tells


def test_a_rule_that_lets_nothing_through_unchecked_is_503() -> None:
    error = limit_error(LimitRefused(QUOTA, 0.0, mode="closed"))
    assert (error.status, error.code, error.type) == (503, "store_unavailable", "api_error")
    assert error.retry_after == 1 and "free.2" in error.message


def test_every_rule_has_its_words() -> None:
    assert rule_text(QUOTA) == "5000000 tokens a day for each tenant"
    assert rule_text(SLOTS) == "1 request at a time for each key"
