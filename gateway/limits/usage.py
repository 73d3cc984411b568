"""Limits of a client's credential and what remains of them: `GET /v1/usage`. Reading charges nothing."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from backends.data_plane import TableView
from backends.store.base import LimitStore
from gateway.limits.limit_error import rule_text
from gateway.observe.log import fields
from policies.identity.principal import Principal
from policies.limits import Demand, LimitLevel, LimitRule, LimitSubject, demands

log = logging.getLogger("sluice.usage")

# A request waits for the store much less; who looks at figures has time.
_PATIENCE: Final = 1.0


@dataclass(frozen=True, slots=True)
class LimitUse:
    """One rule of the plan. Fields as JSON has them; None is "not known".

    rule: its name, as a 429 has it
    text: the same in words
    limit: so many in so many `seconds`, of which `burst` at once; no seconds for concurrency
    used, remaining: of the bucket that this client is counted in; while the store is away, of this process's share of
        it, or None where it has none. None for a limit per model where the question names none
    reset_seconds: until it is as if nothing had been used
    """

    rule: str
    text: str
    kind: str
    strategy: str
    per: str
    limit: int
    seconds: int | None
    burst: int
    used: int | None = None
    remaining: int | None = None
    reset_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class PrincipalUsage:
    """The answer. Of the key itself there is its id."""

    object: str
    key: str
    tenant: str
    plan: str
    scopes: list[str]
    max_input_tokens: int | None
    max_output_tokens: int | None
    limits: list[LimitUse]


class UsageReporter:
    """Reads; takes nothing. `store` gives None while there are no limits to be looked up."""

    def __init__(self, store: Callable[[], LimitStore | None]) -> None:
        self._store = store

    async def of(self, view: TableView, principal: Principal, address: str, model: str | None) -> PrincipalUsage:
        """A principal's limits. `model` is what limits per model are looked up for."""
        plan = view.table.plans[principal.plan]
        limits = view.limits.get(principal.plan)
        rules = limits.rules if limits is not None else ()
        counted_as = view.routes.counted_as(model) if model else ""
        subject = LimitSubject(principal.key, principal.tenant, principal.user_of(None), address, counted_as)
        asked = [rule for rule in rules if model is not None or "model" not in rule.per]
        wanted = demands(asked, subject, tokens=1, output_tokens=1)
        levels = {level.rule.name: level for level in await self._levels(wanted)}
        return PrincipalUsage(
            object="usage",
            key=principal.key,
            tenant=principal.tenant,
            plan=principal.plan,
            scopes=sorted(principal.scopes),
            max_input_tokens=plan.max_input_tokens,
            max_output_tokens=plan.max_output_tokens,
            limits=[_use(rule, levels.get(rule.name)) for rule in rules],
        )

    async def _levels(self, wanted: Sequence[Demand]) -> Sequence[LimitLevel]:
        store = self._store()
        if store is None or not wanted:
            return ()
        try:
            return await asyncio.wait_for(store.seen(wanted), _PATIENCE)
        except Exception as error:
            # Whatever kept the store from telling: the limits themselves are known without it.
            log.info("usage_unknown", extra=fields(reason=type(error).__name__))
            return ()


def _use(rule: LimitRule, level: LimitLevel | None) -> LimitUse:
    """`remaining` of a bucket in debt is 0, so `used` is at most the burst."""
    return LimitUse(
        rule=rule.name,
        text=rule_text(rule),
        kind=rule.kind,
        strategy=rule.strategy,
        per=rule.per,
        limit=rule.count,
        seconds=rule.seconds or None,
        burst=rule.burst,
        used=None if level is None else level.limit - level.remaining,
        remaining=None if level is None else level.remaining,
        reset_seconds=None if level is None or rule.kind == "concurrency" else round(level.reset, 3),
    )
