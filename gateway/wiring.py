"""The data plane put together: all that a request meets between its client's socket and its engine's, each part made
once and handed to those that use it. Nothing is fetched from a global, and nothing here waits or decides."""

import asyncio
import functools
import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from backends.cache.factory import make_cache
from backends.control.data_plane import DataPlane, TableView
from backends.http1.timer_wheel import TimerWheel
from backends.store.factory import StoreContext, make_store
from backends.store.windowed_store import WindowedStore
from backends.webhook import Webhooks
from gateway import __version__
from gateway.admission.gate import AdmissionGate
from gateway.auth.authenticate import SlowAuthentication
from gateway.cache.response_cache import ResponseCache
from gateway.completion import Completion
from gateway.control.control_plane import ControlPlane
from gateway.fallback.chain import FallbackChain
from gateway.fallback.notifier import FallbackNotifier
from gateway.limits.limiter import RateLimiter
from gateway.limits.store_switch import LimitStoreSwitch, StoreListener
from gateway.observe.access_log import AccessLog
from gateway.observe.log import fields
from gateway.observe.metrics import Metrics
from gateway.pipeline import Pipeline
from gateway.router import ClientRouter
from gateway.upstream.attempts import Attempts
from gateway.upstream.dispatch import Dispatch
from policies.config.settings import StoreSettings
from policies.identity.guessing import GuessingLimiter


@dataclass(frozen=True, slots=True, kw_only=True)
class WiringInputs:
    """What nearly every part needs, one of each a process.

    clock: monotonic seconds, finer than the loop's, which uvloop rounds to milliseconds
    wall: seconds since the epoch, for what expires on a date, and for `created`
    epoch: what makes Unix time of the clock, read once
    """

    metrics: Metrics
    wheel: TimerWheel
    rng: random.Random
    clock: Callable[[], float]
    wall: Callable[[], float]
    epoch: float


class Wiring:
    """The parts of one data plane, by name; `edge` is where a request enters. What has something to connect or to end
    is started and stopped by the gateway (`gateway.process.app`)."""

    def __init__(self, control: ControlPlane, access: AccessLog | None, means: WiringInputs) -> None:
        metrics, wheel, clock, rng = means.metrics, means.wheel, means.clock, means.rng
        self.plane = DataPlane(
            loop=asyncio.get_running_loop(), wheel=wheel, meters=metrics, rng=rng, now=means.wall, emit=control.heard
        )
        self.identity = SlowAuthentication(self.plane, control.issuers, GuessingLimiter(clock), metrics.auth_failed)
        self.stores = LimitStoreSwitch(
            lambda: control.policy.store,
            functools.partial(_limit_store, means),
            lambda: StoreListener(metrics, _store_says),
        )
        self.limiting = RateLimiter(self.stores, metrics.limit_refused, f"{rng.getrandbits(64):x}")
        around = StoreContext(clock, means.epoch, rng, metrics, _store_says)
        self.caching = ResponseCache(
            functools.partial(make_cache, control.policy.store, around), count=metrics.cached, wheel=wheel,
            clock=clock, epoch=means.epoch,
        )  # fmt: skip
        self.admission = AdmissionGate(metrics=metrics, wheel=wheel, clock=clock)
        self.webhooks = Webhooks(agent=f"sluice/{__version__}", say=_webhook_says)
        self.edge = ClientRouter(plane=self.plane, pipeline=self._pipeline(access, means), rng=rng)

    def _pipeline(self, access: AccessLog | None, means: WiringInputs) -> Pipeline:
        """Those through whose hands a request goes, in their order."""
        metrics, wheel, clock, wall = means.metrics, means.wheel, means.clock, means.wall
        dispatch = Dispatch(metrics=metrics, loop=asyncio.get_running_loop(), clock=clock)
        telling = FallbackNotifier(metrics=metrics, webhooks=self.webhooks, clock=clock, wall=wall)
        self.fallbacks = FallbackChain(
            limiting=self.limiting, caching=self.caching, admission=self.admission, wall=wall, telling=telling
        )
        attempts = Attempts(dispatch=dispatch, metrics=metrics, wheel=wheel, clock=clock, wall=wall, rng=means.rng)
        return Pipeline(
            identity=self.identity, limiting=self.limiting, caching=self.caching, admission=self.admission,
            attempts=attempts, fallbacks=self.fallbacks, settlement=Completion(metrics, access, clock),
            timed_out=metrics.timed_out, clock=clock,
        )  # fmt: skip

    def follow(self, view: TableView) -> None:
        """A new table is in force."""
        self.limiting.follow(view)
        self.caching.follow(view)
        self.admission.follow(view)


def _limit_store(means: WiringInputs, settings: StoreSettings, voice: StoreListener) -> WindowedStore:
    return make_store(settings, StoreContext(means.clock, means.epoch, means.rng, voice, voice.say))


def _store_says(event: str, what: Mapping[str, object]) -> None:
    """The store of limits, or of cached answers, is lost or back."""
    level = logging.WARNING if event in ("store_lost", "cache_lost") else logging.INFO
    logging.getLogger("sluice.store").log(level, event, extra=fields(**what))


def _webhook_says(event: str, what: Mapping[str, object]) -> None:
    """What became of an operator's webhook."""
    level = logging.INFO if event == "webhook_told" else logging.WARNING
    logging.getLogger("sluice.webhook").log(level, event, extra=fields(**what))
