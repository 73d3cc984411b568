"""Jobs on the simulated GPU: an answer in one piece or in events, advanced token by token."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from backends.simulator.exchange import Headers, SimulatorExchange
from backends.simulator.gauges import EngineGauges
from backends.simulator.settings import SimulatorSettings
from backends.simulator.ticker import TickerEntry

EVENT_STREAM: Headers = ((b"content-type", b"text/event-stream; charset=utf-8"),)
JSON: Headers = ((b"content-type", b"application/json"),)
_BURST = 64
"""Steps of one stream in one turn of the loop, so that a stream without a gap lets the others live."""

Steps = Iterator[list[bytes]]
"""For each token of a stream its events; the last step has all that follows the last token."""


class JobEngine(Protocol):
    """Engine that runs a job (`backends.simulator.engine.SimulatedEngine`), as the job sees it; times in seconds."""

    settings: SimulatorSettings
    gauges: EngineGauges
    now: Callable[[], float]

    def prefill(self, prompt: int) -> float: ...
    def stretched(self, seconds: float) -> float: ...
    def again(self, job: Job) -> None: ...


class Job:
    """One request on the pretended GPU. `weight` sequences (n), `prompt` tokens, `length` steps until it is done."""

    __slots__ = (
        "comment",
        "done",
        "due",
        "entry",
        "exchange",
        "last",
        "length",
        "prompt",
        "running",
        "since",
        "weight",
    )

    def __init__(self, exchange: SimulatorExchange, prompt: int, length: int, weight: int) -> None:
        self.exchange = exchange
        self.prompt = prompt
        self.length = max(1, length)
        self.weight = weight
        self.done = 0
        self.due = 0.0
        self.last = 0.0
        self.since = 0.0
        self.running = False
        self.entry: TickerEntry | None = None
        self.comment: TickerEntry | None = None

    def wait(self, engine: JobEngine) -> float:
        """Seconds from the start in a slot to the next thing that `advance` does."""
        raise NotImplementedError

    def advance(self, engine: JobEngine) -> None:
        """The time has come: yield what is due, and ask to be called again or end the exchange."""
        raise NotImplementedError

    @property
    def finish_reason(self) -> str:
        return "length"


class PlainJob(Job):
    """An answer in one piece, built when it is due."""

    __slots__ = ("_build", "_reason")

    def __init__(
        self,
        exchange: SimulatorExchange,
        prompt: int,
        length: int,
        weight: int,
        build: Callable[[], bytes],
        reason: str,
    ) -> None:
        super().__init__(exchange, prompt, length, weight)
        self._build = build
        self._reason = reason

    @property
    def finish_reason(self) -> str:
        return self._reason

    def wait(self, engine: JobEngine) -> float:
        gaps = self.length - 1
        return engine.prefill(self.prompt) + (engine.stretched(engine.settings.gap * gaps) if gaps else 0.0)

    def advance(self, engine: JobEngine) -> None:
        engine.gauges.tokens(self.length * self.weight)
        engine.gauges.prompt_tokens += self.prompt
        engine.gauges.first_token.observe(engine.settings.first_byte + engine.settings.prompt_token * self.prompt)
        self.done = self.length
        self.exchange.respond(200, JSON, self._build())


class StreamJob(Job):
    """An answer in events, a step a token."""

    __slots__ = ("_reason", "_steps")

    def __init__(
        self, exchange: SimulatorExchange, prompt: int, length: int, weight: int, steps: Steps, reason: str
    ) -> None:
        super().__init__(exchange, prompt, length, weight)
        self._steps = steps
        self._reason = reason

    @property
    def finish_reason(self) -> str:
        return self._reason

    def wait(self, engine: JobEngine) -> float:
        return engine.prefill(self.prompt)

    def advance(self, engine: JobEngine) -> None:
        exchange, now, gap = self.exchange, engine.now(), engine.settings.gap
        for _ in range(_BURST):
            if not exchange.writable:
                # The fault or the slow reader says when to go on.
                exchange.on_writable = self._resume(engine)
                return
            exchange.send(next(self._steps))
            self._count(engine, now)
            if self.done >= self.length:
                exchange.finish()
                return
            self.due += engine.stretched(gap)
            if exchange.ended:
                return
            if self.due > now:
                break
        engine.again(self)

    def _count(self, engine: JobEngine, now: float) -> None:
        self.done += 1
        engine.gauges.tokens(self.weight)
        if self.done == 1:
            engine.gauges.first_token.observe(now - self.since)
            engine.gauges.prompt_tokens += self.prompt
        else:
            engine.gauges.between_tokens.observe(now - self.last)
        self.last = now

    def _resume(self, engine: JobEngine) -> Callable[[], None]:
        def resume() -> None:
            self.exchange.on_writable = None
            self.due = max(self.due, engine.now())
            engine.again(self)

        return resume
