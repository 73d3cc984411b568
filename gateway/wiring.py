"""Wiring: builds every part of the data plane once and passes it to the parts that use it. No global is read;
nothing here waits or decides."""

import asyncio
import functools
import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from backends.cache.factory import make_cache
from backends.data_plane import DataPlane, TableView
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
    """Common dependencies of the parts, one of each a process.

    clock: monotonic seconds, finer than the loop's, which uvloop rounds to milliseconds
    wall: seconds since the epoch, for expiry dates and `created` fields
    epoch: difference between Unix time and the clock, read once
    """

    metrics: Metrics
    wheel: TimerWheel
    rng: random.Random
    clock: Callable[[], float]
    wall: Callable[[], float]
    epoch: float


class Wiring:
    """Parts of one data plane, by name; a request enters at `router`. `gateway.process.app` starts and stops the parts
    that have connections or background tasks."""

    def __init__(self, control: ControlPlane, access: AccessLog | None, inputs: WiringInputs) -> None:
        metrics, wheel, clock, rng = inputs.metrics, inputs.wheel, inputs.clock, inputs.rng
        self.plane = DataPlane(
            loop=asyncio.get_running_loop(),
            wheel=wheel,
            meters=metrics,
            rng=rng,
            now=inputs.wall,
            emit=control.on_event,
        )
        self.authentication = SlowAuthentication(
            self.plane, control.issuers, GuessingLimiter(clock), metrics.auth_failed
        )
        self.stores = LimitStoreSwitch(
            lambda: control.policy.store,
            functools.partial(_limit_store, inputs),
            lambda: StoreListener(metrics, _log_store),
        )
        self.limiter = RateLimiter(self.stores, metrics.limit_refused, f"{rng.getrandbits(64):x}")
        context = StoreContext(clock, inputs.epoch, rng, metrics, _log_store)
        self.cache = ResponseCache(
            functools.partial(make_cache, control.policy.store, context), count=metrics.cached, wheel=wheel,
            clock=clock, epoch=inputs.epoch,
        )  # fmt: skip
        self.admission = AdmissionGate(metrics=metrics, wheel=wheel, clock=clock)
        self.webhooks = Webhooks(agent=f"sluice/{__version__}", say=_log_webhook)
        self.router = ClientRouter(plane=self.plane, pipeline=self._pipeline(access, inputs), rng=rng)

    def _pipeline(self, access: AccessLog | None, inputs: WiringInputs) -> Pipeline:
        """Build the parts that a request passes, in their order."""
        metrics, wheel, clock, wall = inputs.metrics, inputs.wheel, inputs.clock, inputs.wall
        dispatch = Dispatch(metrics=metrics, loop=asyncio.get_running_loop(), clock=clock)
        notifier = FallbackNotifier(metrics=metrics, webhooks=self.webhooks, clock=clock, wall=wall)
        self.fallbacks = FallbackChain(editor=self.limiter, notifier=notifier, wall=wall)
        attempts = Attempts(dispatch=dispatch, metrics=metrics, wheel=wheel, clock=clock, wall=wall, rng=inputs.rng)
        return Pipeline(
            authentication=self.authentication, limiter=self.limiter, cache=self.cache, admission=self.admission,
            attempts=attempts, fallbacks=self.fallbacks, completion=Completion(metrics, access, clock),
            timed_out=metrics.timed_out, clock=clock,
        )  # fmt: skip

    def follow(self, view: TableView) -> None:
        """Adopt a new table in every part that depends on it."""
        self.limiter.follow(view)
        self.cache.follow(view)
        self.admission.follow(view)


def _limit_store(inputs: WiringInputs, settings: StoreSettings, listener: StoreListener) -> WindowedStore:
    return make_store(settings, StoreContext(inputs.clock, inputs.epoch, inputs.rng, listener, listener.log_event))


def _log_store(event: str, what: Mapping[str, object]) -> None:
    """Log that the store of limits or of cached answers is lost or back."""
    level = logging.WARNING if event in ("store_lost", "cache_lost") else logging.INFO
    logging.getLogger("sluice.store").log(level, event, extra=fields(**what))


def _log_webhook(event: str, what: Mapping[str, object]) -> None:
    """Log the result of an operator's webhook."""
    level = logging.INFO if event == "webhook_told" else logging.WARNING
    logging.getLogger("sluice.webhook").log(level, event, extra=fields(**what))
