"""What /metrics says, read back with prometheus_client's own parsers."""

from __future__ import annotations

from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from gateway.observe.metric_catalog import (
    AUTH_REASONS,
    BREAKER_STATES,
    CLIENT_GONE_PHASES,
    EJECTION_REASONS,
    ENDPOINT_STATES,
    OUTCOMES,
    PROBE_RESULTS,
    RETRY_REASONS,
    TIMEOUT_KINDS,
)
from gateway.observe.metrics import METRICS, Metrics
from tests.pace import cpu, slowdown

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def series(metrics: Metrics) -> Series:
    """Every line of the text exposition: (name, labels) -> value."""
    body, content_type = metrics.render()
    assert content_type.startswith("text/plain")
    found: Series = {}
    for family in parse_text(body.decode()):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found, f"written twice: {key}"
            found[key] = sample.value
    return found


def value(found: Series, name: str, **labels: str) -> float:
    return found[f"sluice_{name}", frozenset(labels.items())]


def metrics_with_a_pool() -> Metrics:
    metrics = Metrics(version="1.2.3")
    metrics.known(pools=["p"], routes=[("m", "p")], endpoints=[("p", "a"), ("p", "b")], workers=[("p", "p-w0")])
    return metrics


def test_every_series_of_a_known_endpoint_exists_from_the_start_at_zero() -> None:
    found = series(metrics_with_a_pool())
    for endpoint in ("a", "b"):
        assert value(found, "endpoint_in_flight", pool="p", endpoint=endpoint) == 0
        assert value(found, "streams_broken_total", pool="p", endpoint=endpoint) == 0
        for outcome in OUTCOMES:
            assert value(found, "attempts_total", pool="p", endpoint=endpoint, outcome=outcome) == 0
        for state in ENDPOINT_STATES:
            assert value(found, "endpoint_state", pool="p", endpoint=endpoint, state=state) == 0
        for state in BREAKER_STATES:
            assert value(found, "breaker_state", pool="p", endpoint=endpoint, state=state) == 0
        for reason in EJECTION_REASONS:
            assert value(found, "ejections_total", pool="p", endpoint=endpoint, reason=reason) == 0
        for result in PROBE_RESULTS:
            assert value(found, "probes_total", pool="p", endpoint=endpoint, result=result) == 0
    for reason in RETRY_REASONS:
        assert value(found, "retries_total", pool="p", reason=reason) == 0
    assert value(found, "retry_budget_exhausted_total", pool="p") == 0
    assert value(found, "panics_total", pool="p") == 0
    assert value(found, "worker_restarts_total", pool="p", worker="p-w0") == 0
    assert value(found, "gap_seconds_count", model="m", pool="p") == 0
    assert value(found, "request_seconds_bucket", model="m", pool="p", stream="true", le="600.0") == 0


def test_a_leaving_client_is_counted_in_its_phase() -> None:
    metrics = metrics_with_a_pool()
    for phase in CLIENT_GONE_PHASES:
        assert value(series(metrics), "client_gone_total", phase=phase) == 0
        metrics.client_gone(phase)
        assert value(series(metrics), "client_gone_total", phase=phase) == 1


def test_a_timeout_is_counted_by_its_kind() -> None:
    metrics = Metrics(version="1")
    for kind in TIMEOUT_KINDS:
        assert value(series(metrics), "timeouts_total", kind=kind) == 0
        metrics.timed_out(kind)
        assert value(series(metrics), "timeouts_total", kind=kind) == 1


def test_a_failed_credential_is_counted_by_its_reason() -> None:
    metrics = Metrics(version="1")
    for reason in AUTH_REASONS:
        assert value(series(metrics), "auth_failures_total", reason=reason) == 0
        metrics.auth_failed(reason)
        assert value(series(metrics), "auth_failures_total", reason=reason) == 1


def test_what_became_of_an_endpoint_is_counted() -> None:
    metrics = metrics_with_a_pool()
    endpoint = metrics.endpoint("p", "a")
    endpoint.ejected("error_rate")
    endpoint.probed(True)
    endpoint.probed(False)
    endpoint.broken.value += 1
    for state in BREAKER_STATES:
        endpoint.breaker(state)
        found = series(metrics)
        shown = [value(found, "breaker_state", pool="p", endpoint="a", state=each) for each in BREAKER_STATES]
        assert shown == [each == state for each in BREAKER_STATES]
    assert value(found, "ejections_total", pool="p", endpoint="a", reason="error_rate") == 1
    assert value(found, "probes_total", pool="p", endpoint="a", result="ok") == 1
    assert value(found, "probes_total", pool="p", endpoint="a", result="failed") == 1
    assert value(found, "streams_broken_total", pool="p", endpoint="a") == 1


