"""What an operator decided, as frozen values; attribute names are the policy file's keys (`for` is `for_`).

Durations are seconds, sizes bytes, `off` is None (of a list: empty), and every absent key has its default. The
docstring of a class has a line for each of its keys: `sluice schema` and the docs show them.
"""

from policies.config.addresses import Address
from policies.config.forms import Bound, Step
from policies.config.settings.auth import ApiKeys, Auth, ClaimDefaults, Claims, Jwks, Jwt, Limit, Per, Plan, Scope
from policies.config.settings.fallback import Fallback, Webhook
from policies.config.settings.observe import AccessLog, Log, Metrics, Observe, Tracing
from policies.config.settings.policy import Policy
from policies.config.settings.pools import (
    Balance,
    Breaker,
    Discover,
    Ejection,
    Endpoint,
    EndpointTls,
    Engine,
    Health,
    Pool,
    Queue,
    Scrape,
)
from policies.config.settings.rollout import Canary, Judge, Shadow
from policies.config.settings.routes import Cache, Hedge, Match, Method, Retry, Route, Timeouts
from policies.config.settings.secret import Secret
from policies.config.settings.server import Cors, Server, ServerTls, Store
from policies.config.settings.workers import Autoscale, CrashLoop, Down, Restart, Scale, Stop, Up, Workers
from policies.config.units import Rate

__all__ = [
    "AccessLog",
    "Address",
    "ApiKeys",
    "Auth",
    "Autoscale",
    "Balance",
    "Bound",
    "Breaker",
    "Cache",
    "Canary",
    "ClaimDefaults",
    "Claims",
    "Cors",
    "CrashLoop",
    "Discover",
    "Down",
    "Ejection",
    "Endpoint",
    "EndpointTls",
    "Engine",
    "Fallback",
    "Health",
    "Hedge",
    "Judge",
    "Jwks",
    "Jwt",
    "Limit",
    "Log",
    "Match",
    "Method",
    "Metrics",
    "Observe",
    "Per",
    "Plan",
    "Policy",
    "Pool",
    "Queue",
    "Rate",
    "Restart",
    "Retry",
    "Route",
    "Scale",
    "Scope",
    "Scrape",
    "Secret",
    "Server",
    "ServerTls",
    "Shadow",
    "Step",
    "Stop",
    "Store",
    "Timeouts",
    "Tracing",
    "Up",
    "Webhook",
    "Workers",
]
