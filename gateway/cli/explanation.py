"""Explanation of a request, step by step, from the policy file and the keys alone: nothing is sent, nothing is counted,
and the present state of engines and limits is unknown here."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from gateway.error_mapping import ROUTE_REFUSALS
from gateway.limits.limit_error import rule_text
from policies.config.mistakes import known
from policies.config.settings import FallbackSettings, PlanSettings, Policy, PoolSettings, RouteSettings
from policies.config.units import write_seconds
from policies.globs import is_glob, matches_any
from policies.identity.api_keys import KeyEntry
from policies.identity.principal import Principal, principal_for
from policies.limits import LimitSubject, demands, rules_of
from policies.request.paths import CONTROL, MethodRefused, PathKind, classify
from policies.request.routing import RouteMatch, RouteRefused, RouteTable
from policies.resilience.fallback import kept_back

ANONYMOUS = "anonymous"


class ExplainError(Exception):
    """The question can't be answered; the text says what is missing or unknown."""


@dataclass(frozen=True, slots=True)
class ExplanationStep:
    """One finding. `why` is empty where nothing needs a reason."""

    what: str
    found: str
    why: str = ""


@dataclass(slots=True)
class Explanation:
    """The steps as far as the request would get. `refusal` is None where it would be sent on."""

    steps: list[ExplanationStep] = field(default_factory=list)
    refusal: str | None = None

    def add(self, what: str, found: str, why: str = "") -> None:
        self.steps.append(ExplanationStep(what, found, why))


def explain(
    policy: Policy, entries: Sequence[KeyEntry], *, key: str, path: str, model: str | None, now: float
) -> Explanation:
    """The way of a request with a key (its id, or `anonymous`). `now` is seconds since the epoch. Raises
    ExplainError."""
    explanation = Explanation()
    principal = _principal(policy, entries, key, now, explanation)
    if principal is None:
        return explanation
    kind = _path(RouteTable(policy.routes), path, explanation)
    if kind is None:
        return explanation
    allowed = kind.scope in principal.scopes
    explanation.add("scope", kind.scope, "what this path needs" if allowed else f"not among {_list(principal.scopes)}")
    if not allowed:
        explanation.refusal = "403 scope_not_allowed"
        return explanation
    model = kind.model or model
    if model is None and kind.model_in in ("body", "form") and kind.route is None:
        raise ExplainError(f"{path} names a model: say which one with --model")
    routed = _route(policy, kind, model, principal, explanation)
    if routed is None:
        return explanation
    _pool(routed.route.pool, policy.pools[routed.route.pool], explanation)
    _queue(policy.pools[routed.route.pool], policy.plans[principal.plan], explanation)
    _cache(routed.route, explanation)
    _times(routed.route, explanation)
    _limits(policy, principal, routed.counted_as, explanation)
    return explanation


def _principal(
    policy: Policy, entries: Sequence[KeyEntry], key: str, now: float, explanation: Explanation
) -> Principal | None:
    if key == ANONYMOUS:
        name = policy.auth.anonymous
        explanation.add("key", ANONYMOUS, "a request without a credential")
        if name is None:
            explanation.refusal = "401 invalid_api_key: auth.anonymous is off"
            return None
        plan = policy.plans[name]
        _plan(name, plan, "auth.anonymous", explanation)
        return principal_for(plan, plan_name=name)
    entry = _entry(entries, key, now)
    explanation.add("key", f"{entry.id} of tenant {entry.tenant}", entry.state(now))
    if entry.state(now) != "active":
        explanation.refusal = f"401 invalid_api_key: it is {entry.state(now)}"
        return None
    if entry.plan not in policy.plans:
        explanation.refusal = f'401 invalid_api_key: its plan "{entry.plan}" is not in the policy'
        return None
    plan = policy.plans[entry.plan]
    _plan(entry.plan, plan, "the key's", explanation)
    narrowed = [f"models {_list(entry.models)}"] if entry.models is not None else []
    narrowed += [f"scopes {_list(entry.scopes)}"] if entry.scopes is not None else []
    if narrowed:
        explanation.add("narrowed to", "; ".join(narrowed), "by the key itself")
    return principal_for(plan, key=entry.id, tenant=entry.tenant, plan_name=entry.plan, entry=entry)


def _entry(entries: Sequence[KeyEntry], key: str, now: float) -> KeyEntry:
    """The secret of an id that counts: the newest that is good, else the newest."""
    mine = [entry for entry in entries if entry.id == key]
    if not mine:
        raise ExplainError(f'no key "{key}" {known([ANONYMOUS, *(entry.id for entry in entries)], 21)}')
    return next((entry for entry in reversed(mine) if entry.state(now) == "active"), mine[-1])


def _plan(name: str, plan: PlanSettings, why: str, explanation: Explanation) -> None:
    explanation.add("plan", name, why)
    models = "all models" if plan.models is None else f"models {_list(plan.models)}"
    explanation.add("", f"{models}; scopes {_list(plan.scopes)}")


