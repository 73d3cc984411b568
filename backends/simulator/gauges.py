"""/metrics, with vLLM's names, labels and buckets; what a simulator has no like of is left out."""

from __future__ import annotations

from bisect import bisect_left
from typing import Protocol

from backends.simulator.settings import SimulatorSettings

_FIRST = (
    .001, .005, .01, .02, .04, .06, .08, .1,
    .25, .5, .75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
)  # fmt: skip
_BETWEEN = (.01, .025, .05, .075, .1, .15, .2, .3, .4, .5, .75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0)  # fmt: skip
_WHOLE = (
    .3, .5, .8, 1.0, 1.5, 2.0,
    2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0,
)  # fmt: skip
_TOKENS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10000.0, 20000.0)
_By = tuple[str, dict[str, int]]
"""The name of a label, and a value for each of its words."""
REASONS = ("stop", "length", "abort", "error", "repetition")


class SimulatedHistogram:
    """A Prometheus histogram; an observation is one bisection."""

    __slots__ = ("_bounds", "_counts", "count", "help", "name", "sum")

    def __init__(self, name: str, help: str, bounds: tuple[float, ...]) -> None:
        self.name = name
        self.help = help
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.sum = 0.0
        self.count = 0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self.sum += value
        self.count += 1

    def lines(self, model: str) -> list[str]:
        rows, total = [f"# HELP {self.name} {self.help}", f"# TYPE {self.name} histogram"], 0
        for bound, count in zip((*map(str, self._bounds), "+Inf"), self._counts, strict=True):
            total += count
            rows.append(f'{self.name}_bucket{{engine="0",le="{bound}",model_name="{model}"}} {total}.0')
        labels = f'{{engine="0",model_name="{model}"}}'
        return [*rows, f"{self.name}_count{labels} {self.count}.0", f"{self.name}_sum{labels} {self.sum}"]


class FinishedJob(Protocol):
    """Job that has ended (`backends.simulator.jobs.Job`); counts are tokens, `weight` sequences, `since` clock time."""

    weight: int
    since: float
    prompt: int
    done: int


class EngineState(Protocol):
    """Load of the engine (`backends.simulator.engine.SimulatedEngine`)."""

    settings: SimulatorSettings
    running: int

    @property
    def waiting(self) -> int: ...
    @property
    def cache_usage(self) -> float: ...


class EngineGauges:
    """Everything that is counted. Counters count what was generated; `generated` for /metrics, the rest by request."""

    def __init__(self) -> None:
        self.prompt_tokens = 0
        self.generated = 0
        self.rejections = 0
        self.reasons = dict.fromkeys(REASONS, 0)
        self.first_token = SimulatedHistogram(
            "vllm:time_to_first_token_seconds", "Histogram of time to first token in seconds.", _FIRST
        )
        self.between_tokens = SimulatedHistogram(
            "vllm:inter_token_latency_seconds", "Histogram of inter-token latency in seconds.", _BETWEEN
        )
        self.whole = SimulatedHistogram(
            "vllm:e2e_request_latency_seconds", "Histogram of e2e request latency in seconds.", _WHOLE
        )
        self.prompts = SimulatedHistogram("vllm:request_prompt_tokens", "Number of prefill tokens processed.", _TOKENS)
        self.answers = SimulatedHistogram(
            "vllm:request_generation_tokens", "Number of generation tokens processed.", _TOKENS
        )

    def tokens(self, count: int) -> None:
        self.generated += count

    def ended(self, reason: str, job: FinishedJob, now: float) -> None:
        """A request is over, one way or another."""
        self.reasons[reason] = self.reasons.get(reason, 0) + job.weight
        if reason != "abort":
            self.whole.observe(now - job.since)
            self.prompts.observe(job.prompt)
            self.answers.observe(job.done * job.weight)

    def page(self, engine: EngineState) -> bytes:
        """The whole page, in the text format that Prometheus reads."""
        model = engine.settings.models[0].replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        page = _MetricsText(model)
        gauge, counter = page.gauge, page.counter
        gauge("vllm:num_requests_running", "Number of requests in model execution batches.", engine.running)
        gauge("vllm:num_requests_waiting", "Number of requests waiting to be processed.", engine.waiting)
        gauge(
            "vllm:num_requests_waiting_by_reason",
            "Number of waiting requests by reason.",
            ("reason", {"capacity": engine.waiting, "deferred": 0}),
        )
        states = {"awake": 1, "weights_offloaded": 0, "discard_all": 0}
        gauge("vllm:engine_sleep_state", "Engine sleep state.", ("sleep_state", states))
        gauge("vllm:kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage.", engine.cache_usage)
        counter("vllm:prefix_cache_queries", "Prefix cache queries, in number of queried tokens.", self.prompt_tokens)
        counter("vllm:prefix_cache_hits", "Prefix cache hits, in number of cached tokens.", 0)
        counter("vllm:num_preemptions", "Cumulative number of preemption from the engine.", 0)
        counter("vllm:prompt_tokens", "Number of prefill tokens processed.", self.prompt_tokens)
        counter("vllm:generation_tokens", "Number of generation tokens processed.", self.generated)
        counter(
            "vllm:request_success",
            "Count of successfully processed requests.",
            ("finished_reason", self.reasons),
        )
        counter(
            "vllm:admission_rejections",
            "Number of admission attempts rejected by a queue limit, by reason.",
            ("reason", {"max_num_queued_reqs": self.rejections, "max_num_queued_tokens": 0}),
            engine=False,
        )
        for histogram in (self.first_token, self.between_tokens, self.whole, self.prompts, self.answers):
            page.rows += histogram.lines(model)
        return ("\n".join(page.rows) + "\n").encode()


class _MetricsText:
    """Rows of one page; labels stand in alphabetical order, as vLLM's do."""

    def __init__(self, model: str) -> None:
        self.rows: list[str] = []
        self._labels = {"engine": "0", "model_name": model}

    def gauge(self, name: str, help: str, value: float | _By) -> None:
        self._family(name, "gauge", help, value)

    def counter(self, name: str, help: str, value: float | _By, *, engine: bool = True) -> None:
        self._family(name + "_total", "counter", help, value, engine=engine)

    def _family(self, name: str, kind: str, help: str, value: float | _By, *, engine: bool = True) -> None:
        self.rows += [f"# HELP {name} {help}", f"# TYPE {name} {kind}"]
        label, counts = ("", {"": value}) if isinstance(value, float | int) else value
        for word, count in counts.items():
            labels = self._labels | ({label: word} if label else {})
            shown = ",".join(f'{key}="{labels[key]}"' for key in sorted(labels) if engine or key != "engine")
            self.rows.append(f"{name}{{{shown}}} {float(count)}")
