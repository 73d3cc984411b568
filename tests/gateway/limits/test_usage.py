"""A key is told its own limits and what is left of them; asking takes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from backends.store.memory import MemoryStore
from gateway.limits.usage import PrincipalUsage, UsageReporter
from policies.config.settings import PlanSettings
from policies.config.settings.auth import LimitSettings
from policies.config.units import RateValue
from policies.identity.principal import Principal
from policies.limits import Demand, Granted, LimitLevel, LimitSubject, demands, rules_of
from policies.limits.plans import plan_limits
from policies.request.routing import RouteTable
from tests.fakes.backend import Backend
from tests.flow.harness import gateway_with

PLAN = PlanSettings(
    limits=(
        LimitSettings(requests=RateValue(60, 60), burst=20),
        LimitSettings(tokens=RateValue(100, 60), per="tenant+model"),
        LimitSettings(concurrency=4),
        LimitSettings(requests=RateValue(10, 60), per="ip"),
    ),
    max_input_tokens=4096,
)
RULES = rules_of("free", PLAN.limits, "local")
ANN = Principal("k1", "acme", "free", frozenset({"chat"}))


def view(plans: Mapping[str, PlanSettings]) -> Any:
    return SimpleNamespace(
        table=SimpleNamespace(plans=plans), routes=RouteTable(()), limits=plan_limits(plans, "local")
    )


async def asked(store: Any, model: str | None = None, address: str = "10.0.0.1") -> PrincipalUsage:
    return await UsageReporter(lambda: store).of(view({"free": PLAN}), ANN, address, model)


async def test_it_tells_of_every_rule_what_is_left() -> None:
    store = MemoryStore(lambda: 1000.0)
    subject = LimitSubject("k1", "acme", "k1", "10.0.0.1", "m")
    taken = store.take(demands(RULES, subject, tokens=30), "lease")
    assert isinstance(taken, Granted)
    found = await asked(store, "m")
    assert (found.object, found.key, found.tenant, found.plan, found.scopes) == (
        "usage",
        "k1",
        "acme",
        "free",
        ["chat"],
    )
    assert (found.max_input_tokens, found.max_output_tokens) == (4096, None)
    requests, tokens, slots, by_address = found.limits
    assert (requests.rule, requests.text) == ("free.0", "60 requests a minute for each key (at most 20 at once)")
    assert (requests.limit, requests.seconds, requests.burst, requests.used, requests.remaining) == (60, 60, 20, 1, 19)
    assert requests.reset_seconds == 1.0
    assert (tokens.kind, tokens.per, tokens.used, tokens.remaining) == ("tokens", "tenant+model", 30, 70)
    assert (slots.seconds, slots.used, slots.remaining, slots.reset_seconds) == (None, 1, 3, None)
    assert (by_address.used, by_address.remaining) == (1, 9)
    assert await asked(store, "m") == found
    assert (await asked(store, "m", "10.0.0.2")).limits[3].used == 0


async def test_without_a_model_nothing_is_known_of_limits_per_model() -> None:
    found = await asked(MemoryStore(lambda: 1000.0))
    assert (found.limits[1].used, found.limits[1].remaining) == (None, None)
    assert found.limits[0].remaining == 20


class Away:
    """A store that is away."""

    async def seen(self, wanted: Sequence[Demand]) -> tuple[LimitLevel, ...]:
        raise OSError("gone")


@pytest.mark.parametrize("store", [None, Away()])
async def test_the_limits_are_told_also_where_what_is_left_is_not_known(store: Any) -> None:
    found = await asked(store, "m")
    assert [limit.limit for limit in found.limits] == [60, 100, 4, 10]
    assert {limit.remaining for limit in found.limits} == {None}


async def test_it_is_a_route_of_the_client_port_that_wants_a_key() -> None:
    async with Backend() as backend, gateway_with(backend) as gw:
        answer = await gw.send(gw.request("GET", "/v1/usage?model=m"))
        assert answer.status == 200 and answer.header("content-type") == "application/json"
        scopes = ["audio", "chat", "completions", "embeddings", "predict", "rerank"]
        assert answer.json == {
            "object": "usage", "key": "k1", "tenant": "acme", "plan": "test", "scopes": scopes,
            "max_input_tokens": None, "max_output_tokens": None, "limits": [],
        }  # fmt: skip
        refused = await gw.send(gw.request("GET", "/v1/usage", headers=[("authorization", "Bearer x")]))
        assert refused.status == 401
