"""Error of a request that a limit refuses: the rule, the limit, and the time of the next try."""

from collections.abc import Sequence
from math import inf
from typing import Final

from gateway.durations import duration, whole_seconds
from gateway.errors import (
    ConcurrencyLimited,
    GatewayError,
    QuotaExceeded,
    RateLimited,
    StoreUnavailable,
)
from gateway.limits.ratelimit_headers import limit_headers
from policies.config.settings.auth import Per
from policies.limits import Demand, LimitRefused, LimitRule

# The longest Retry-After that SDKs obey by themselves; older SDKs retry at once after a longer one.
LONGEST_SDK_WAIT: Final = 60

_PERIODS: Final = {1: "a second", 60: "a minute", 3600: "an hour", 86400: "a day", 30 * 86400: "a month"}
_EACH: Final[dict[Per, str]] = {
    "key": "for each key", "tenant": "for each tenant", "user": "for each user", "ip": "for each address",
    "model": "for each model", "tenant+model": "for each tenant and model", "all": "for all clients together",
}  # fmt: skip
_NO_RETRY: Final = (b"x-should-retry", b"false")


def rule_text(rule: LimitRule) -> str:
    """Return a rule in words: `60 requests a minute for each key`."""
    if rule.kind == "concurrency":
        return f"{rule.count} {_noun('request', rule.count)} at a time {_EACH[rule.per]}"
    noun = {"requests": "request", "tokens": "token", "output_tokens": "output token"}[rule.kind]
    period = _PERIODS.get(rule.seconds, f"in {rule.seconds} seconds")
    burst = f" (at most {rule.burst} at once)" if rule.burst != rule.count else ""
    return f"{rule.count} {_noun(noun, rule.count)} {period} {_EACH[rule.per]}{burst}"


def limit_error(refused: LimitRefused, demands: Sequence[Demand] = ()) -> GatewayError:
    """Return the error of a refused request; `demands` are the amounts that it wanted, for a more exact message."""
    rule, wait = refused.rule, refused.retry_after
    if refused.mode == "closed":
        return StoreUnavailable(
            f"Limits cannot be checked now, and rule {rule.name} lets nothing through unchecked. Try again shortly.",
            retry_after=1 if wait in (0, inf) else whole_seconds(wait),
        )
    headers = limit_headers(refused.levels)
    if wait == inf or wait > LONGEST_SDK_WAIT:
        headers.append(_NO_RETRY)
    if wait == inf:
        return _error_of(rule)(f"{_never(rule, demands)} (rule {rule.name}).", headers=headers)
    when = duration(whole_seconds(wait) or 1).decode()
    texts = {
        "concurrency": f"Too many requests at a time: the limit is {rule_text(rule)} (rule {rule.name}). "
        f"Wait until one is over, or try again in {when}.",
        "quota": f"The quota is used up: {rule_text(rule)} (rule {rule.name}). It begins anew in {when}.",
        "rate": f"Rate limit reached: {rule_text(rule)} (rule {rule.name}). Try again in {when}.",
    }
    kind = "concurrency" if rule.kind == "concurrency" else "quota" if rule.quota else "rate"
    return _error_of(rule)(texts[kind], retry_after=whole_seconds(wait), headers=headers)


def _error_of(rule: LimitRule) -> type[GatewayError]:
    if rule.kind == "concurrency":
        return ConcurrencyLimited
    return QuotaExceeded if rule.quota else RateLimited


def _never(rule: LimitRule, demands: Sequence[Demand]) -> str:
    """Return the message of a refusal that no wait mends."""
    if not rule.burst or not rule.count:
        return f"The limit is {rule_text(rule)}: none is let through"
    wanted = next((demand.amount for demand in demands if demand.rule == rule), None)
    amount = f"{wanted} tokens" if wanted is not None else "more tokens"
    return f"This request may use {amount}, which is over the limit at any time: {rule_text(rule)}. Ask for fewer"


def _noun(noun: str, count: int) -> str:
    return noun if count == 1 else f"{noun}s"
