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

    def tell(self, what: str, found: str, why: str = "") -> None:
        self.steps.append(ExplanationStep(what, found, why))


def explain(
    policy: Policy, entries: Sequence[KeyEntry], *, key: str, path: str, model: str | None, now: float
) -> Explanation:
    """The way of a request with a key (its id, or `anonymous`). `now` is seconds since the epoch. Raises
    ExplainError."""
    told_so = Explanation()
    principal = _principal(policy, entries, key, now, told_so)
    if principal is None:
        return told_so
    kind = _path(RouteTable(policy.routes), path, told_so)
    if kind is None:
        return told_so
    allowed = kind.scope in principal.scopes
    told_so.tell("scope", kind.scope, "what this path needs" if allowed else f"not among {_list(principal.scopes)}")
    if not allowed:
        told_so.refusal = "403 scope_not_allowed"
        return told_so
    model = kind.model or model
    if model is None and kind.model_in in ("body", "form") and kind.route is None:
        raise ExplainError(f"{path} names a model: say which one with --model")
    routed = _route(policy, kind, model, principal, told_so)
    if routed is None:
        return told_so
    _pool(routed.route.pool, policy.pools[routed.route.pool], told_so)
    _queue(policy.pools[routed.route.pool], policy.plans[principal.plan], told_so)
    _cache(routed.route, told_so)
    _times(routed.route, told_so)
    _limits(policy, principal, routed.counted_as, told_so)
    return told_so


def _principal(
    policy: Policy, entries: Sequence[KeyEntry], key: str, now: float, told_so: Explanation
) -> Principal | None:
    if key == ANONYMOUS:
        name = policy.auth.anonymous
        told_so.tell("key", ANONYMOUS, "a request without a credential")
        if name is None:
            told_so.refusal = "401 invalid_api_key: auth.anonymous is off"
            return None
        plan = policy.plans[name]
        _plan(name, plan, "auth.anonymous", told_so)
        return principal_for(plan, plan_name=name)
    entry = _entry(entries, key, now)
    told_so.tell("key", f"{entry.id} of tenant {entry.tenant}", entry.state(now))
    if entry.state(now) != "active":
        told_so.refusal = f"401 invalid_api_key: it is {entry.state(now)}"
        return None
    if entry.plan not in policy.plans:
        told_so.refusal = f'401 invalid_api_key: its plan "{entry.plan}" is not in the policy'
        return None
    plan = policy.plans[entry.plan]
    _plan(entry.plan, plan, "the key's", told_so)
    narrowed = [f"models {_list(entry.models)}"] if entry.models is not None else []
    narrowed += [f"scopes {_list(entry.scopes)}"] if entry.scopes is not None else []
    if narrowed:
        told_so.tell("narrowed to", "; ".join(narrowed), "by the key itself")
    return principal_for(plan, key=entry.id, tenant=entry.tenant, plan_name=entry.plan, entry=entry)


def _entry(entries: Sequence[KeyEntry], key: str, now: float) -> KeyEntry:
    """The secret of an id that counts: the newest that is good, else the newest."""
    mine = [entry for entry in entries if entry.id == key]
    if not mine:
        raise ExplainError(f'no key "{key}" {known([ANONYMOUS, *(entry.id for entry in entries)], 21)}')
    return next((entry for entry in reversed(mine) if entry.state(now) == "active"), mine[-1])


def _plan(name: str, plan: PlanSettings, why: str, told_so: Explanation) -> None:
    told_so.tell("plan", name, why)
    models = "all models" if plan.models is None else f"models {_list(plan.models)}"
    told_so.tell("", f"{models}; scopes {_list(plan.scopes)}")


def _path(routes: RouteTable, path: str, told_so: Explanation) -> PathKind | None:
    raw_path = path.partition("?")[0].encode()
    for method in ("POST", "GET", "PUT", "PATCH", "DELETE"):
        try:
            kind = classify(raw_path, method) or routes.by_path(raw_path, method)
        except MethodRefused:
            continue
        if kind is CONTROL:
            raise ExplainError(f"{path} is answered by the gateway itself")
        if kind is not None:
            told_so.tell(
                "path", f"{method} {path}", "one of the policy's path routes" if kind.route is not None else ""
            )
            return kind
    told_so.tell("path", path)
    told_so.refusal = "404 path_not_found"
    return None


