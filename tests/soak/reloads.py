"""The operator of a soak: rewrites the policy file every few seconds, and now and then gets it wrong."""

from __future__ import annotations

import asyncio
import copy
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

Document = dict[str, Any]
# The gateway looks twice a second: what is true for less may never be seen.
STANDS: Final = 1.5


def _weight(document: Document, rng: random.Random) -> None:
    rng.choice(document["pools"]["pool"]["endpoints"])["weight"] = rng.choice((1, 2, 3))


def _breaker(document: Document, rng: random.Random) -> None:
    document["pools"]["pool"]["breaker"]["failures"] = rng.randint(3, 7)


def _ejection(document: Document, rng: random.Random) -> None:
    document["pools"]["pool"]["ejection"]["consecutive"] = rng.randint(3, 7)


def _strategy(document: Document, rng: random.Random) -> None:
    document["pools"]["pool"]["balance"] = rng.choice(("least_requests", "round_robin"))


def _health(document: Document, rng: random.Random) -> None:
    document["pools"]["pool"]["health"]["every"] = rng.choice(("300ms", "500ms", "1s"))


def _budget(document: Document, rng: random.Random) -> None:
    document["routes"][0]["retry"] |= {"budget": 0.01, "floor": rng.randint(0, 5)}


def _route(document: Document, rng: random.Random) -> None:
    document["routes"][0]["aliases"] = [f"alias-{rng.randint(0, 99)}"]


_CHANGES: Final[tuple[Callable[[Document, random.Random], None], ...]] = (
    _weight, _breaker, _ejection, _strategy, _health, _budget, _route,
)  # fmt: skip


class Operator:
    """Counts what it wrote: `good` files are each to be in force, `bad` ones to be refused."""

    def __init__(self, policy: Path, document: Document, rng: random.Random) -> None:
        self._policy = policy
        self._first = document
        self._rng = rng
        self._stopped = asyncio.Event()
        self.good = 0
        self.bad = 0

    def stop(self) -> None:
        self._stopped.set()

    async def run(self) -> None:
        """Until `stop`; the last file is the first one again."""
        while not await self._wait(self._rng.uniform(STANDS, 5.0)):
            if self._rng.random() < 0.2:
                self.bad += 1
                self._write('{"version": 1, "pools": {"pool": {"engine": "simul')
                if await self._wait(STANDS):
                    break
            document = copy.deepcopy(self._first)
            self._rng.choice(_CHANGES)(document, self._rng)
            self.good += 1
            self._write(json.dumps(document))
        # What was written last is seen before it is replaced, and counts.
        await asyncio.sleep(STANDS)
        self.good += 1
        self._write(json.dumps(self._first))
        await asyncio.sleep(STANDS)

    async def _wait(self, seconds: float) -> bool:
        """Whether it was stopped meanwhile."""
        try:
            async with asyncio.timeout(seconds):
                await self._stopped.wait()
        except TimeoutError:
            return False
        return True

    def _write(self, text: str) -> None:
        """Renamed into place, or written over, as editors do."""
        if self._rng.random() < 0.5:
            self._policy.write_text(text)
        else:
            aside = self._policy.with_suffix(".new")
            aside.write_text(text)
            os.replace(aside, self._policy)
