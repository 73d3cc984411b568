"""Counters, gauges and histograms that cost the hot path next to nothing, in families that cannot grow without bound.

prometheus_client's own children take a lock and walk the buckets one by one (1 to 2 us an observation); a gateway
spends 25 us on a streamed event, so here an observation is one bisect and two additions (0.1 us), without a lock:
one event loop is the only writer.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

OTHER = "other"

# A label value longer than this is not a name that anybody looks for in a dashboard.
_MAX_LABEL = 128

# Raw label tuples seen lately, per family. Emptied when full, so that a client who invents names can't grow it.
_MAX_FAST = 4096


@dataclass(frozen=True, slots=True)
class Metric:
    """The public description of one metric: a row of README's table. `name` is without the `sluice_` prefix."""

    name: str
    type: str  # counter | gauge | histogram | info
    labels: tuple[str, ...]
    help: str
    buckets: tuple[float, ...] = ()


class Number:
    """One counter or gauge. Callers add to `value` directly: a method call would double its price."""

    __slots__ = ("value",)

    def __init__(self, metric: Metric) -> None:
        self.value: float = 0

    def samples(self) -> Iterator[tuple[str, str | None, float]]:
        """(suffix, le, value) of every line that this series writes."""
        yield "", None, self.value


class HistogramSeries:
    """One histogram: `observe(seconds)` is a plain function, to be taken once and kept by whoever observes often."""

    __slots__ = ("_bounds", "_counts", "_sums", "observe")

    def __init__(self, metric: Metric) -> None:
        bounds = self._bounds = metric.buckets
        counts = self._counts = [0] * (len(bounds) + 1)
        sums = self._sums = [0.0]

        def observe(seconds: float) -> None:
            counts[bisect_left(bounds, seconds)] += 1
            sums[0] += seconds

        self.observe: Callable[[float], None] = observe

    def samples(self) -> Iterator[tuple[str, str | None, float]]:
        """(suffix, le, value) of every line that this series writes: cumulative buckets, then count and sum."""
        total = 0
        for bound, count in zip(self._bounds, self._counts, strict=False):
            total += count
            yield "_bucket", _le(bound), total
        total += self._counts[-1]
        yield "_bucket", "+Inf", total
        yield "_count", None, total
        yield "_sum", None, self._sums[0]


class Budget:
    """Limits that the policy sets for all families together: how many more series, in lines of the exposition, traffic
    may create, and which labels are left out."""

    __slots__ = ("left", "off")

    def __init__(self, left: int, off: frozenset[str] = frozenset()) -> None:
        self.left = left
        self.off = off


Child = TypeVar("Child", bound=Number | HistogramSeries)


class Family(Generic[Child]):
    """All series of one metric. Labels that hold words from outside become `other` once the budget is spent."""

    def __init__(self, metric: Metric, make: Callable[[Metric], Child], budget: Budget) -> None:
        self.metric = metric
        self._make = make
        self._budget = budget
        self._cost = len(metric.buckets) + 3 if metric.buckets else 1
        self._children: dict[tuple[str, ...], Child] = {}
        self._charged: set[tuple[str, ...]] = set()
        self._fast: dict[tuple[object, ...], Child] = {}

    def get(self, *values: object) -> Child:
        """The series with these label values, in the order of the metric's labels; None is no value."""
        try:
            return self._fast[values]
        except KeyError:
            return self._find(values)

    def known(self, *values: object) -> Child:
        """The same for a series that the policy names: it exists from now on and is not charged to the budget."""
        labels = self._labels(values)
        if labels in self._charged:
            self._charged.discard(labels)
            self._budget.left += self._cost
        return self._children.get(labels) or self._create(labels)

    def keep(self, label: str, values: frozenset[str]) -> None:
        """Drop every series whose `label` has a value that is not one of these (nor empty)."""
        at = self.metric.labels.index(label)
        for labels in [labels for labels in self._children if labels[at] and labels[at] not in values]:
            self._remove(labels)

    def drop(self, **wanted: str) -> None:
        """Drop every series that has these label values; whoever still holds one counts into nothing."""
        at = [(self.metric.labels.index(label), value) for label, value in wanted.items()]
        for labels in [labels for labels in self._children if all(labels[i] == value for i, value in at)]:
            self._remove(labels)

    def labelled(self) -> Iterator[tuple[dict[str, str], Child]]:
        """Every series with its labels, those without a value left out."""
        names = self.metric.labels
        for values, child in self._children.items():
            yield {name: value for name, value in zip(names, values, strict=True) if value}, child

    def _remove(self, labels: tuple[str, ...]) -> None:
        del self._children[labels]
        if labels in self._charged:
            self._charged.discard(labels)
            self._budget.left += self._cost
        self._fast.clear()

    def _find(self, values: tuple[object, ...]) -> Child:
        labels = self._labels(values)
        child = self._children.get(labels)
        if child is None:
            child = self._admit(labels)
        if len(self._fast) >= _MAX_FAST:
            self._fast.clear()
        self._fast[values] = child
        return child

    def _admit(self, labels: tuple[str, ...]) -> Child:
        if self._budget.left >= self._cost:
            self._budget.left -= self._cost
            self._charged.add(labels)
            return self._create(labels)
        names = zip(self.metric.labels, labels, strict=True)
        # What is left after this is bounded by the policy (routes, pools) and by HTTP (codes).
        labels = tuple(OTHER if value and name in _OPEN_LABELS else value for name, value in names)
        return self._children.get(labels) or self._create(labels)

    def _create(self, labels: tuple[str, ...]) -> Child:
        child = self._children[labels] = self._make(self.metric)
        return child

    def _labels(self, values: tuple[object, ...]) -> tuple[str, ...]:
        names = self.metric.labels
        # A pool's label stays where an endpoint's or a worker's name would mean nothing without it.
        off = self._budget.off if "model" in names else ()
        return tuple("" if name in off else _text(value) for name, value in zip(names, values, strict=True))


# Labels whose values clients or tenants choose.
_OPEN_LABELS = frozenset({"model", "tenant"})


def _text(value: object) -> str:
    if value is None:
        return ""
    if value is True or value is False:
        return "true" if value else "false"
    text = str(value)
    return text if len(text) <= _MAX_LABEL else OTHER


def _le(bound: float) -> str:
    return repr(float(bound))
