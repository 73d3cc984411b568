"""Rate limiter: one atomic call to the store for all rules of the principal's plan, before an engine works, and one for
the difference at the end of the request (policy key `plans.*.limits`).

A request whose plan has no limits never comes here.
"""

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import dataclass

from backends.data_plane import TableView
from backends.store.base import LimitStore
from gateway.exchange import Exchange
from gateway.limits.limit_error import limit_error
from gateway.limits.ratelimit_headers import limit_headers
from gateway.limits.store_switch import LimitStoreSwitch, PreparedLimitStore
from policies.identity.principal import Principal
from policies.limits import Answer, Demand, Granted, LimitRefused, LimitSubject
from policies.limits.plans import PlanLimits
from policies.request.describe import DescribedRequest
from policies.request.usage.dialects import DIALECTS, TokenDialect
from policies.request.usage.edits import ask_usage, cap_output, may_ask
from policies.request.usage.estimate import TokenEstimates, counted, real


@dataclass(slots=True)
class HeldLimits:
    """Amounts that a request has taken, until they are refunded. Not frozen for the reason in
    `policies.limits.answers`.

    model: name under which the model is counted
    reserved: tokens of the prompt and of the answer
    store: the store that granted it; by now the policy may name another one
    """

    call: DescribedRequest
    model: str
    dialect: TokenDialect | None
    reserved: tuple[int, int]
    store: LimitStore | None
    granted: Granted | None
    demands: tuple[Demand, ...]


class RateLimiter:
    """Limits of one process."""

    def __init__(self, stores: LimitStoreSwitch, refused: Callable[[str], None], lease: str) -> None:
        """`refused` counts a refusal by the name of its rule; `lease` names this process."""
        self._stores = stores
        self._refused = refused
        self._names = (f"{lease}.{number}" for number in itertools.count())
        self._estimates = TokenEstimates()

    @property
    def store(self) -> PreparedLimitStore | None:
        """Store in use; None before the first limit."""
        return self._stores.current

    def follow(self, view: TableView) -> None:
        """Adopt a new table: prepare the store for its rules."""
        self._stores.follow([rule for plan in view.limits.values() for rule in plan.rules])

    # -- before the first attempt

    async def take(
        self, exchange: Exchange, limits: PlanLimits, principal: Principal, call: DescribedRequest, model: str
    ) -> HeldLimits:
        """Take the request's amount of every rule and return what is held, for `refund`. Raises the GatewayError of the
        rule that refuses, and RefusedBody where the prompt is longer than the plan allows. `model` is the name under
        which the model is counted."""
        dialect = DIALECTS.get(exchange.kind.path) if limits.counts else None
        reserved = self._estimates.reserve(call, limits.plan, model, limits.room) if dialect is not None else (0, 0)
        subject = LimitSubject(principal.key, principal.tenant, principal.user_of(call.user), exchange.client, model)
        demands = limits.asking.demands(subject, reserved[0] + reserved[1], reserved[1])
        granted, store = None, self._stores.current
        if demands and store is not None:
            answer = store.take(demands, next(self._names))
            if isinstance(answer, asyncio.Future):
                coming = answer
                try:
                    answer = await coming
                except BaseException:
                    _abandon(store, coming, demands)
                    raise
            if isinstance(answer, LimitRefused):
                self._refused(answer.rule.name)
                raise limit_error(answer, demands)
            granted = answer
            exchange.attempt.reply_headers = tuple(limit_headers(granted.levels))
        return HeldLimits(call, model, dialect, reserved, store, granted, demands)

    def prompt_tokens(self, call: DescribedRequest) -> int:
        """Return the estimated prompt tokens of a measured prompt, by what this process has learnt of the model."""
        return self._estimates.prompt_tokens(call, call.model or "")

    def edit(self, exchange: Exchange, limits: PlanLimits, call: DescribedRequest, engine: str) -> None:
        """Make the declared edits of the body (DESIGN rule 8): cap the answer, and ask for usage that is removed
        from the stream again. Raises RefusedBody."""
        most = limits.plan.max_output_tokens
        wants_usage = limits.charges and call.stream
        dialect = DIALECTS.get(exchange.kind.path) if wants_usage or most is not None else None
        if dialect is None:
            return
        body = exchange.body
        if most is not None:
            body = cap_output(body, dialect, most, engine)
        if wants_usage and may_ask(
            dialect, engine, stream=call.stream, include_usage=call.include_usage, answers=call.answers
        ):
            edited = ask_usage(body)
            if edited is not None:
                body, exchange.strips_usage = edited, True
        if body is not exchange.body:
            exchange.record.size_in, exchange.body = len(exchange.body), body

    # -- at the end of the request

    def refund(self, exchange: Exchange, held: HeldLimits) -> None:
        """Charge or give back the difference to the real usage, and give the lease back. Reads the usage that
        `Completion.finish` has written into the exchange's record."""
        prompt, output = self._used(exchange, held)
        if held.granted is None or held.store is None:
            return
        more_output = output - held.reserved[1]
        more = prompt - held.reserved[0] + more_output
        changes = []
        for one in held.demands:
            kind = one.rule.kind
            amount = more if kind == "tokens" else more_output if kind == "output_tokens" else 0
            if amount:
                changes.append((one, amount))
        held.store.refund(held.granted, changes)

    def _used(self, exchange: Exchange, held: HeldLimits) -> tuple[int, int]:
        """Return the tokens of prompt and answer; nothing where no answer came."""
        relay = exchange.attempt.relay
        answered = relay is not None and relay.released and relay.status < 400 and relay.first_event_error is None
        if held.dialect is None or relay is None or relay.tap is None or not answered:
            return real((None, None), None, held.reserved)
        tap = relay.tap
        whole = not relay.stream or relay.end_seen
        usage = exchange.record.usage
        # Events are counted only where the engine reported no usage, or not the last one.
        found = 0
        if usage[1] is None or not whole:
            found = counted(
                held.call, held.dialect, events=tap.events, size=tap.size, stream=relay.stream, whole=whole
            )  # fmt: skip
        if usage[0] is not None:
            self._estimates.learn(held.model, held.call.prompt_bytes, usage[0])
        return real(usage, found, held.reserved, whole=whole)


def _abandon(store: LimitStore, answer: "asyncio.Future[Answer]", demands: tuple[Demand, ...]) -> None:
    """Stop waiting for the store: the store gives back what it takes, or this does where the answer had just come."""
    if not answer.cancel() and not answer.cancelled() and answer.exception() is None:
        came = answer.result()
        if isinstance(came, Granted):
            store.refund(came, [(one, -one.amount) for one in demands])
