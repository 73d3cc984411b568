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
    server_name: name in the endpoint's certificate, if it differs from the URL's host
    """

    ca: Annotated[str | None, PATH, UNSET] = None
    server_name: Annotated[str | None, HOST, UNSET] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointSettings:
    """One base URL.

    name: unique in the file; absent: POOL-0, POOL-1 ... by the position in the list
    url: http:// or https://, a host, optionally a port and a base path; no slash at the end
    weight: share of the pool's requests, relative to the other endpoints
    max_in_flight: most requests in flight
    tags: labels of the operator
    tls: verification of an https endpoint's certificate
    headers: headers added to every request to the endpoint
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
    """Discovery of endpoints in DNS or in a file.

    dns: DNS name whose addresses are the endpoints
    port: port of the endpoints
    file: file that lists the endpoints, instead of dns
    every: interval of the lookups
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

    size: most waiting requests; further ones get 429
    wait: longest wait of a request
    """

    size: Annotated[int, COUNT] = 512
    wait: Annotated[float, SECONDS] = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthSettings:
    """Probes.

    path: path of the probe, as written here; auto: the engine's own, below the endpoint's base path
    port: port of the probe; auto: the endpoint's own
    every: interval of the probes
    timeout: timeout of a probe; five times as long for a probe that requests a token
    unhealthy_after: failed probes in a row after which the endpoint is down
    healthy_after: good probes in a row after which the endpoint is up
    suspect_every: interval of the probes while the endpoint is suspect
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
    """Outlier ejection: an endpoint that fails more than the others gets no requests for a while.

    consecutive: failures in a row that eject the endpoint
    error_rate: share of failures in the window that ejects the endpoint
    min_requests: fewest requests in the window for error_rate to apply
    window: length of the window
    for: duration of the first ejection
    max_for: longest duration of an ejection
    max_ejected: largest share of the pool that is ejected
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

    failures: failures in a row that open the breaker
    open_for: duration of the first opening
    max_open_for: longest duration of an opening
    probes: most probes at a time while half open, and successes in a row that close the breaker
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

    every: interval of the scrapes
    path: path of the metrics; auto: the engine's own
    port: port of the metrics; auto: the endpoint's own
    """

    every: Annotated[float, SECONDS_ABOVE_0] = 2.0
    path: Annotated[str, URL_PATH] = "auto"
    port: Annotated[int | Literal["auto"], AUTO_PORT] = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSettings:
    """Endpoints that answer for the same model.

    engine: kind of server of the endpoints
    version: version of the model, for metrics, headers and canary verdicts
    endpoints: list of endpoints
    discover: endpoints found in DNS or in a file
    workers: endpoints that the gateway starts and supervises
    api_key: credential that the gateway sends upstream; the client's own is never sent
    balance: strategy that chooses an endpoint
    hash_on: for consistent_hash: key, tenant, user, session, header:NAME or body:FIELD
    max_in_flight: most requests in flight in the pool; further ones wait in the queue; auto: adaptive
    max_context: most tokens of a prompt; a longer one (by estimate) goes to a fallback pool that accepts it
    queue: {size, wait}
    keep_alive: time for which an idle upstream connection is kept; 0 keeps none
    on_disconnect: upstream request when the client leaves: aborted or finished
    health: probes
    ejection: ejection of endpoints that fail more than the others
    breaker: circuit breaker of each endpoint and model
    slow_start: time in which the share of a returning endpoint grows to its full size
    scrape: scraping of the engine's metrics
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