def _path(routes: RouteTable, path: str, explanation: Explanation) -> PathKind | None:
    raw_path = path.partition("?")[0].encode()
    for method in ("POST", "GET", "PUT", "PATCH", "DELETE"):
        try:
            kind = classify(raw_path, method) or routes.by_path(raw_path, method)
        except MethodRefused:
            continue
        if kind is CONTROL:
            raise ExplainError(f"{path} is answered by the gateway itself")
        if kind is not None:
            explanation.add(
                "path", f"{method} {path}", "one of the policy's path routes" if kind.route is not None else ""
            )
            return kind
    explanation.add("path", path)
    explanation.refusal = "404 path_not_found"
    return None


def _route(
    policy: Policy, kind: PathKind, model: str | None, principal: Principal, explanation: Explanation
) -> RouteMatch | None:
    try:
        routed = RouteTable(policy.routes).find(kind, model, principal)
    except RouteRefused as error:
        explanation.add("model", model or "none named")
        explanation.refusal = f"{ROUTE_REFUSALS[error.code].status} {error.code}: {error}"
        return None
    number = next(number for number, route in enumerate(policy.routes) if route is routed.route)
    explanation.add("route", f"routes[{number}] {routed.label}", _matched(routed.route, model))
    if routed.upstream_model is not None and routed.upstream_model != model:
        explanation.add("upstream model", routed.upstream_model, "the name is rewritten in the request")
    return routed


def _matched(route: RouteSettings, model: str | None) -> str:
    if route.model is None:
        return "its path is the first that matches"
    if model is None:
        return "all models that this key may use lead to its pool"
    if model == route.model:
        return "the first with this name"
    if is_glob(route.model) and matches_any(model, (route.model,)):
        return f"the first whose glob matches {model}"
    return f"the first with the alias {model}"


def _pool(name: str, pool: PoolSettings, explanation: Explanation) -> None:
    explanation.add("pool", name, f"engine {pool.engine}, {pool.balance}")
    for endpoint in pool.endpoints:
        explanation.add("endpoint", f"{endpoint.name} {endpoint.url}", "listed")
    if pool.workers is not None:
        explanation.add("workers", str(pool.workers.count), "started and watched by the gateway")


def _cache(route: RouteSettings, explanation: Explanation) -> None:
    cache = route.cache
    if cache is None:
        return
    whose = "all tenants share its answers" if cache.scope == "shared" else "each tenant has its own answers"
    times = f"fresh for {write_seconds(cache.ttl)}, kept {write_seconds(cache.stale)} longer"
    explanation.add("cache", f"{cache.mode}, {times}", whose)


def _queue(pool: PoolSettings, plan: PlanSettings, explanation: Explanation) -> None:
    """Explain the bound of a pool and how its requests wait; nothing for a pool without a bound."""
    bounds = [] if pool.max_in_flight is None else [str(pool.max_in_flight)]
    bounds += [f"{one.max_in_flight} at {one.name}" for one in pool.endpoints if one.max_in_flight is not None]
    if not bounds:
        return
    queue = pool.queue
    rest = "no queue" if queue is None else f"{queue.size} more wait, {write_seconds(queue.wait)} at most"
    explanation.add(
        "at a time", f"{', '.join(bounds)}; {rest}", f"the plan's priority {plan.priority}, weight {plan.weight:g}"
    )


def _times(route: RouteSettings, explanation: Explanation) -> None:
    times = route.timeouts
    named = {"connect": times.connect, "first_byte": times.first_byte, "idle": times.idle, "attempt": times.attempt,
             "total": times.total}  # fmt: skip
    limits = [f"{name} {write_seconds(seconds)}" for name, seconds in named.items() if seconds is not None]
    retries = 0 if route.retry is None else route.retry.retries
    # Each pool of the chain has one, whatever `retries` says.
    most = max(retries, kept_back(route.fallback, -1)) + 1
    explanation.add("attempts", f"{most} at most", ", ".join(limits))
    if route.hedge is not None:
        after, budget = write_seconds(route.hedge.after), f"at most {route.hedge.budget:g} for each request"
        explanation.add("hedge", f"after {after} of silence", f"a second attempt beside the first, {budget}")
    if route.fallback:
        explanation.add("fallback", ", ".join(map(_step, route.fallback)), "once the pool can't answer, in this order")


def _step(member: FallbackSettings) -> str:
    return f"pool {member.pool}" if member.pool is not None else "a stale answer" if member.cache else "a message"


def _limits(policy: Policy, principal: Principal, model: str, explanation: Explanation) -> None:
    plan = policy.plans[principal.plan]
    if plan.max_input_tokens is not None:
        explanation.add(
            "max_input_tokens", str(plan.max_input_tokens), "a longer prompt is 400 context_length_exceeded"
        )
    if plan.max_output_tokens is not None:
        explanation.add("max_output_tokens", str(plan.max_output_tokens), "max_tokens is capped")
    rules = rules_of(principal.plan, plan.limits, policy.store.on_outage)
    subject = LimitSubject(principal.key, principal.tenant, principal.user_of(None), "ADDRESS", model)
    for demand in demands(rules, subject, tokens=1, output_tokens=1):
        rule = demand.rule
        outage = f"while the store is away: {rule.on_outage}"
        explanation.add(f"limit {rule.name}", rule_text(rule), f"{rule.strategy}, bucket {demand.bucket}, {outage}")
    if not rules:
        explanation.add("limits", "none", "the plan has none")


def _list(words: Iterator[str] | Sequence[str] | frozenset[str]) -> str:
    return ", ".join(sorted(words) if isinstance(words, frozenset) else words) or "none"