def test_retries_and_panics_are_counted_by_pool() -> None:
    metrics = metrics_with_a_pool()
    pool = metrics.pool("p")
    assert metrics.pool("p") is pool
    pool.retried("no_answer")
    pool.retried("500")
    pool.panics.value += 1
    pool.budget_exhausted.value += 1
    found = series(metrics)
    assert value(found, "retries_total", pool="p", reason="no_answer") == 1
    assert value(found, "retries_total", pool="p", reason="500") == 1
    assert (value(found, "panics_total", pool="p"), value(found, "retry_budget_exhausted_total", pool="p")) == (1, 1)
    metrics.known(pools=["q"], routes=[], endpoints=[])
    metrics.known(pools=["p", "q"], routes=[], endpoints=[])
    assert value(series(metrics), "retries_total", pool="p", reason="no_answer") == 0


def test_series_go_away_with_their_endpoint_and_their_pool() -> None:
    metrics = metrics_with_a_pool()
    metrics.known(pools=["p", "q"], routes=[("m", "p")], endpoints=[("p", "b"), ("q", "a")])
    labels = [dict(labels) for _, labels in series(metrics)]
    assert not any(each.get("endpoint") == "a" and each["pool"] == "p" for each in labels)
    assert not any("worker" in each for each in labels)
    assert any(each.get("endpoint") == "a" and each["pool"] == "q" for each in labels)
    metrics.known(pools=["q"], routes=[], endpoints=[("q", "a")])
    assert not any(labels.get("pool") == "p" for labels in (dict(labels) for _, labels in series(metrics)))


def test_series_of_an_endpoint_that_leaves_stay_while_it_is_in_use_also_beyond_its_pool() -> None:
    metrics = metrics_with_a_pool()
    leaving = metrics.endpoint("p", "a")
    metrics.known(pools=["q"], routes=[], endpoints=[("q", "a")], leaving=[("p", "a")])
    leaving.attempt("ok")
    assert value(series(metrics), "attempts_total", pool="p", endpoint="a", outcome="ok") == 1
    assert not any(("endpoint", "b") in labels for _, labels in series(metrics))
    metrics.known(pools=["q"], routes=[], endpoints=[("q", "a")])
    assert not any(("pool", "p") in labels for _, labels in series(metrics))


def test_an_endpoint_that_comes_back_counts_from_zero() -> None:
    metrics = metrics_with_a_pool()
    metrics.endpoint("p", "a").attempt("ok")
    metrics.known(pools=["p"], routes=[], endpoints=[("p", "b")])
    metrics.known(pools=["p"], routes=[], endpoints=[("p", "a"), ("p", "b")])
    metrics.endpoint("p", "a").attempt("ok")
    assert value(series(metrics), "attempts_total", pool="p", endpoint="a", outcome="ok") == 1


def test_a_finished_request_is_counted_and_timed() -> None:
    metrics = metrics_with_a_pool()
    metrics.finished("m", "m", "p", "acme", True, 200, 0.3)
    metrics.finished(None, None, None, None, False, 401, 0.001)
    found = series(metrics)
    labels = {"route": "m", "model": "m", "pool": "p", "tenant": "acme", "stream": "true", "code": "200"}
    assert value(found, "requests_total", **labels) == 1
    assert value(found, "requests_total", stream="false", code="401") == 1
    assert value(found, "request_seconds_bucket", model="m", pool="p", stream="true", le="0.25") == 0
    assert value(found, "request_seconds_bucket", model="m", pool="p", stream="true", le="0.5") == 1
    assert value(found, "request_seconds_sum", model="m", pool="p", stream="true") == 0.3


def test_a_bucket_holds_its_own_bound_and_the_last_holds_everything() -> None:
    metrics = metrics_with_a_pool()
    gap = metrics.gap("m", "p")
    for seconds in (0.001, 0.0011, 99.0):
        gap(seconds)
    found = series(metrics)
    assert value(found, "gap_seconds_bucket", model="m", pool="p", le="0.001") == 1
    assert value(found, "gap_seconds_bucket", model="m", pool="p", le="0.0025") == 2
    assert value(found, "gap_seconds_bucket", model="m", pool="p", le="10.0") == 2
    assert value(found, "gap_seconds_bucket", model="m", pool="p", le="+Inf") == 3
    assert value(found, "gap_seconds_count", model="m", pool="p") == 3


def test_one_state_at_a_time() -> None:
    metrics = metrics_with_a_pool()
    metrics.endpoint("p", "a").state("up")
    metrics.endpoint("p", "a").state("down")
    metrics.worker("p", "p-w0").state("ready")
    found = series(metrics)
    assert value(found, "endpoint_state", pool="p", endpoint="a", state="up") == 0
    assert value(found, "endpoint_state", pool="p", endpoint="a", state="down") == 1
    assert value(found, "worker_state", pool="p", worker="p-w0", state="ready") == 1


