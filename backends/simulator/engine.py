"""The pretended GPU: so many sequences at once, the rest in a queue; time to the first token, time between tokens.

A client that leaves gives its slot back in the same turn of the loop. A job ends with its exchange, so one that is
stalled by a fault or by a client that does not read keeps its slot, as a sequence keeps its KV cache.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from backends.simulator.gauges import EngineGauges
from backends.simulator.jobs import EVENT_STREAM, Job, StreamJob
from backends.simulator.refusals import busy
from backends.simulator.settings import SimulatorSettings
from backends.simulator.ticker import Ticker

COMMENT = b": keep-alive\n\n"


class SimulatedEngine:
    """Slots, queue and time. `changed` is called whenever a gauge may have moved (tests wait on it)."""

    def __init__(
        self, settings: SimulatorSettings, ticker: Ticker, now: Callable[[], float], gauges: EngineGauges
    ) -> None:
        self.settings = settings
        self.gauges = gauges
        self.now = now
        self.running = 0
        self.changed: Callable[[], None] = lambda: None
        self._ticker = ticker
        self._jobs: dict[Job, None] = {}
        self._waiting: dict[Job, None] = {}
        self._frozen = False
        self._held: list[Job] = []
        self._chance = random.Random(settings.seed)

    @property
    def waiting(self) -> int:
        return sum(job.weight for job in self._waiting)

    @property
    def cache_usage(self) -> float:
        """The share of the KV cache that running sequences hold, of a cache in which every slot has room for a full
        context.
        """
        held = sum(job.prompt + job.done * job.weight for job in self._jobs if job.running)
        return min(1.0, held / (self.settings.max_num_seqs * self.settings.max_model_len))

    def check(self, weight: int) -> None:
        """Raises the 503 that vLLM's admission gives before any head is sent."""
        limit = self.settings.max_num_queued_reqs
        if limit is not None and self.running + self.waiting + weight > limit:
            self.gauges.rejections += 1
            raise busy()

    def submit(self, job: Job) -> None:
        """Run it when there is a slot. A stream's head goes out at once, before any prefill: that is what vLLM does."""
        job.since = self.now()
        job.exchange.on_end = lambda gone: self._end(job, gone)
        self._jobs[job] = None
        if isinstance(job, StreamJob):
            job.exchange.begin(200, EVENT_STREAM)
            self._comment(job)
        if job.exchange.ended:
            return
        if self._waiting or not self._fits(job):
            self._waiting[job] = None
        else:
            self._start(job)
        self.changed()

    def again(self, job: Job) -> None:
        """Call the job when it is due; while frozen, keep it."""
        if self._frozen:
            self._held.append(job)
        else:
            job.entry = self._ticker.at(job.due, lambda: self._advance(job))

    def prefill(self, prompt: int) -> float:
        return self.stretched(self.settings.first_byte + self.settings.prompt_token * prompt)

    def stretched(self, seconds: float) -> float:
        jitter = self.settings.jitter
        return seconds * (1 + self._chance.uniform(-jitter, jitter)) if jitter else seconds

    def freeze(self) -> None:
        """Stop generating: requests come in and hang, /health still answers 200."""
        self._frozen = True

    def thaw(self) -> None:
        if self._frozen:
            self._frozen = False
            held, self._held = self._held, []
            for job in held:
                if not job.exchange.ended:
                    job.due = max(job.due, self.now())
                    self.again(job)

    def close(self) -> None:
        self._jobs.clear()
        self._waiting.clear()
        self._held.clear()

    def _fits(self, job: Job) -> bool:
        # A request for more sequences than there are slots takes all of them.
        return self.running == 0 or self.running + job.weight <= self.settings.max_num_seqs

    def _start(self, job: Job) -> None:
        job.running = True
        self.running += job.weight
        job.due = self.now() + job.wait(self)
        self.again(job)

    def _advance(self, job: Job) -> None:
        if self._frozen:
            self._held.append(job)
        elif not job.exchange.ended:
            job.advance(self)

    def _end(self, job: Job, gone: bool) -> None:
        for entry in (job.entry, job.comment):
            if entry is not None:
                entry.cancel()
        self._jobs.pop(job, None)
        self._waiting.pop(job, None)
        if job.running:
            self.running -= job.weight
        reason = "abort" if gone and job.done < job.length else job.finish_reason
        self.gauges.ended(reason, job, self.now())
        while self._waiting:
            first = next(iter(self._waiting))
            if not self._fits(first):
                break
            del self._waiting[first]
            self._start(first)
        self.changed()

    def _comment(self, job: Job) -> None:
        every = self.settings.comment_every
        if every is not None and not job.exchange.request.path.startswith(("/v1/messages", "/v1/responses")):
            job.comment = self._ticker.after(every, lambda: self._say(job, every))

    def _say(self, job: Job, every: float) -> None:
        quiet = self.now() - max(job.last, job.since)
        if quiet >= every and job.exchange.writable:
            job.exchange.send([COMMENT])
        job.comment = self._ticker.after(every, lambda: self._say(job, every))
