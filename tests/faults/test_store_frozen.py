"""A store that stands still for a moment and goes on: what was used before, meanwhile and after is counted once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

import pytest

from policies.config.settings.auth import LimitSettings
from policies.config.units import RateValue
from policies.limits import Demand, Granted
from tests.fakes.redis_servers import Server, server
from tests.faults.store_client import Asker, asker

# No window ends and no bucket refills meanwhile: whatever is counted twice, or not at all, is seen.
MONTH = 30 * 86400
MOST = 100_000
LIMITS = (
    LimitSettings(tokens=RateValue(MOST, MONTH), strategy="fixed_window"),
    LimitSettings(requests=RateValue(MOST, MONTH), strategy="fixed_window"),
    LimitSettings(concurrency=1000),
)
RESERVED, USED = 100, 7


@pytest.fixture
def redis() -> Iterator[Server]:
    with server() as started:
        yield started


class Ledger:
    """Requests, and what the store must say of them in the end."""

    def __init__(self, client: Asker) -> None:
        self.tokens = self.requests = 0
        self.modes: list[str] = []
        self._client = client
        rules = client.plan(*LIMITS)
        self.asked = tuple(
            [Demand(one.rule, one.bucket, RESERVED if one.rule.kind == "tokens" else 1) for one in rules]
        )

    async def take(self, count: int) -> list[Granted]:
        answers = await asyncio.gather(*(self._client.ask(self.asked) for _ in range(count)))
        granted = [one.answer for one in answers if isinstance(one.answer, Granted)]
        assert len(granted) == count
        self.modes += [one.mode for one in granted]
        return granted

    def refund(self, granted: Sequence[Granted]) -> None:
        for one in granted:
            # What this process's share was used for meanwhile is its own.
            if one.mode == "store":
                self.tokens += USED
                self.requests += 1
            self._client.store.refund(one, [(self.asked[0], USED - RESERVED)])

    async def counted(self) -> tuple[int, int, int]:
        """Tokens, requests and slots that the store has counted."""
        tokens, requests, slots = await self._client.store.seen(self.asked)
        return MOST - tokens.remaining, MOST - requests.remaining, 1000 - slots.remaining


@pytest.mark.parametrize("seconds", [0.05, 0.3, 2.0])
async def test_what_is_used_around_a_freeze_is_counted_once(redis: Server, seconds: float) -> None:
    async with asker(redis.url) as client:
        ledger = Ledger(client)
        ledger.refund(await ledger.take(20))
        early, late = await ledger.take(10), await ledger.take(10)
        assert set(ledger.modes) == {"store"}

        redis.freeze()
        thaw = asyncio.get_running_loop().call_later(seconds, redis.thaw)
        # These are sent to a server that does not read ...
        ledger.refund(early)
        waiting = asyncio.gather(*(ledger.take(1) for _ in range(5)))
        await asyncio.sleep(0.01)
        ledger.refund(late)
        # ... these wait in vain, and what they may have taken is given back as soon as the server says so ...
        for some in await waiting:
            ledger.refund(some)
        # ... and these are decided here, if the freeze is long enough.
        for _ in range(10):
            ledger.refund(await ledger.take(2))
        await client.until(lambda: not redis.frozen)
        await client.back(ledger.asked)

        ledger.refund(await ledger.take(20))
        held = await ledger.take(3)
        await settled(ledger, slots=3)
        ledger.refund(held)
        await settled(ledger, slots=0)
        assert ledger.modes[-23:] == ["store"] * 23
        if seconds > 1:
            assert ledger.modes.count("local") >= 20
            assert client.events() == ["store_lost", "store_back"]
        assert thaw.when() < asyncio.get_running_loop().time()


async def settled(ledger: Ledger, slots: int) -> None:
    """Wait until the store has counted what it should, and see that it stays so."""
    found = (-1, -1, -1)
    for _ in range(200):
        found = await ledger.counted()
        if found == (ledger.tokens + slots * RESERVED, ledger.requests + slots, slots):
            break
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.2)
    assert await ledger.counted() == (ledger.tokens + slots * RESERVED, ledger.requests + slots, slots), found


async def test_what_a_server_refused_to_write_is_counted_when_it_writes_again(redis: Server) -> None:
    """Its answer says that nothing was done, so this can be asked for twice."""
    async with asker(redis.url) as client:
        ledger = Ledger(client)
        held = await ledger.take(10)
        redis.ask("REPLICAOF", "127.0.0.1", 1)
        ledger.refund(held)
        await client.until(lambda: client.meter.errors.get("readonly", 0) > 0)
        await client.lose(ledger.asked)
        redis.ask("REPLICAOF", "NO", "ONE")
        await client.back(ledger.asked)
        await settled(ledger, slots=0)