def _route(
    policy: Policy, kind: PathKind, model: str | None, principal: Principal, told_so: Explanation
) -> RouteMatch | None:
    try:
        routed = RouteTable(policy.routes).find(kind, model, principal)
    except RouteRefused as error:
        told_so.tell("model", model or "none named")
        told_so.refusal = f"{ROUTE_REFUSALS[error.code].status} {error.code}: {error}"
        return None
    number = next(number for number, route in enumerate(policy.routes) if route is routed.route)
    told_so.tell("route", f"routes[{number}] {routed.label}", _matched(routed.route, model))
    if routed.upstream_model is not None and routed.upstream_model != model:
        told_so.tell("upstream model", routed.upstream_model, "the name is rewritten in the request")
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


def _pool(name: str, pool: PoolSettings, told_so: Explanation) -> None:
    told_so.tell("pool", name, f"engine {pool.engine}, {pool.balance}")
    for endpoint in pool.endpoints:
        told_so.tell("endpoint", f"{endpoint.name} {endpoint.url}", "listed")
    if pool.workers is not None:
        told_so.tell("workers", str(pool.workers.count), "started and watched by the gateway")


def _cache(route: RouteSettings, told_so: Explanation) -> None:
    cache = route.cache
    if cache is None:
        return
    whose = "all tenants share its answers" if cache.scope == "shared" else "each tenant has its own answers"
    times = f"fresh for {write_seconds(cache.ttl)}, kept {write_seconds(cache.stale)} longer"
    told_so.tell("cache", f"{cache.mode}, {times}", whose)


def _queue(pool: PoolSettings, plan: PlanSettings, told_so: Explanation) -> None:
    """Explain the bound of a pool and how its requests wait; nothing for a pool without a bound."""
    bounds = [] if pool.max_in_flight is None else [str(pool.max_in_flight)]
    bounds += [f"{one.max_in_flight} at {one.name}" for one in pool.endpoints if one.max_in_flight is not None]
    if not bounds:
        return
    queue = pool.queue
    rest = "no queue" if queue is None else f"{queue.size} more wait, {write_seconds(queue.wait)} at most"
    told_so.tell(
        "at a time", f"{', '.join(bounds)}; {rest}", f"the plan's priority {plan.priority}, weight {plan.weight:g}"
    )


def _times(route: RouteSettings, told_so: Explanation) -> None:
    times = route.timeouts
    named = {"connect": times.connect, "first_byte": times.first_byte, "idle": times.idle, "attempt": times.attempt,
             "total": times.total}  # fmt: skip
    limits = [f"{name} {write_seconds(seconds)}" for name, seconds in named.items() if seconds is not None]
    retries = 0 if route.retry is None else route.retry.retries
    # Each pool of the chain has one, whatever `retries` says.
    most = max(retries, kept_back(route.fallback, -1)) + 1
    told_so.tell("attempts", f"{most} at most", ", ".join(limits))
    if route.hedge is not None:
        after, budget = write_seconds(route.hedge.after), f"at most {route.hedge.budget:g} for each request"
        told_so.tell("hedge", f"after {after} of silence", f"a second attempt beside the first, {budget}")
    if route.fallback:
        told_so.tell("fallback", ", ".join(map(_step, route.fallback)), "once the pool can't answer, in this order")


def _step(member: FallbackSettings) -> str:
    return f"pool {member.pool}" if member.pool is not None else "a stale answer" if member.cache else "a message"


def _limits(policy: Policy, principal: Principal, model: str, told_so: Explanation) -> None:
    plan = policy.plans[principal.plan]
    if plan.max_input_tokens is not None:
        told_so.tell("max_input_tokens", str(plan.max_input_tokens), "a longer prompt is 400 context_length_exceeded")
    if plan.max_output_tokens is not None:
        told_so.tell("max_output_tokens", str(plan.max_output_tokens), "max_tokens is capped")
    rules = rules_of(principal.plan, plan.limits, policy.store.on_outage)
    subject = LimitSubject(principal.key, principal.tenant, principal.user_of(None), "ADDRESS", model)
    for demand in demands(rules, subject, tokens=1, output_tokens=1):
        rule = demand.rule
        outage = f"while the store is away: {rule.on_outage}"
        told_so.tell(f"limit {rule.name}", rule_text(rule), f"{rule.strategy}, bucket {demand.bucket}, {outage}")
    if not rules:
        told_so.tell("limits", "none", "the plan has none")


def _list(words: Iterator[str] | Sequence[str] | frozenset[str]) -> str:
    return ", ".join(sorted(words) if isinstance(words, frozenset) else words) or "none"
