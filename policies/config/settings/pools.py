"""Settings of the pools and their endpoints (policy key `pools`)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from policies.balancing import STRATEGY_NAMES
from policies.config.addresses import BASE_URL, HOST
from policies.config.forms import (
    AUTO_PORT,
    HASH_ON,
    HEADER_NAME,
    HEADER_VALUE,
    IN_FLIGHT,
    NAME,
    OUTCOME,
    PATH,
    TEXT,
    URL_PATH,
    words,
)
from policies.config.kind import UNSET
from policies.config.settings.secret import Secret
from policies.config.settings.workers import WorkerSettings
from policies.config.units import COUNT, COUNT_ABOVE_0, PORT, SECONDS, SECONDS_ABOVE_0, SHARE, WEIGHT

Engine = Literal["vllm", "sglang", "tgi", "tensorrt_llm", "triton", "llama_cpp", "openai", "http", "simulator"]
FAULTY = ("not_sent", "no_answer", "too_slow", "broken_off", 500, 502, 504)


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointTlsSettings:
    """Verification of an https endpoint's certificate.

    ca: PEM file of the authorities to trust instead of the system's
    server_name: the name in its certificate, where it differs from the URL's host
    """

    ca: Annotated[str | None, PATH, UNSET] = None
    server_name: Annotated[str | None, HOST, UNSET] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointSettings:
    """One base URL.

    name: unique in the file; absent: POOL-0, POOL-1 ... by its place in the list
    url: http:// or https://, a host, perhaps a port and a base path; no slash at the end
    weight: its share of the pool
    max_in_flight: most requests at a time
    tags: words of the operator
    tls: how an https endpoint proves itself
    headers: sent with every request to it
    """

    name: Annotated[str, NAME, UNSET] = ""
    url: Annotated[str, BASE_URL]
    weight: Annotated[float, WEIGHT] = 1.0
    max_in_flight: Annotated[int, COUNT_ABOVE_0] | None = None
    tags: Mapping[Annotated[str, NAME], Annotated[str, TEXT]] = field(default_factory=dict)
    tls: EndpointTlsSettings | None = None
    headers: Mapping[Annotated[str, HEADER_NAME], Annotated[str, HEADER_VALUE]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.tls is not None and not self.url.startswith("https://"):
            raise ValueError("tls belongs to an https:// url")


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscoverSettings:
    """Endpoints that are found: in DNS, or in a file.

    dns: a name whose addresses are the endpoints
    port: their port
    file: or a file that lists endpoints
    every: how often to look
    """

    dns: Annotated[str | None, HOST, UNSET] = None
    port: Annotated[int, PORT] = 8000
    file: Annotated[str | None, PATH, UNSET] = None
    every: Annotated[float, SECONDS_ABOVE_0] = 5.0

    def __post_init__(self) -> None:
        if (self.dns is None) == (self.file is None):
            raise ValueError("discover is {dns: NAME, port: PORT} or {file: PATH}")


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSettings:
    """Requests beyond max_in_flight wait here, by priority and fair among tenants.

    size: most that wait; beyond it 429
    wait: longest that one waits
    """

    size: Annotated[int, COUNT] = 512
    wait: Annotated[float, SECONDS] = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthSettings:
    """Probes.

    path: what is asked, as it is written here; auto is the engine's own, below the endpoint's base path
    port: and where; auto is the endpoint's own
    every: how often
    timeout: how long a probe may take; one that asks for a token, five times as long
    unhealthy_after: failed probes in a row
    healthy_after: good probes in a row
    suspect_every: how often while in doubt
    """

    path: Annotated[str, URL_PATH] = "auto"
    port: Annotated[int | Literal["auto"], AUTO_PORT] = "auto"
    every: Annotated[float, SECONDS_ABOVE_0] = 5.0
    timeout: Annotated[float, SECONDS_ABOVE_0] = 2.0
    unhealthy_after: Annotated[int, COUNT_ABOVE_0] = 3
    healthy_after: Annotated[int, COUNT_ABOVE_0] = 2
    suspect_every: Annotated[float, SECONDS_ABOVE_0] = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class EjectionSettings:
    """An endpoint that fails more than the others is left out for a while.

    consecutive: failures in a row
    error_rate: or this share of failures ...
    min_requests: ... of at least so many requests ...
    window: ... in this time
    for: left out for so long at first
    max_for: and at most
    max_ejected: largest share of the pool that is left out
    when: outcomes that count as failures
    """

    consecutive: Annotated[int, COUNT_ABOVE_0] = 5
    error_rate: Annotated[float, SHARE] = 0.5
    min_requests: Annotated[int, COUNT_ABOVE_0] = 20
    window: Annotated[float, SECONDS_ABOVE_0] = 30.0
    for_: Annotated[float, SECONDS_ABOVE_0] = 10.0
    max_for: Annotated[float, SECONDS_ABOVE_0] = 300.0
    max_ejected: Annotated[float, SHARE] = 0.5
    when: tuple[Annotated[str | int, OUTCOME], ...] = FAULTY


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerSettings:
    """Circuit breaker: an endpoint whose breaker is open gets no requests except probes.

    failures: failures in a row that open it
    open_for: open for so long at first
    max_open_for: and at most
    probes: so many at a time while half open, and so many successes in a row close it
    when: outcomes that count as failures
    """

    failures: Annotated[int, COUNT_ABOVE_0] = 5
    open_for: Annotated[float, SECONDS_ABOVE_0] = 10.0
    max_open_for: Annotated[float, SECONDS_ABOVE_0] = 120.0
    probes: Annotated[int, COUNT_ABOVE_0] = 2
    when: tuple[Annotated[str | int, OUTCOME], ...] = FAULTY


@dataclass(frozen=True, slots=True, kw_only=True)
class ScrapeSettings:
    """The engine's own queue depth and KV-cache use.

    every: how often they are read
    path: where; auto is the engine's own
    port: auto is the endpoint's own
    """

    every: Annotated[float, SECONDS_ABOVE_0] = 2.0
    path: Annotated[str, URL_PATH] = "auto"
    port: Annotated[int | Literal["auto"], AUTO_PORT] = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSettings:
    """Endpoints that answer for the same model.

    engine: what kind of server they are
    version: of the model, for metrics, headers and canary verdicts
    endpoints: listed ones
    discover: ones that are found
    workers: ones that we start and watch
    api_key: what we send upstream; the client's own credential never goes there
    balance: how an endpoint is chosen
    hash_on: for consistent_hash: key, tenant, user, session, header:NAME or body:FIELD
    max_in_flight: most requests at a time for the pool; beyond it they wait in the queue; auto finds it
    max_context: most tokens of a prompt; what is estimated to be longer goes to a fallback pool that takes it
    queue: {size, wait}
    keep_alive: how long an idle upstream connection is kept; 0 keeps none
    on_disconnect: what happens upstream when the client leaves
    health: probes
    ejection: leaving out what fails more than the others
    breaker: sending nothing to what is broken
    slow_start: how long an endpoint's share grows after it came back
    scrape: the engine's own figures
    """

    engine: Engine = "vllm"
    version: Annotated[str, TEXT] = "1"
    endpoints: tuple[EndpointSettings, ...] = ()
    discover: DiscoverSettings | None = None
    workers: WorkerSettings | None = None
    api_key: Secret | None = None
    balance: Annotated[str, words("balance", STRATEGY_NAMES)] = "least_requests"
    hash_on: Annotated[str, HASH_ON] = "tenant"
    max_in_flight: Annotated[int | Literal["auto"], IN_FLIGHT] | None = None
    max_context: Annotated[int, COUNT_ABOVE_0] | None = None
    queue: QueueSettings | None = QueueSettings()
    keep_alive: Annotated[float, SECONDS] = 4.0
    on_disconnect: Literal["abort", "finish"] = "abort"
    health: HealthSettings | None = HealthSettings()
    ejection: EjectionSettings | None = EjectionSettings()
    breaker: BreakerSettings | None = BreakerSettings()
    slow_start: Annotated[float, SECONDS_ABOVE_0] | None = 30.0
    scrape: ScrapeSettings | None = ScrapeSettings()

    def __post_init__(self) -> None:
        if not self.endpoints and self.discover is None and self.workers is None:
            raise ValueError("a pool needs endpoints, discover or workers")
        if self.api_key is not None and self.api_key.value is not None and not self.api_key.value.isascii():
            raise ValueError("api_key is sent in a header and must be ASCII")
        if self.workers is not None:
            self.workers.check(self.engine)
