"""Settings of authentication and plans (policy keys `auth`, `plans`)."""

from dataclasses import dataclass
from typing import Annotated, Final, Literal

from policies.config.addresses import URL
from policies.config.forms import BOOL, GLOB, NAME, PATH, PLAN_NAME, SOME_TEXT
from policies.config.kind import UNSET
from policies.config.units import COUNT, COUNT_ABOVE_0, PRIORITY, RATE, SECONDS, SECONDS_ABOVE_0, WEIGHT, RateValue

Scope = Literal["chat", "completions", "embeddings", "rerank", "audio", "predict", "engine_fields"]
Per = Literal["key", "tenant", "user", "ip", "model", "tenant+model", "all"]
_Rsa = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"]
_Curves = Literal["ES256", "ES384", "ES512", "EdDSA"]
_SharedKey = Literal["HS256", "HS384", "HS512"]
MOST: Final = 10**9
"""The largest count of a limit: in micro-units, times two, times a month's seconds it fits the doubles of Lua."""
MOST_MOVING: Final = 100_000
Algorithm = Literal[_Rsa, _Curves, _SharedKey]


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKeysSettings:
    """Location of the hashes of the API keys.

    file: keys file, written by `sluice keys` only and read again when it changes
    store: true: the hashes are kept in the store instead
    """

    file: Annotated[str | None, PATH, UNSET] = None
    store: Annotated[bool, BOOL] = False

    def __post_init__(self) -> None:
        if (self.file is not None) == self.store:
            raise ValueError("api_keys is {file: PATH} or {store: true}")


