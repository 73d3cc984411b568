"""Settings of logs, metrics and traces (policy key `observe`)."""

from dataclasses import dataclass
from typing import Annotated, Literal

from policies.config.addresses import URL
from policies.config.forms import LOG_PATH
from policies.config.nodes import OFF
from policies.config.units import COUNT_ABOVE_0, SHARE


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessLogSettings:
    """One line a request.

    path: a file, or "-" for stdout
    format: format of a line
    sample: share of the requests that get a line
    """

    path: Annotated[str, LOG_PATH] = "-"
    format: Literal["json", "text"] = "json"
    sample: Annotated[float, SHARE] = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """Log of the gateway itself.

    path: stderr, stdout or a file
    level: lowest level that is written
    format: format of a line
    """

    path: Annotated[str, LOG_PATH] = "stderr"
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"

    def __post_init__(self) -> None:
        if self.path in OFF:
            raise ValueError("the gateway's own log cannot be off; level: error says least")


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsSettings:
    """Prometheus metrics.

    labels: labels with a value for each tenant, model and pool
    max_series: most series of a metric; the rest is counted as `other`
    """

    labels: tuple[Literal["tenant", "model", "pool"], ...] = ("tenant", "model", "pool")
    max_series: Annotated[int, COUNT_ABOVE_0] = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class TracingSettings:
    """Traces by OTLP.

    otlp: URL of the OTLP collector
    sample: share of the requests that are traced
    """

    otlp: Annotated[str, URL]
    sample: Annotated[float, SHARE] = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class ObserveSettings:
    """Logs, metrics and traces.

    access_log: one line for each request
    log: log of the gateway itself
    metrics: Prometheus metrics
    tracing: traces by OTLP
    """

    access_log: AccessLogSettings | None = AccessLogSettings()
    log: LogSettings = LogSettings()
    metrics: MetricsSettings = MetricsSettings()
    tracing: TracingSettings | None = None
