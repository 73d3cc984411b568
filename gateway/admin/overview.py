"""Pools and endpoints as an operator sees them: what the policy says, what they have come to, and why."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Protocol

from backends.control.events import EndpointEvent
from backends.control.table import PoolSpec
from backends.data_plane import DataPlane, TableView
from backends.pool.endpoint import Endpoint
from backends.workers.supervisor import WorkerView
from policies.capacity.admission import AdmissionQueue
from policies.capacity.tickets import QueueLevel
from policies.resilience.health import ProbeFinding


@dataclass(frozen=True, slots=True)
class ProbeState:
    """The last probe of an endpoint. `found` is good, refused, silent, unwell ... (`policies/resilience/health.py`)."""

    seconds_ago: float
    ok: bool
    found: str
    why: str


@dataclass(frozen=True, slots=True)
class WorkerFacts:
    """The process behind an endpoint that we have started ourselves."""

    state: str
    reason: str | None
    pid: int | None
    starts: int


@dataclass(frozen=True, slots=True)
class BreakerFacts:
    """`forced` is the operator's word or null; `models` has those that are not closed, or remember a failure."""

    forced: str | None
    models: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class EndpointFacts:
    """One endpoint. Times are in seconds from now, 0 where it is not so; `address` has no credential in it."""

    name: str
    pool: str
    engine: str
    address: str | None
    state: str
    reason: str | None
    drained: bool
    in_flight: int
    weight: float
    warmth: float
    paused_for: float
    ejected_for: float
    breaker: BreakerFacts
    probes: str
    last_probe: ProbeState | None
    worker: WorkerFacts | None


@dataclass(frozen=True, slots=True)
class PoolFacts:
    """One pool. `candidates` may be chosen now, breakers aside; `states` counts its endpoints by state."""

    name: str
    engine: str
    balance: str
    endpoints: Sequence[str]
    states: Mapping[str, int]
    candidates: int
    in_flight: int


@dataclass(frozen=True, slots=True)
class QueueFacts:
    """One pool's slots and its queue. `slots` is null while nothing bounds them; `drain_rate` is requests a second,
    null while nobody can say; `levels` are what waits, by priority."""

    name: str
    max_in_flight: int | str | None
    slots: float | None
    in_use: int
    waiting: int
    size: int
    wait: float
    drain_rate: float | None
    levels: Sequence[QueueLevel]


class GatedPool(Protocol):
    """Slots and queue of one gated pool (`gateway.admission.pool_queue.PoolQueue`)."""

    @property
    def queue(self) -> AdmissionQueue: ...


class AdmissionQueues(Protocol):
    """Queues of the gated pools, by pool name (`gateway.admission.gate.AdmissionGate`)."""

    @property
    def queues(self) -> Mapping[str, GatedPool]: ...


class OverviewSources(Protocol):
    """Events, workers and probes of the control plane (`gateway.control.control_plane.ControlPlane`)."""

    @property
    def news(self) -> Mapping[str, EndpointEvent]:
        """By name, the last event of each endpoint."""

    def workers(self) -> Sequence[WorkerView]: ...
    def last_probe(self, pool: str, endpoint: str, /) -> tuple[float, ProbeFinding] | None: ...


class Overview:
    """Reads; changes nothing. `clock` is the data plane's."""

    def __init__(
        self, plane: DataPlane, control: OverviewSources, admission: AdmissionQueues, clock: Callable[[], float]
    ) -> None:
        self._plane = plane
        self._control = control
        self._admission = admission
        self._clock = clock

    def pools(self) -> list[PoolFacts]:
        """Every pool of the policy in force."""
        view, now = self._view, self._clock()
        facts = []
        for name, spec in view.table.pools.items():
            members = self._members(spec)
            states = Counter(one.state for one in members)
            in_flight = sum(one.in_flight for one in members)
            candidates = len(view.pools[name].available(now))
            facts.append(PoolFacts(name, spec.engine, spec.balance, spec.known, states, candidates, in_flight))
        return facts

    def queues(self) -> list[QueueFacts]:
        """Every pool's queue."""
        return [self._queue(spec) for spec in self._view.table.pools.values()]

    def _queue(self, pool: PoolSpec) -> QueueFacts:
        gated = self._admission.queues.get(pool.name)
        size, wait = (pool.queue.size, pool.queue.wait) if pool.queue is not None else (0, 0.0)
        if gated is None:
            return QueueFacts(pool.name, pool.max_in_flight, None, 0, 0, size, wait, None, ())
        queue = gated.queue
        rate = queue.drain_rate
        return QueueFacts(
            name=pool.name,
            max_in_flight=pool.max_in_flight,
            slots=None if queue.slots == inf else queue.slots,
            in_use=queue.taken,
            waiting=queue.waiting,
            size=size,
            wait=wait,
            drain_rate=None if rate is None else round(rate, 3),
            levels=queue.levels(self._clock()),
        )

    def endpoints(self) -> list[EndpointFacts]:
        """Every endpoint of the policy in force, also workers that are not ready."""
        return [one for spec in self._view.table.pools.values() for one in self._members(spec)]

    @property
    def _view(self) -> TableView:
        view = self._plane.view
        assert view is not None, "the listeners open after the first table"
        return view

    def _members(self, pool: PoolSpec) -> list[EndpointFacts]:
        workers = {view.name: view for view in self._control.workers()}
        return [self._endpoint(pool, name, workers.get(name)) for name in pool.known]

    def _endpoint(self, pool: PoolSpec, name: str, worker: WorkerView | None) -> EndpointFacts:
        named = self._plane.named(pool.name, name)
        in_flight = sum(one.in_flight for one in named)
        current = [one for one in named if one.spec in pool.endpoints]
        facts = _worker(worker)
        if not current:
            # A worker that is not ready has no address that anything could be sent to.
            reason = None if facts is None else facts.reason or f"the worker is {facts.state}"
            breaker = BreakerFacts(pool.forced.get(name), {})
            return EndpointFacts(
                name, pool.name, pool.engine, None, "down", reason, name in pool.drained, in_flight, 0.0, 0.0, 0.0, 0.0,
                breaker, "unknown", None, facts,
            )  # fmt: skip
        return self._live(pool, current[0], in_flight, facts)

    def _live(self, pool: PoolSpec, endpoint: Endpoint, in_flight: int, worker: WorkerFacts | None) -> EndpointFacts:
        report = endpoint.health.report(self._clock())
        news = self._control.news.get(endpoint.name)
        reason = None if report.state in ("up", "unknown") or news is None else news.reason or news.kind
        return EndpointFacts(
            name=endpoint.name,
            pool=pool.name,
            engine=pool.engine,
            address=endpoint.origin.decode() + endpoint.spec.base_path,
            state=report.state,
            reason="drained by an operator" if report.drained else reason,
            drained=report.drained,
            in_flight=in_flight,
            weight=endpoint.spec.weight,
            warmth=round(report.warmth, 3),
            paused_for=round(report.paused_for, 3),
            ejected_for=round(report.ejected_for, 3),
            breaker=BreakerFacts(report.forced, report.breakers),
            probes=report.probes,
            last_probe=self._probed(pool.name, endpoint.name),
            worker=worker,
        )

    def _probed(self, pool: str, endpoint: str) -> ProbeState | None:
        latest = self._control.last_probe(pool, endpoint)
        if latest is None:
            return None
        at, found = latest
        return ProbeState(round(self._clock() - at, 3), found.kind == "good", found.kind, found.why)


def _worker(view: WorkerView | None) -> WorkerFacts | None:
    return None if view is None else WorkerFacts(str(view.state), view.reason or None, view.pid, view.starts)