@dataclass(frozen=True, slots=True, kw_only=True)
class JwksSettings:
    """An issuer's public keys.

    url: URL of the key set
    file: file of the key set, instead of url
    refresh: interval of the fetches
    stale: time for which the last keys stay valid while fetches fail
    """

    url: Annotated[str | None, URL, UNSET] = None
    file: Annotated[str | None, PATH, UNSET] = None
    refresh: Annotated[float, SECONDS_ABOVE_0] = 600.0
    stale: Annotated[float, SECONDS] = 86400.0

    def __post_init__(self) -> None:
        if (self.url is None) == (self.file is None):
            raise ValueError("jwks is {url: URL} or {file: PATH}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimsSettings:
    """Names of the token claims that hold tenant, plan, scopes and models.

    tenant: claim that names the tenant
    plan: claim that names the plan
    scopes: claim that lists the scopes
    models: claim that lists the models
    """

    tenant: Annotated[str | None, SOME_TEXT, UNSET] = None
    plan: Annotated[str | None, SOME_TEXT, UNSET] = None
    scopes: Annotated[str | None, SOME_TEXT, UNSET] = None
    models: Annotated[str | None, SOME_TEXT, UNSET] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimDefaultsSettings:
    """Defaults for claims that a token does not have.

    tenant: tenant of tokens without the claim
    plan: the plan's name
    scopes: the scopes
    models: names or globs
    """

    tenant: Annotated[str | None, NAME, UNSET] = None
    plan: Annotated[str | None, PLAN_NAME, UNSET] = None
    scopes: Annotated[tuple[Scope, ...] | None, UNSET] = None
    models: Annotated[tuple[Annotated[str, GLOB], ...] | None, UNSET] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JwtSettings:
    """One issuer of tokens.

    name: name of the issuer in the gateway
    issuer: value of the token's `iss`
    audience: value of the token's `aud`
    algorithms: accepted signature algorithms
    jwks: {url} or {file} of the public keys
    leeway: largest accepted difference of clocks
    max_lifetime: longest accepted validity of a token
    claims: names of the claims; a token without a named claim gets 403 unless `default` has a value
    default: values for tokens without the claim
    shared_tenants: true: tenants are called as tokens say and not ISSUER/TENANT, so keys can have the same ones
    """

    name: Annotated[str, NAME]
    issuer: Annotated[str, URL]
    audience: Annotated[str, SOME_TEXT]
    algorithms: tuple[Algorithm, ...] = ("RS256", "ES256", "EdDSA")
    jwks: JwksSettings
    leeway: Annotated[float, SECONDS] = 30.0
    max_lifetime: Annotated[float, SECONDS_ABOVE_0] = 86400.0
    claims: ClaimsSettings = ClaimsSettings()
    default: ClaimDefaultsSettings = ClaimDefaultsSettings()
    shared_tenants: Annotated[bool, BOOL] = False

    def __post_init__(self) -> None:
        shared = [name for name in self.algorithms if name.startswith("HS")]
        if shared and len(shared) < len(self.algorithms):
            # Whoever knows the public key could sign with it as if it were the shared one.
            raise ValueError(f"{shared[0]} cannot stand beside an algorithm with public keys")
        if shared and self.jwks.file is None:
            # A shared key signs as well as it verifies: nobody may publish it.
            raise ValueError(f"{shared[0]} needs its shared key in a file of its own: jwks: {{file: PATH}}")
        if not self.algorithms:
            raise ValueError("algorithms is empty")
        if self.claims.plan is None and self.default.plan is None:
            raise ValueError("a token gets its plan from claims.plan or default.plan: neither is there")


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthSettings:
    """Authentication of clients.

    anonymous: a plan's name: for requests without a credential, and for a bearer that is neither our key nor a JWT
    api_keys: {file: PATH} or {store: true}
    jwt: issuers of tokens
    """

    anonymous: Annotated[str, PLAN_NAME] | None = None
    api_keys: ApiKeysSettings | None = ApiKeysSettings(file="keys.yaml")
    jwt: tuple[JwtSettings, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitSettings:
    """One limit: exactly one of requests, tokens, output_tokens and concurrency.

    requests: requests per time, such as 60/minute
    tokens: prompt and completion tokens per time
    output_tokens: completion tokens per time
    concurrency: most open requests
    burst: largest amount at once, with token_bucket; absent: the rate's count
    strategy: algorithm of the limit
    per: unit with a count of its own
    on_outage: behaviour while the store is unavailable; absent: the store's own
    """

    requests: Annotated[RateValue | None, RATE, UNSET] = None
    tokens: Annotated[RateValue | None, RATE, UNSET] = None
    output_tokens: Annotated[RateValue | None, RATE, UNSET] = None
    concurrency: Annotated[int | None, COUNT, UNSET] = None
    burst: Annotated[int | None, COUNT_ABOVE_0, UNSET] = None
    strategy: Literal["token_bucket", "fixed_window", "sliding_window", "moving_window"] = "token_bucket"
    per: Per = "key"
    on_outage: Annotated[Literal["local", "open", "closed"] | None, UNSET] = None

    def __post_init__(self) -> None:
        kinds = (self.requests, self.tokens, self.output_tokens, self.concurrency)
        if sum(kind is not None for kind in kinds) != 1:
            raise ValueError("a limit has exactly one of requests, tokens, output_tokens and concurrency")
        if self.burst is not None and (self.concurrency is not None or self.strategy != "token_bucket"):
            raise ValueError("burst belongs to strategy token_bucket")
        if self.concurrency is not None:
            if self.strategy != "token_bucket":
                raise ValueError("concurrency has no strategy: it counts open requests")
            return
        kind, rate = self.rated()
        if max(rate.count, self.burst or 0) > MOST:
            raise ValueError(f"a limit counts up to {MOST // 10**6}M")
        if rate.count == 0 and self.burst is not None:
            raise ValueError("a rate of 0 never fills its burst again")
        if self.strategy == "moving_window" and rate.count > MOST_MOVING:
            raise ValueError(f"moving_window keeps every request it counts, up to {MOST_MOVING // 1000}k of them")
        if kind != "requests" and self.strategy in ("sliding_window", "moving_window"):
            # They keep an entry, or take a round trip, a unit; and nothing can be given back to them.
            raise ValueError(f"strategy {self.strategy} counts requests only: {kind} have token_bucket or fixed_window")

    def rated(self) -> tuple[Literal["requests", "tokens", "output_tokens"], RateValue]:
        """Return the counted unit and its rate; for any limit except concurrency."""
        if self.requests is not None:
            return "requests", self.requests
        if self.tokens is not None:
            return "tokens", self.tokens
        assert self.output_tokens is not None, "concurrency has no rate"
        return "output_tokens", self.output_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanSettings:
    """Rights of a key or a token: scopes, models, limits, priority.

    models: names or globs of the models; absent: all
    scopes: kinds of requests
    priority: requests with a higher value leave the admission queue first
    weight: fair share among tenants of the same priority
    max_input_tokens: longest accepted prompt, by estimate
    max_output_tokens: upper bound of a request's max_tokens
    limits: rate limits
    """

    models: Annotated[tuple[Annotated[str, GLOB], ...] | None, UNSET] = None
    scopes: tuple[Scope, ...] = ("chat", "completions", "embeddings", "rerank", "audio", "predict")
    priority: Annotated[int, PRIORITY] = 0
    weight: Annotated[float, WEIGHT] = 1.0
    max_input_tokens: Annotated[int, COUNT_ABOVE_0] | None = None
    max_output_tokens: Annotated[int, COUNT_ABOVE_0] | None = None
    limits: tuple[LimitSettings, ...] = ()