def test_models_and_tenants_beyond_max_series_are_counted_as_other() -> None:
    metrics = Metrics(version="1", max_series=500)
    metrics.known(pools=["p"], routes=[], endpoints=[("p", "a")])
    before = len(series(metrics))
    for number in range(100_000):
        metrics.finished("*", f"model-{number}", "p", f"tenant-{number}", False, 200, 0.01)
    found = series(metrics)
    # What is beyond: one `other` a family.
    assert len(found) <= before + 500 + 30
    labels = {"route": "*", "model": "other", "pool": "p", "tenant": "other", "stream": "false", "code": "200"}
    assert value(found, "requests_total", **labels) > 90_000
    assert sum(n for (name, _), n in found.items() if name == "sluice_requests_total") == 100_000
    assert value(found, "endpoint_in_flight", pool="p", endpoint="a") == 0


def test_what_goes_away_makes_room_again() -> None:
    metrics = Metrics(version="1", max_series=50)
    for pool in ("p", "q"):
        metrics.known(pools=[pool], routes=[], endpoints=[])
        for number in range(60):
            metrics.tokens("m", "t", 1, 1)
            metrics.finished("*", f"m{number}", pool, "t", False, 200, 0.01)
        models = {dict(labels).get("model") for _, labels in series(metrics)}
        assert {"m0", "other"} <= models


def test_a_label_that_the_policy_leaves_out_is_left_out() -> None:
    metrics = Metrics(version="1", labels=["model"])
    metrics.known(pools=["p"], routes=[("m", "p")], endpoints=[("p", "a")])
    metrics.finished("r", "m", "p", "t1", False, 200, 0.1)
    metrics.finished("r", "m", "p", "t2", False, 200, 0.1)
    found = series(metrics)
    assert value(found, "requests_total", route="r", model="m", stream="false", code="200") == 2
    assert value(found, "endpoint_in_flight", pool="p", endpoint="a") == 0


def test_a_hostile_label_is_escaped_and_bounded() -> None:
    metrics = Metrics(version="1")
    hostile = 'a"b\nsluice_fake 1\\'
    metrics.tokens(hostile, "t", 1, 2)
    metrics.tokens("x" * 10_000, "t", 1, 2)
    found = series(metrics)
    assert value(found, "tokens_total", model=hostile, tenant="t", kind="prompt") == 1
    assert value(found, "tokens_total", model="other", tenant="t", kind="completion") == 2
    assert len(metrics.render()[0]) < 20_000


def test_openmetrics_is_written_for_who_asks_and_nothing_is_called_created() -> None:
    metrics = metrics_with_a_pool()
    metrics.finished("m", "m", "p", "acme", True, 200, 0.3)
    body, content_type = metrics.render("application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
    assert content_type.startswith("application/openmetrics-text")
    names = {family.name for family in parse_openmetrics(body.decode())}  # type: ignore[no-untyped-call]
    assert "sluice_requests" in names
    for text in (body, metrics.render()[0]):
        assert b"_created" not in text


def test_every_metric_of_the_table_is_in_the_exposition_under_its_name() -> None:
    text = metrics_with_a_pool().render()[0].decode()
    for metric in METRICS:
        assert f"# TYPE sluice_{metric.name} " in text
        assert metric.help.strip()
    assert 'sluice_build_info{version="1.2.3"} 1.0' in text


async def test_a_scrape_is_written_off_the_loop() -> None:
    metrics = metrics_with_a_pool()
    assert (await metrics.scrape())[0] == metrics.render()[0]


def test_an_event_and_a_request_stay_within_their_budget() -> None:
    metrics = metrics_with_a_pool()
    gap = metrics.gap("m", "p")

    def events() -> None:
        for _ in range(100_000):
            gap(0.021)

    def requests() -> None:
        for _ in range(100_000):
            metrics.finished("m", "m", "p", "acme", True, 200, 0.3)

    # Measured 0.2 us and 1 us; the bounds leave room for a loaded machine.
    assert cpu(events, 2) < 0.1 * slowdown()
    assert cpu(requests, 2) < 0.4 * slowdown()


def test_an_attempt_that_ends_after_its_endpoint_went_away_brings_no_series_back() -> None:
    metrics = metrics_with_a_pool()
    gone = metrics.endpoint("p", "b")
    gone.attempt("503")
    metrics.known(pools=["p"], routes=[("m", "p")], endpoints=[("p", "a")])
    for outcome in ("ok", "503", "broken_off"):
        gone.attempt(outcome)
    assert not [labels for name, labels in series(metrics) if ("endpoint", "b") in labels]
    metrics.known(pools=["p"], routes=[("m", "p")], endpoints=[("p", "a"), ("p", "b")])
    metrics.endpoint("p", "b").attempt("503")
    assert value(series(metrics), "attempts_total", pool="p", endpoint="b", outcome="503") == 1
