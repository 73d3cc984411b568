"""One soak, from its first request to its verdict."""

from __future__ import annotations

import asyncio
import random
import tempfile
import urllib.request
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from prometheus_client.parser import text_string_to_metric_families

from tests.flow.harness import Series, total
from tests.soak import judge, patience
from tests.soak.clients import Crowd, Question, Seen, Tally, questions
from tests.soak.faults import NAMES, Conductor
from tests.soak.reloads import Operator
from tests.soak.stage import KEEP_ALIVE, Stage, stage

CALM: Final = 8.0
"""Seconds without a fault before the end, in which every endpoint must come back."""
SLOPE: Final = 1.0
"""Megabytes per 100,000 requests."""
ENOUGH: Final = 50_000
"""Requests from which a slope tells a leak from the noise; fewer are held to FLAT."""
FLAT: Final = 10.0
"""Megabytes that a short run may grow by in its second half: it ends before the collector's generations are full. What
a short run holds to is the count of blocks."""
BLOCKS: Final = 5_000
BLOCKS_EACH: Final = 0.05
"""Blocks of memory that may be held more than before, in all and for each request: a leak of one thing a request is
20 times that."""
WARM: Final = 15.0
BAD_WORDS: Final = ("Traceback", "never retrieved", "fault of ours", "Task was destroyed", "internal_error")


@dataclass(slots=True)
class Verdict:
    """What a soak found; `wrong` is empty after a good one."""

    seed: int
    asked: int = 0
    right: int = 0
    left: Counter[str] = field(default_factory=Counter)
    excused: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    reloads: int = 0
    slope: float = 0.0
    doubt: float = 0.0
    memory: tuple[float, float] = (0.0, 0.0)
    late: float = 0.0
    """How often the gateway's loop ran a timer more than a quarter second late: then the machine had no time for it."""
    before: str = ""
    """What the gateway said before the first error without excuse."""
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        missing = [name for name in NAMES if name not in self.faults]
        return "\n".join([
            f"seed {self.seed}: {self.asked} requests, {self.right} answered whole, {self.left.total()} clients left "
            f"({', '.join(f'{count} {name}' for name, count in sorted(self.left.items()))})",
            f"errors that clients saw: {self.excused['broken']} broken streams, {self.excused['passed']} passed on, "
            f"{self.excused['budget']} by a spent retry budget",
            f"{self.faults.total()} faults of {len(self.faults)} kinds"
            + (f" (none of: {', '.join(missing)})" if missing else "")
            + f", {self.reloads} reloads",
            f"memory {self.memory[0]:.1f} to {self.memory[1]:.1f} MB after the warm-up: {self.slope:+.2f} "
            f"(+-{self.doubt:.2f}) MB per 100,000 requests",
            f"the gateway's loop was late {self.late:g} times",
            f"wrong: {len(self.wrong)}\n{judge.shown(self.wrong)}" if self.wrong else "nothing wrong",
            *([f"before the first of them the gateway said:\n{self.before}"] if self.before else []),
        ])  # fmt: skip


async def soak(seconds: float, seed: int, clients: int, tell: Callable[[str], object], folder: Path) -> Verdict:
    """Run it. Raises RuntimeError where something did not start."""
    with stage(folder) as running:
        asked = await questions(running.gateway.address, running.simulators[0].address, running.key)
        async with asyncio.TaskGroup() as group:
            beside = group.create_task(_patience(folder / "patience", seconds), name="five minutes")
            verdict = await _Soak(running, asked, seed, tell).run(seconds, clients)
        verdict.wrong += beside.result()
        return verdict


async def _patience(folder: Path, seconds: float) -> list[str]:
    """The plain answer of five minutes, beside a soak that is long enough for it."""
    if seconds < patience.SECONDS + 30:
        return []
    return await patience.five_minutes(folder)


