"""Whatever the gateway writes to Redis, of its own accord it goes away. API keys stay."""

from __future__ import annotations

from typing import Any

from backends.store.keys import open_keys
from policies.identity.api_keys import KeyEntry, digest, new_key
from policies.identity.keyring import created
from tests.fakes.backend import Backend
from tests.fakes.redis_servers import Server
from tests.faults.limit_rig import limited
from tests.flow.harness import gateway_with

# Every kind of limit, strategy and `per` that there is.
LIMITS: list[dict[str, Any]] = [
    {"concurrency": 4, "per": "key"},
    {"requests": "20/hour", "per": "user"},
    {"requests": "1000/hour", "strategy": "fixed_window", "per": "ip"},
    {"requests": "1000/hour", "strategy": "sliding_window", "per": "tenant"},
    {"requests": "1000/day", "strategy": "moving_window", "per": "model"},
    {"tokens": "100k/minute", "per": "tenant+model"},
    {"tokens": "5M/month", "strategy": "fixed_window", "per": "all"},
    {"output_tokens": "20k/minute", "per": "key"},
    {"output_tokens": "1M/day", "strategy": "fixed_window", "per": "tenant"},
]


def lifetimes(redis: Server) -> dict[str, int]:
    """Every key, and for how many milliseconds it will be there; -1 is for ever."""
    found, cursor = set[str](), "0"
    while True:
        cursor, some = redis.ask("SCAN", cursor, "COUNT", 100)
        found.update(some)
        if cursor == "0":
            # One that has ended meanwhile says -2.
            return {key: left for key in found if (left := redis.ask("PTTL", key)) != -2}


async def stored_key(redis: Server, name: str) -> list[tuple[str, str]]:
    """A new key in the store, as a client sends it."""
    key = new_key()
    entry = KeyEntry(id=name, sha256=digest(key), tenant="acme", plan="test", created=1_763_650_057.0)
    async with open_keys(redis.url, None, "sluice") as keys:
        await keys.change(lambda entries: created(entries, entry))
    return [("authorization", f"Bearer {key}")]


async def test_every_key_in_redis_has_an_end_but_those_of_api_keys(backend: Backend, redis: Server) -> None:
    redis.start()
    policy = limited(redis.url, *LIMITS, timeout="5s", on_outage="closed")
    policy["auth"] = {"api_keys": {"file": ..., "store": True}}
    first, second = [await stored_key(redis, name) for name in ("k1", "k2")]
    async with gateway_with(backend, policy=policy) as gw:
        backend.streams("a", "b", usage=True)
        asked = [gw.chat_request(headers=first, stream=number % 2 == 0) for number in range(25)]
        statuses = [(await gw.send(data)).status for data in asked]
        assert (statuses[:20], statuses[-1]) == ([200] * 20, 429)
        # A stream that is open holds a slot.
        backend.streams("a", "b", hold=2)
        async with await gw.connect() as client:
            await client.send(gw.chat_request(headers=second))
            await client.until(b'"a"')
            assert (await gw.send(gw.request("GET", "/v1/usage", headers=first), method="GET")).status == 200
            during = lifetimes(redis)
            backend.release.set()
            await client.until(b"[DONE]")
        assert gw.total("store_errors_total") == 0
    for found in (during, lifetimes(redis)):
        assert found.pop("sluice:keys:v1") == -1
        # A month's window is the longest; what holds slots is renewed for twice a lease's lifetime.
        assert all(0 < left <= 31 * 86_400_000 for left in found.values()), found
    # Every rule has left something to look at, and so has the heartbeat.
    assert all(any(f"test.{number}:" in key for key in during) for number in range(len(LIMITS))), during
    assert "{sluice:limits:v1}:processes" in during
