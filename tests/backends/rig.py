"""A data plane of one pool on a clock that moves when told: no sockets, no waiting."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from backends.control.events import EndpointEvent, ProbeVerdict
from backends.control.meters import EndpointMeter
from backends.control.meters import Gauge as AnyGauge
from backends.control.table import EndpointSpec, PoolSpec, Table
from backends.data_plane import DataPlane
from backends.http1.timer_wheel import TimerWheel
from backends.pool.endpoint import Endpoint
from backends.pool.pool import Pool
from policies.config.settings import RouteSettings
from policies.config.settings.pools import BreakerSettings, EjectionSettings
from policies.identity.principal import Principal
from policies.resilience.outcome import Outcome
from tests.backends.http1.test_timer_wheel import FakeLoop
from tests.fakes.request_view import FakeRequest

MODEL = "m"


@dataclass
class Gauge:
    value: float = 0.0


@dataclass
class Meter:
    """Counts one endpoint's attempts."""

    in_flight: AnyGauge = field(default_factory=Gauge)
    unframed: AnyGauge = field(default_factory=Gauge)
    broken: AnyGauge = field(default_factory=Gauge)
    outcomes: list[str] = field(default_factory=list)
    states: list[str] = field(default_factory=list)
    breakers: list[str] = field(default_factory=list)
    ejections: list[str] = field(default_factory=list)

    def attempt(self, outcome: str) -> None:
        self.outcomes.append(outcome)

    def state(self, name: str) -> None:
        self.states.append(name)

    def breaker(self, state: str) -> None:
        self.breakers.append(state)

    def ejected(self, reason: str) -> None:
        self.ejections.append(reason)


@dataclass
class PoolMeter:
    """Counts one pool's panics."""

    panics: AnyGauge = field(default_factory=Gauge)


class Meters:
    """One meter for each (pool, endpoint), however often it is asked for."""

    def __init__(self) -> None:
        self.of: defaultdict[tuple[str, str], Meter] = defaultdict(Meter)
        self.pools: defaultdict[str, PoolMeter] = defaultdict(PoolMeter)

    def pool(self, name: str) -> PoolMeter:
        return self.pools[name]

    def endpoint(self, pool: str, endpoint: str) -> EndpointMeter:
        return self.of[pool, endpoint]


def spec(name: str, **changes: Any) -> EndpointSpec:
    return EndpointSpec(**{"name": name, "pool": "pool", "host": "127.0.0.1", "port": 1, **changes})


class Rig:
    """`a b c ...` in one pool, under the defaults unless told otherwise. Everything that is emitted is in `events`."""

    def __init__(self, *endpoints: str | EndpointSpec, seed: int = 1, **settings: Any) -> None:
        self.loop = FakeLoop()
        self.meters = Meters()
        self.events: list[EndpointEvent] = []
        self.plane = DataPlane(
            loop=cast(asyncio.AbstractEventLoop, self.loop),
            wheel=TimerWheel(self.loop),
            meters=self.meters,
            rng=random.Random(seed),
            now=lambda: 0.0,
            emit=self.events.append,
            clock=self.loop.time,
        )
        self.generation = 0
        self.settings: dict[str, Any] = {
            "balance": "least_requests", "ejection": EjectionSettings(), "breaker": BreakerSettings(), "slow_start":
            30.0, **settings,
        }  # fmt: skip
        self.install(*endpoints)

    def install(self, *endpoints: str | EndpointSpec, **settings: Any) -> None:
        """A new table; the settings stay unless they are named."""
        self.settings |= settings
        self.generation += 1
        specs = tuple(spec(one) if isinstance(one, str) else one for one in endpoints)
        pool = PoolSpec(
            name="pool", engine="vllm", endpoints=specs, known=tuple(one.name for one in specs), **self.settings
        )
        anyone = Principal(key="anonymous", tenant="anonymous", plan="free")
        table = Table(
            self.generation,
            {"pool": pool},
            (RouteSettings(model=MODEL, pool="pool"),),
            {},
            anyone,
            1 << 20,
            trusted_proxies=(),
        )
        self.plane.install(table)

    # -- what there is

    @property
    def now(self) -> float:
        return self.loop.now

    @property
    def pool(self) -> Pool:
        assert self.plane.view is not None
        return self.plane.view.pools["pool"]

    def __getitem__(self, name: str) -> Endpoint:
        return next(one for one in self.pool.candidates if one.name == name)

    def meter(self, name: str) -> Meter:
        return self.meters.of["pool", name]

    def shown(self, name: str) -> str:
        """The state that the metric shows now."""
        return self.meter(name).states[-1]

    def told(self, *kinds: str) -> list[tuple[str, str, str]]:
        """Endpoint, kind and reason of what was emitted since the last call; of these kinds, if any are named."""
        told = [(event.endpoint, event.kind, event.reason) for event in self.events]
        self.events.clear()
        return [one for one in told if not kinds or one[1] in kinds]

    # -- what happens

    def passes(self, seconds: float) -> None:
        """Time passes, and the wheel turns."""
        self.loop.advance(seconds, step=0.05 if seconds < 20 else 0.5)

    def ends(self, name: str, *outcomes: Outcome, times: int = 1, model: str | None = MODEL, **how: Any) -> None:
        """Attempts that took no permit end so."""
        for _ in range(times):
            for outcome in outcomes:
                self[name].record_outcome(outcome, self.now, model=model, **how)

    def tries(self, name: str, outcome: Outcome, *, model: str | None = MODEL, **how: Any) -> None:
        """One whole attempt, with the breaker's leave."""
        permit = self[name].permit(model, self.now)
        self[name].record_outcome(outcome, self.now, model=model, permit=permit, **how)

    def choose(self, model: str | None = MODEL, tried: Sequence[str] = ()) -> str | None:
        chosen = self.pool.choose(self.now, FakeRequest(model), [self[name] for name in tried])
        return None if chosen is None else chosen.name

    def chosen(self, times: int = 60, model: str | None = MODEL, tried: Sequence[str] = ()) -> set[str | None]:
        """Everybody who is chosen in so many choices."""
        return {self.choose(model, tried) for _ in range(times)}

    def probed(self, name: str, state: str, *, reason: str = "probes", readmit: bool = False) -> None:
        """The probes of an endpoint come to this."""
        incarnation = self[name].spec.incarnation
        self.plane.apply_verdict(ProbeVerdict("pool", name, incarnation, cast(Any, state), reason, readmit))