def soak_in_a_folder(seconds: float, seed: int, clients: int, tell: Callable[[str], object]) -> Verdict:
    """The same, in a temporary folder, from outside of any loop."""
    with tempfile.TemporaryDirectory(prefix="sluice-soak-") as name:
        Path(name, "patience").mkdir()
        return asyncio.run(soak(seconds, seed, clients, tell, Path(name)))


class _Soak:
    def __init__(self, running: Stage, asked: list[Question], seed: int, tell: Callable[[str], object]) -> None:
        self._rng = random.Random(seed)
        self._stage = running
        self._asked = asked
        self._tell = tell
        self._tally = Tally()
        self._good = self._bad = 0
        self._samples: list[tuple[int, float]] = []
        self._verdict = Verdict(seed)

    async def run(self, seconds: float, clients: int) -> Verdict:
        """First a short one, in which all that is made once is made; what is held after it is what may be held."""
        warm = min(WARM, seconds / 4)
        await self._phase(warm, clients)
        before = await self._settled()
        began = self._tally.asked
        calm = await self._phase(seconds - warm - CALM, clients, CALM)
        self._verdict.wrong += _back(calm, await self._scrape())
        await self._quiet(before, self._tally.asked - began)
        await self._judge()
        return self._verdict

    async def _phase(self, seconds: float, clients: int, calm: float = 0.0) -> Series:
        """Load and trouble for so long, then load alone for `calm` seconds. The metrics as the calm began."""
        address, rng = self._stage.gateway.address, self._rng
        crowd = Crowd(address, self._asked, random.Random(rng.random()), self._tally)
        conductor = Conductor(self._stage.simulators, random.Random(rng.random()), self._verdict.faults)
        operator = Operator(self._stage.policy, self._stage.document, random.Random(rng.random()))
        async with asyncio.TaskGroup() as group:
            group.create_task(crowd.run(clients), name="crowd")
            trouble = [group.create_task(each.run(), name="trouble") for each in (conductor, operator)]
            await self._watch(seconds)
            conductor.stop()
            operator.stop()
            await asyncio.wait(trouble)
            series = await self._scrape()
            await asyncio.sleep(calm)
            crowd.stop()
        self._good += operator.good
        self._bad += operator.bad
        return series

    async def _watch(self, seconds: float) -> None:
        """Note the memory once a second, and say every half minute that there is life."""
        loop = asyncio.get_running_loop()
        began = told = loop.time()
        while (now := loop.time()) - began < seconds:
            await asyncio.sleep(1.0)
            tally = self._tally
            self._samples.append((tally.asked, self._stage.resident_mb))
            if now - told >= 30:
                told = now
                figures = f"{tally.asked} requests, {tally.right} whole, {len(tally.odd)} errors"
                self._tell(f"{now - began:4.0f} s: {figures}, {self._samples[-1][1]:.1f} MB")

    async def _settled(self) -> dict[str, Any]:
        """What is held when nobody asks: idle upstream connections have had their time."""
        await asyncio.sleep(KEEP_ALIVE + 1.0)
        return await self._stage.held()

    async def _quiet(self, before: dict[str, Any], asked: int) -> None:
        """Everything that was taken is given back, or soon is."""
        await self._settled()
        wrong: list[str] = []
        for _ in range(20):
            wrong = await self._held(before, asked)
            if not wrong:
                return
            await asyncio.sleep(0.1)
        self._verdict.wrong += wrong

    async def _held(self, before: dict[str, Any], asked: int) -> list[str]:
        now, series = await self._stage.held(), await self._scrape()
        wrong = []
        for kind in ("tasks", "descriptors"):
            if new := Counter(now[kind]) - Counter(before[kind]):
                wrong.append(f"{kind} are left: {dict(new)}")
        if now["threads"] > before["threads"] + 1:
            wrong.append(f"{now['threads']} threads run, {before['threads']} did")
        blocks = now["blocks"] - before["blocks"]
        if blocks > BLOCKS + asked * BLOCKS_EACH:
            wrong.append(f"{blocks} blocks of memory more are held after {asked} requests")
        for name in ("endpoint_in_flight", "open_streams"):
            if total(series, name):
                wrong.append(f"{name} is {total(series, name):g} and should be 0")
        return wrong

    async def _judge(self) -> None:
        verdict, tally, series = self._verdict, self._tally, await self._scrape()
        # The log's thread is at most this late.
        await asyncio.sleep(1.0)
        found = judge.account(self._stage.access_log)
        verdict.excused, unlucky = judge.errors(tally, found, series)
        verdict.late = total(series, "loop_lag_seconds_count") - total(series, "loop_lag_seconds_bucket", le="0.25")
        unexcused = [found.odd[seen.request_id]["time"] for seen in tally.odd if _unexcused(seen, found)]
        if unexcused:
            log = (self._stage.folder / "sluice.log").read_text()
            verdict.before = judge.before(log, min(unexcused))
        verdict.wrong += judge.sums(found, series)
        verdict.wrong += self._reloads(series)
        verdict.wrong += self._memory()
        verdict.wrong += [f"the gateway said {word!r}: {_around(self._stage.said, word)}"
                          for word in BAD_WORDS if word in self._stage.said]  # fmt: skip
        # Last, for they may be many.
        verdict.wrong += unlucky
        verdict.asked, verdict.right, verdict.left = tally.asked, tally.right, tally.left

    def _reloads(self, series: Series) -> list[str]:
        good, bad, wrong = self._good, self._bad, []
        self._verdict.reloads = good
        generation, failures = total(series, "policy_generation"), total(series, "policy_reload_failures_total")
        # A file that is written in place may be read while it is empty, and is read again then.
        if generation < 1 + good or failures < bad:
            wrong.append(
                f"{good} good policies and {bad} bad ones were written; "
                f"policy_generation is {generation:g}, policy_reload_failures_total {failures:g}"
            )
        return wrong

    def _memory(self) -> list[str]:
        """Over the second half: until then buffers, arenas and the collector's generations find their size."""
        verdict, samples = self._verdict, self._samples[len(self._samples) // 2 :]
        if len(samples) < 10:
            return []
        verdict.slope, verdict.doubt = judge.slope(samples)
        verdict.memory = samples[0][1], samples[-1][1]
        requests = samples[-1][0] - samples[0][0]
        grown = verdict.slope * requests / 1e5
        if requests >= ENOUGH:
            return [f"memory grows by {verdict.slope:.2f} MB per 100,000 requests"] if verdict.slope > SLOPE else []
        return [f"memory grew by {grown:.1f} MB over {requests} requests"] if grown > FLAT else []

    async def _scrape(self) -> Series:
        text = await asyncio.to_thread(_get, f"http://{self._stage.admin}/metrics")
        samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
        return {(s.name.removeprefix("sluice_"), frozenset(s.labels.items())): s.value for s in samples}


def _unexcused(seen: Seen, found: judge.Account) -> bool:
    line = found.odd.get(seen.request_id)
    return line is not None and judge.excuse(seen, line) is None


def _back(before: Series, after: Series) -> list[str]:
    """What did not come back although nothing failed any more: states, breakers, and a share of the traffic."""
    wrong = []
    for name, well in (("endpoint_state", "up"), ("breaker_state", "closed")):
        for (metric, labels), value in after.items():
            pairs = dict(labels)
            if metric == name and value and pairs["state"] != well:
                wrong.append(f"after {CALM:g} s without a fault {name} of {pairs['endpoint']} is {pairs['state']}")
    for endpoint in {dict(labels).get("endpoint", "") for _, labels in after} - {""}:
        got = total(after, "attempts_total", endpoint=endpoint) - total(before, "attempts_total", endpoint=endpoint)
        if got < 20:
            wrong.append(f"after the last fault {endpoint} got {got:g} requests in {CALM:g} s")
    return wrong


def _around(text: str, word: str) -> str:
    at = text.find(word)
    return text[max(0, at - 500) : at + 1500]


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        text: str = answer.read().decode()
    return text
