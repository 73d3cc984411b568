"""Fault x phase x streaming or not, and what stands beside it, pair by pair; the invariants are
asserted after each.

`SLUICE_SEED=7` repeats a choice of cases, `SLUICE_LONG=1` runs the whole product (some 5 minutes).
"""

from __future__ import annotations

import asyncio
import itertools
import random
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import astuple, dataclass
from pathlib import Path

import pytest

from tests.fakes.backend import Backend
from tests.fakes.certificates import Authority
from tests.fakes.client import Answer
from tests.fakes.listeners import full_backlog, refusing
from tests.faults.kinds import ERROR, FAULTS, ONE, Fault, error_event
from tests.faults.scenes import ask_first_at, pool, route, steps
from tests.flow.harness import Running, eventually, gateway_with
from tests.sizes import LONG, SEED, sample

ROUTE = route(retry={"retries": 1}, attempt="400ms")


@dataclass(frozen=True, slots=True)
class Case:
    """beside: healthy endpoints beside the one that fails
    kept: whether the request goes out on a connection that has served before
    client: whether the client stays to see it
    """

    fault: Fault
    stream: bool
    beside: int
    kept: bool
    client: str

    @property
    def possible(self) -> bool:
        return self.fault.possible(self.stream) and not (self.kept and self.fault.phase == "connect")

    @property
    def pairs(self) -> frozenset[tuple[int, object, int, object]]:
        """Every two values of it, with their places."""
        return frozenset((*one, *two) for one, two in itertools.combinations(enumerate(astuple(self)), 2))

    def __str__(self) -> str:
        words = (
            str(self.fault),
            "stream" if self.stream else "plain",
            str(self.beside),
            "kept" if self.kept else "new",
        )
        return ", ".join((*words, self.client))


def product(client: str) -> list[Case]:
    """Every case there is, of a client that does this."""
    values = itertools.product(FAULTS, (True, False), (0, 1, 3), (False, True))
    return [case for each in values if (case := Case(*each, client)).possible]


STAYS, LEAVES = product("stays"), product("leaves")


def pairwise(cases: Sequence[Case], chance: random.Random) -> list[Case]:
    """Few of them in which every possible pair of values is met: each time the one with the most new pairs."""
    left = chance.sample(cases, len(cases))
    pairs = {case: case.pairs for case in left}
    wanted = frozenset().union(*pairs.values())
    chosen = []
    while wanted:
        best = max(left, key=lambda case: len(pairs[case] & wanted))
        chosen.append(best)
        wanted -= pairs[best]
    return chosen


def once_each(cases: Sequence[Case], chance: random.Random) -> list[Case]:
    """One for every fault, streamed and not."""
    return list({(case.fault, case.stream): case for case in chance.sample(cases, len(cases))}.values())


CHANCE = random.Random(SEED)
PAIRWISE = [*pairwise(STAYS, CHANCE), *once_each(LEAVES, CHANCE)]
CASES = [*STAYS, *LEAVES] if LONG else sample(PAIRWISE, 60)


def test_every_pair_is_met_in_few_cases() -> None:
    wanted = frozenset().union(*(case.pairs for case in STAYS))
    assert wanted <= frozenset().union(*(case.pairs for case in PAIRWISE))
    assert {(case.fault, case.stream) for case in LEAVES} <= {
        (c.fault, c.stream) for c in PAIRWISE if c.client == "leaves"
    }


@asynccontextmanager
async def gateway_for(case: Case) -> AsyncIterator[tuple[Running, Backend]]:
    """The gateway, with the one that fails as `pool-0`."""
    async with AsyncExitStack() as stack:
        faulty, *healthy = [await stack.enter_async_context(Backend()) for _ in range(case.beside + 1)]
        for one in (faulty, *healthy):
            one.streams("well") if case.stream else one.answers(200, b'{"well":1}')
        url: str | Backend = faulty
        match case.fault.how:
            case "refuses":
                url = f"http://127.0.0.1:{stack.enter_context(refusing())}"
            case "hangs":
                url = f"http://127.0.0.1:{stack.enter_context(full_backlog())}"
            case "untrusted":
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                url = (await stack.enter_async_context(Backend(tls=Authority(folder).server()))).url
            case _:
                (faulty.then if case.kept else faulty).does(case.fault.script(case.stream))
        yield await stack.enter_async_context(gateway_with(url, *healthy, policy=pool(), route=ROUTE)), faulty


@pytest.mark.parametrize("case", CASES, ids=str)
async def test_a_fault_is_what_it_has_to_be_and_leaves_nothing_behind(case: Case) -> None:
    try:
        async with gateway_for(case) as (gw, faulty):
            if case.kept:
                answer, _ = await ask_first_at(gw, "pool-0", stream=case.stream)
                assert answer.status == 200
            if case.client == "leaves":
                await leaves(gw, case)
            else:
                answer, line = await ask_first_at(gw, "pool-0", stream=case.stream)
                expect(case, answer, steps(line))
            if case.fault.outcome(case.stream) in ("no_answer", "too_slow", "broken_off"):
                await faulty.all_closed(timeout=1.0)
    except BaseException as error:
        error.add_note(f"SLUICE_SEED={SEED} chooses this case again")
        raise


async def leaves(gw: Running, case: Case) -> None:
    """As many clients as it takes to meet the fault, each of which leaves in the midst of it or just after."""
    for _ in range(case.beside + 1):
        async with await gw.connect() as client:
            await client.send(gw.chat_request(stream=case.stream))
            await asyncio.sleep(0.04)
        await eventually(lambda: gw.gateway.plane.in_flight == 0, "an attempt outlives its client", timeout=0.2)


def expect(case: Case, answer: Answer, trail: list[tuple[str, str]]) -> None:
    """What the client gets, and what the log tells of it."""
    fault, outcome = case.fault, case.fault.outcome(case.stream)
    first = ("pool-0", outcome)
    if fault.repeated(case.stream) and case.beside:
        assert (answer.status, answer.end) == (200, "complete")
        assert answer.text == "well" if case.stream else answer.json == {"well": 1}
        assert (trail[0], trail[1][1], len(trail)) == (first, "ok", 2)
        assert trail[1][0] != "pool-0"
        assert answer.header("x-should-retry") is None
        return
    again = fault.repeated(case.stream) and fault.how != "refuses"
    assert trail == ([first, first] if again else [first])
    assert answer.header("x-should-retry") == ("false" if again else None)
    assert answer.header("x-sluice-attempts") == str(len(trail))
    status, code = fault.told(case.stream)
    assert answer.status == status
    if status != 200:
        assert answer.end == "complete"
        assert answer.body == ERROR if code is None else answer.error["code"] == code
    elif code is None:
        assert answer.end == "complete"
        assert (
            error_event(fault.how[6:]) in answer.body if fault.how.startswith("event") else b"error" not in answer.body
        )
    else:
        # Every byte that came, an error where there is room for one, and no clean end.
        assert answer.end == "cut"
        assert (
            (ONE in answer.body and answer.chunks[-1]["error"]["code"] == code)
            if case.stream
            else (answer.body == b'{"a": ')
        )
        assert b"[DONE]" not in answer.body
