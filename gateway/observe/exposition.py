"""The text that a scraper reads. The door of prometheus_client, which writes it.

The library is imported at the first scrape: it takes 5 MB, and a gateway that nobody scrapes should not pay for it.
"""

from __future__ import annotations

from collections.abc import Iterator

from gateway.observe.metric_catalog import PREFIX
from gateway.observe.series import Metric

Snapshot = list[tuple[Metric, list[tuple[dict[str, str], list[tuple[str, str | None, float]]]]]]
"""Per metric, per series: its labels and its lines as (suffix, le, value)."""


def expose(snapshot: Snapshot, accept: str) -> tuple[bytes, str]:
    """The exposition and its content type, by the scraper's Accept header: text 0.0.4 or OpenMetrics 1.0."""
    from prometheus_client.exposition import choose_encoder
    from prometheus_client.metrics_core import Metric as Exposed
    from prometheus_client.registry import Collector
    from prometheus_client.samples import Sample

    class Collected(Collector):
        def collect(self) -> Iterator[Exposed]:
            for metric, children in snapshot:
                name = PREFIX + metric.name
                # The library adds these two itself, by the type.
                exposed = Exposed(name.removesuffix("_total").removesuffix("_info"), metric.help, metric.type)
                exposed.samples = [
                    Sample(name + suffix, labels if le is None else {**labels, "le": le}, value)
                    for labels, lines in children
                    for suffix, le, value in lines
                ]
                yield exposed

    encode, content_type = choose_encoder(accept)
    return encode(Collected()), content_type
