"""Settings of the policy file as frozen values; attribute names are the file's keys (`for` is `for_`).

Durations are seconds, sizes bytes, `off` is None (of a list: empty), and every absent key has its default. The
docstring of a class has a line for each of its keys: `sluice schema` and the docs show them.

    policy     the whole file
    server     `server`, `store`: listener, limits of the server, shared store
    auth       `auth`, `plans`: credentials, plans, rate limits
    pools      `pools`: endpoints, balancing, queue, health, ejection, breaker
    workers    `pools.NAME.workers`: processes that the gateway starts
    routes     `routes`: model or path -> pool, timeouts, retries, cache
    fallback   `routes[].fallback`
    rollout    `routes[].canary`, `routes[].shadow`
    observe    `observe`: logs, metrics, traces
    secret     a secret and its source
"""

from policies.config.addresses import Address
from policies.config.forms import Bound, TextStep
from policies.config.settings.auth import (
    ApiKeysSettings,
    AuthSettings,
    ClaimDefaultsSettings,
    ClaimsSettings,
    JwksSettings,
    JwtSettings,
    LimitSettings,
    Per,
    PlanSettings,
    Scope,
)
from policies.config.settings.fallback import FallbackSettings, WebhookSettings
from policies.config.settings.observe import (
    AccessLogSettings,
    LogSettings,
    MetricsSettings,
    ObserveSettings,
    TracingSettings,
)
from policies.config.settings.policy import Policy
from policies.config.settings.pools import (
    BreakerSettings,
    DiscoverSettings,
    EjectionSettings,
    EndpointSettings,
    EndpointTlsSettings,
    Engine,
    HealthSettings,
    PoolSettings,
    QueueSettings,
    ScrapeSettings,
)
from policies.config.settings.rollout import CanarySettings, JudgeSettings, ShadowSettings
from policies.config.settings.routes import (
    CacheSettings,
    HedgeSettings,
    MatchSettings,
    Method,
    RetrySettings,
    RouteSettings,
    TimeoutSettings,
)
from policies.config.settings.secret import Secret
from policies.config.settings.server import CorsSettings, ServerSettings, ServerTlsSettings, StoreSettings
from policies.config.settings.workers import (
    AutoscaleSettings,
    CrashLoopSettings,
    RestartSettings,
    ScaleDownSettings,
    ScaleSettings,
    ScaleUpSettings,
    StopSettings,
    WorkerSettings,
)
from policies.config.units import RateValue

__all__ = [
    "AccessLogSettings",
    "Address",
    "ApiKeysSettings",
    "AuthSettings",
    "AutoscaleSettings",
    "Bound",
    "BreakerSettings",
    "CacheSettings",
    "CanarySettings",
    "ClaimDefaultsSettings",
    "ClaimsSettings",
    "CorsSettings",
    "CrashLoopSettings",
    "DiscoverSettings",
    "EjectionSettings",
    "EndpointSettings",
    "EndpointTlsSettings",
    "Engine",
    "FallbackSettings",
    "HealthSettings",
    "HedgeSettings",
    "JudgeSettings",
    "JwksSettings",
    "JwtSettings",
    "LimitSettings",
    "LogSettings",
    "MatchSettings",
    "Method",
    "MetricsSettings",
    "ObserveSettings",
    "Per",
    "PlanSettings",
    "Policy",
    "PoolSettings",
    "QueueSettings",
    "RateValue",
    "RestartSettings",
    "RetrySettings",
    "RouteSettings",
    "ScaleDownSettings",
    "ScaleSettings",
    "ScaleUpSettings",
    "Scope",
    "ScrapeSettings",
    "Secret",
    "ServerSettings",
    "ServerTlsSettings",
    "ShadowSettings",
    "StopSettings",
    "StoreSettings",
    "TextStep",
    "TimeoutSettings",
    "TracingSettings",
    "WebhookSettings",
    "WorkerSettings",
]
