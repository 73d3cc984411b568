"""While the store is away this process's share holds, by what is used and not by what was asked for."""

from backends.store.factory import open_memory
from backends.store.outage import StoreOutage
from policies.config.settings.auth import LimitSettings
from policies.config.units import RateValue
from policies.limits import Granted, LimitSubject, demands, rules_of
from tests.fakes.store import SpyMeter

SUBJECT = LimitSubject("k", "t", "u", "i", "m")


def outage_of(live: int) -> StoreOutage:
    outage = StoreOutage(
        open_memory(lambda: 1000.0, 1.7e9), "local", SpyMeter(), lambda event, what: None, lambda: 1000.0
    )
    outage.live, outage.open = live, True
    return outage


def test_who_reserves_more_than_the_share_is_charged_what_was_used() -> None:
    outage, rules = outage_of(10), rules_of("p", [LimitSettings(tokens=RateValue(10_000, 3600))], "local")
    used = 0
    for number in range(100):
        asked = demands(rules, SUBJECT, tokens=5000)
        answer = outage.answer(asked, f"lease {number}")
        if not isinstance(answer, Granted):
            break
        used += 900
        outage.refund(answer, [(asked[0], 900 - 5000)])
    # The share of one of ten is 1,000 tokens; who gets in uses at most one request's more.
    assert 0 < used <= 2 * 1000


def test_a_share_of_requests_is_the_limit_divided_by_the_live_processes() -> None:
    outage, rules = outage_of(4), rules_of("p", [LimitSettings(requests=RateValue(20, 3600))], "local")
    answers = [outage.answer(demands(rules, SUBJECT), f"lease {number}") for number in range(20)]
    assert sum(isinstance(answer, Granted) for answer in answers) == 5


async def test_what_is_not_counted_here_is_not_told_as_if_nothing_had_been_used() -> None:
    limits = [LimitSettings(requests=RateValue(20, 60), on_outage=policy) for policy in ("open", "local", "closed")]
    outage, rules = outage_of(2), rules_of("p", limits, "local")
    asked = demands(rules, SUBJECT)
    assert isinstance(outage.answer(asked[:2], "lease"), Granted)
    assert [(level.rule.name, level.remaining) for level in await outage.seen(asked)] == [("p.1", 9)]
