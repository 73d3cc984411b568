"""The probes of one endpoint: what is asked, what was found, when the next one is due. `probes.Prober` makes one an
endpoint; `policies/resilience/health.py` decides."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import random
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from backends.control.events import EndpointEvent
from backends.control.table import EndpointSpec
from backends.engines import ENGINES, TokenRequest, health_of
from backends.engines.dialect import first_model
from backends.http1.interface import UpstreamError
from backends.probes.one_shot import OneShotClient, ProbeReply
from policies.config.settings.pools import HealthSettings
from policies.resilience.health import TOKEN_PATIENCE, HealthChange, HealthRecord, Kind, ProbeFinding

FIRST_WITHIN: Final = 0.25
"""Seconds over which the first probes after a start are spread."""
JITTER: Final = 0.1
"""Every pause is longer or shorter by up to this share, so that gateways and endpoints do not fall into step."""
METRICS_LIMIT: Final = 1 << 20
"""Bytes of an engine's metrics page that are read: vLLM's has 60 to 200 KiB."""

# We have no descriptor: that says nothing of the endpoint.
_OUR_OWN_LACK: Final = frozenset({errno.EMFILE, errno.ENFILE})
_KINDS: Final[Mapping[str, Kind]] = {"refused": "refused", "tls": "refused", "malformed": "refused"}


class ProbedPlane(Protocol):
    """The data plane as far as probes need it (`plane.DataPlane`)."""

    def busy(self, name: str, /) -> bool:
        """Return whether an attempt is in flight on the endpoint of this name."""

    def yielded_since(self, name: str, moment: float, /) -> bool:
        """Return whether the endpoint has sent bytes on any request since `moment`."""


class ProbeMeter(Protocol):
    """Meter of the probes of one endpoint."""

    def probed(self, ok: bool, /) -> None: ...


class ProbeMeters(Protocol):
    """`gateway.observe.metrics.Metrics`."""

    def endpoint(self, pool: str, endpoint: str, /) -> ProbeMeter: ...


@dataclass(frozen=True, slots=True)
class ProbeContext:
    """Dependencies that all probes share. `clock` is monotonic and that of the data plane, in seconds."""

    plane: ProbedPlane
    meters: ProbeMeters
    clock: Callable[[], float]
    rng: random.Random
    say: Callable[[EndpointSpec, HealthChange], None]
    """Told of every change of what is known."""
    asker: Callable[[EndpointSpec, int | None], Awaitable[OneShotClient]]
    """Makes who asks an endpoint, at another port than its own. Raises OSError where `tls.ca` can't be loaded."""


class _ProbeJudge(Protocol):
    def __call__(self, found: ProbeFinding, /, *, yielding: bool, now: float) -> HealthChange | None: ...


class EndpointProbe:
    """The probes of one endpoint: what is asked, what was found, when the next one is due."""

    def __init__(
        self, around: ProbeContext, spec: EndpointSpec, engine: str, health: HealthSettings, model: str | None
    ) -> None:
        self._around = around
        self._spec = spec
        self._engine = ENGINES[engine]
        self._health = health_of(engine, health.path)
        self._model = model
        self._listed: str | None = None  # the first model of the engine's own list
        self._askers: dict[int | None, OneShotClient] = {}
        self._sooner = asyncio.Event()
        self.record: Final = HealthRecord(health)
        self.task: asyncio.Task[None] | None = None
        self.latest: tuple[float, ProbeFinding] | None = None
        """Time of the last probe's end, and its finding; None before the first."""

    def change(self, engine: str, health: HealthSettings, model: str | None) -> None:
        """Adopt the settings of a new table."""
        if model != self._model:
            self.record.ask_again()
        if health.every < self.record.settings.every:
            self._sooner.set()
        self._engine, self._model = ENGINES[engine], model
        self._health = health_of(engine, health.path)
        self.record.settings = health

    def end(self) -> None:
        if self.task is not None:
            self.task.cancel()

    def on_event(self, event: EndpointEvent) -> None:
        record, now = self.record, self._around.clock()
        news = False
        if event.kind in ("failed", "suspect"):
            # A suspect was too slow, or is one that the pool could not spare: its word on its health is not enough.
            news = record.doubted(slow=event.kind == "suspect")
        elif event.kind == "ejected":
            news = record.shut("ejected", now)
        elif event.kind == "breaker_open":
            news = record.shut("breaker", now)
        elif event.kind == "returned" and event.reason != "resumed":
            record.opened("ejected")
        elif event.kind in ("breaker_closed", "breaker_half_open"):
            record.opened("breaker")
        if news:
            self._sooner.set()

    # -- the task

    async def run(self) -> None:
        around = self._around
        await self._sleep(around.rng.uniform(0.0, min(FIRST_WITHIN, self.record.settings.every)))
        while True:
            await self._look()
            await self._pause()

    async def _pause(self) -> None:
        """Wait until the next probe is due; an event of the endpoint makes it due earlier, but never before
        `suspect_every`."""
        around = self._around
        stretch = 1.0 + around.rng.uniform(-JITTER, JITTER)
        self._sooner.clear()
        begun = around.clock()
        while (left := begun + self.record.pause * stretch - around.clock()) > 0:
            await self._sleep(left)
            self._sooner.clear()

    async def _sleep(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._sooner.wait()

    async def _look(self) -> None:
        """One probe of its health; where that is good and a token is due, one for a token too."""
        around, record, name = self._around, self.record, self._spec.name
        found = await self._measured(self._well(), record.health)
        if found is None or found.kind != "good":
            return
        if record.wants_token(idle=not around.plane.busy(name), while_well=self._engine.asks_while_well):
            await self._measured(self._token(), record.token)

    async def _measured(
        self, probe: Coroutine[object, object, ProbeFinding | None], judge: _ProbeJudge
    ) -> ProbeFinding | None:
        """Run a probe, count and judge its finding; return None where the probe could not be made."""
        around, spec = self._around, self._spec
        began = around.clock()
        found = await probe
        if found is None:
            return None
        self.latest = around.clock(), found
        if found.kind != "unaskable":
            around.meters.endpoint(spec.pool, spec.name).probed(found.kind == "good")
        yielding = around.plane.yielded_since(spec.name, began)
        change = judge(found, yielding=yielding, now=around.clock())
        if change is not None:
            around.say(spec, change)
        return found

    async def _well(self) -> ProbeFinding | None:
        settings, health = self.record.settings, self._health
        port = None if settings.port == "auto" else settings.port
        # A path of the operator's own is taken as it is written; the engine's is below the endpoint's base path.
        path = (self._spec.base_path if settings.path == "auto" else "") + (health.path or "/")
        try:
            reply = await (await self._asker(port)).get(path, settings.timeout, status_only=True)
        except (UpstreamError, OSError) as error:
            return _no_answer(error)
        if health.path is None or reply.status in health.well:
            return ProbeFinding("good")
        return ProbeFinding("unwell", f"{path} says {reply.status}")

    async def _token(self) -> ProbeFinding | None:
        patience = TOKEN_PATIENCE * self.record.settings.timeout
        try:
            question = await self._question()
            if question is None:
                return ProbeFinding("unaskable", "it is not known what to ask for")
            before = await self._produced()
            try:
                reply = await self._post(question, patience)
            except UpstreamError as error:
                if error.kind == "no_answer" and before is not None and (await self._produced() or 0.0) > before:
                    return ProbeFinding("full", "busy with others: it generates, and lets our token wait")
                raise
        except (UpstreamError, OSError) as error:
            return _no_answer(error)
        told = self._engine.read(reply.status, reply.body)
        if told == "unaskable":
            self._listed = None
        return ProbeFinding("good" if told == "token" else told, f"{question.path} says {reply.status}")

    async def _produced(self) -> float | None:
        """The tokens that it has generated for anybody, where it says so."""
        counter = self._engine.produced
        if counter is None:
            return None
        asker = await self._asker(None)
        with contextlib.suppress(UpstreamError):
            path = self._spec.base_path + counter.path
            reply = await asker.get(path, self.record.settings.timeout, most=METRICS_LIMIT)
            return counter.read(reply.body) if reply.status == 200 else None
        return None

    async def _question(self) -> TokenRequest | None:
        question = self._engine.ask(self._model)
        if question is not None or self._engine.models is None:
            return question
        if self._listed is None:
            # No route names a model of this pool's: the engine knows its own.
            asker = await self._asker(None)
            reply = await asker.get(self._spec.base_path + self._engine.models, self.record.settings.timeout)
            self._listed = first_model(reply.body) if reply.status == 200 else None
        return self._engine.ask(self._listed) if self._listed is not None else None

    async def _post(self, question: TokenRequest, timeout: float) -> ProbeReply:
        asker = await self._asker(None)
        return await asker.post(self._spec.base_path + question.path, question.body, timeout)

    async def _asker(self, port: int | None) -> OneShotClient:
        found = self._askers.get(port)
        if found is None:
            found = self._askers[port] = await self._around.asker(self._spec, port)
        return found


def _no_answer(error: UpstreamError | OSError) -> ProbeFinding | None:
    """Return the finding of a probe without an answer; an OSError comes from reading `tls.ca`."""
    if isinstance(error, OSError):
        return None if error.errno in _OUR_OWN_LACK else ProbeFinding("refused", f"tls.ca: {error.strerror or error}")
    return None if error.kind == "no_descriptor" else ProbeFinding(_KINDS.get(error.kind, "silent"), str(error))
