"""Faults 54 to 60: a store that is away, slow, read-only, empty, full, or talks nonsense. What it adds to a request is
`store.timeout` for the first few and then nothing; the declared policy holds; it is back within 2 s."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import pytest

from backends.store.base import LEASE_LIFETIME
from backends.store.outage import FAILURES
from policies.config.settings.auth import LimitSettings
from policies.config.units import RateValue
from policies.limits import Demand, Granted, LimitRefused
from policies.limits.rules import Outage
from tests.contracts.limit_stages import START, granted, one, plan, take
from tests.contracts.redis_stage import redis_stage
from tests.fakes.redis_servers import Server, cluster, keys, sentinels, server
from tests.fakes.store_proxy import store_proxy
from tests.faults.store_client import BACK_WITHIN, MANY, TIMEOUT, Asked, Asker, asker
from tests.pace import Watch

# Beyond the timeout: two cores that others use as well.
SLACK = 1.0
# Where the store is well, so that a machine which stands still is not taken for an outage.
PATIENT = 2.0
ROOT = Path(__file__).parents[2]
DAY = 86400


@pytest.fixture
def redis() -> Iterator[Server]:
    with server() as started:
        yield started


def check_lost(lost: list[Asked], client: Asker, mode: str = "local") -> None:
    """A few have waited, none longer than it may take; one line of the log says so."""
    assert 0 < len(lost) <= FAILURES
    assert all(one.seconds <= TIMEOUT + SLACK and one.answer.mode == mode for one in lost), lost
    assert client.events() == ["store_lost"]
    assert client.meter.modes == ["store", mode]


# -- 54: away, frozen, slow


async def test_nobody_is_there_at_the_start_and_comes_later(redis: Server) -> None:
    redis.stop()
    watch = Watch()
    async with asker(redis.url) as client:
        assert watch.own < 4
        asked = client.plan(*MANY)
        assert not (await client.ask(asked)).waited
        assert await client.mode(asked) == "local"
        redis.start()
        await client.back(asked)
        assert client.events() == ["store_lost", "store_back"]
        assert client.meter.modes == ["store", "local", "store"]


async def test_a_server_that_does_not_even_refuse_does_not_hold_up_the_start(redis: Server) -> None:
    redis.freeze()
    watch = Watch()
    async with asker(redis.url) as client:
        assert watch.own < 4
        asked = client.plan(*MANY)
        assert await client.mode(asked) == "local"
        redis.thaw()
        await client.back(asked)


async def test_connecting_may_take_longer_than_a_request_may_wait(redis: Server) -> None:
    """At the start nobody waits yet, so nothing was lost and nothing is said."""
    async with store_proxy(redis.port) as proxy:
        proxy.first_delay = 3 * TIMEOUT
        # A database that is not the first has to be chosen: that is the reply which is late.
        async with asker(proxy.url.replace("/0", "/1")) as client:
            assert await client.mode(client.plan(*MANY)) == "store"
            assert (client.said, client.meter.errors, client.meter.modes) == ([], {}, ["store"])
            assert proxy.connections == 1


async def test_a_first_answer_that_is_late_is_asked_for_again(redis: Server) -> None:
    async with store_proxy(redis.port) as proxy:
        proxy.first_delay = 3 * TIMEOUT
        asyncio.get_running_loop().call_later(1.5 * TIMEOUT, setattr, proxy, "first_delay", 0.0)
        async with asker(proxy.url) as client:
            assert await client.mode(client.plan(*MANY)) == "store"
            assert client.said == [] and client.meter.modes == ["store"]
            assert 0 < client.meter.errors["timeout"] < FAILURES


@pytest.mark.parametrize("how", ["absent", "frozen", "slow", "forbidden"])
async def test_what_is_wrong_at_the_start_is_said_once(redis: Server, how: str) -> None:
    async with store_proxy(redis.port) as proxy:
        proxy.delay = 2 * TIMEOUT if how == "slow" else 0.0
        if how == "absent":
            redis.stop()
        elif how == "frozen":
            redis.freeze()
        elif how == "forbidden":
            redis.ask("ACL", "SETUSER", "default", "-evalsha")
        async with asker(proxy.url if how == "slow" else redis.url) as client:
            asked = client.plan(*MANY)
            assert await client.mode(asked) == "local"
            # As long as several probes.
            await asyncio.sleep(0.8)
            kind = {"absent": "connection", "forbidden": "noauth"}.get(how, "timeout")
            assert [(event, what["kind"]) for event, what in client.said] == [("store_lost", kind)]
            assert client.meter.modes == ["store", "local"]
            assert client.meter.errors[kind] >= 1
            if how == "absent":
                redis.start()
            elif how == "frozen":
                redis.thaw()
            elif how == "forbidden":
                redis.ask("ACL", "SETUSER", "default", "+evalsha")
            proxy.delay = 0.0
            await client.back(asked)
            assert client.events() == ["store_lost", "store_back"]


@pytest.mark.parametrize("how", ["stopped", "frozen"])
@pytest.mark.parametrize("policy", ["local", "open", "closed"])
async def test_while_it_is_away_the_declared_policy_holds(redis: Server, how: str, policy: Outage) -> None:
    async with asker(redis.url, on_outage=policy) as client:
        asked = client.plan(LimitSettings(requests=RateValue(50, DAY)), on_outage=policy)
        assert await client.mode(asked) == "store"
        redis.stop() if how == "stopped" else redis.freeze()
        lost = await client.lose(asked)
        check_lost(lost, client, policy)

        answers = [await client.ask(asked) for _ in range(100)]
        assert all(not one.waited for one in answers)
        granted = [one.answer for one in answers if isinstance(one.answer, Granted)]
        refused = [one.answer for one in answers if isinstance(one.answer, LimitRefused)]
        if policy == "local":
            # All of them together are this process's share, and it is the only one.
            assert len(granted) == 50 - len(lost) - 1
            assert all(one.rule is asked[0].rule and one.retry_after > 0 for one in refused)
        else:
            assert len(granted) == (100 if policy == "open" else 0)
            assert all(one.retry_after == 1.0 for one in refused)

        redis.start() if how == "stopped" else redis.thaw()
        await client.back(asked)
        assert client.events() == ["store_lost", "store_back"]


async def test_each_rule_has_a_policy_of_its_own(redis: Server) -> None:
    limits = [
        LimitSettings(requests=RateValue(5, DAY), on_outage="open"),
        LimitSettings(tokens=RateValue(50, DAY), on_outage="local"),
    ]
    async with asker(redis.url) as client:
        asked = client.plan(*limits)
        strict = client.plan(*limits, LimitSettings(concurrency=1), on_outage="closed")
        assert await client.mode(asked) == "store"
        redis.stop()
        await client.lose(asked)
        answers = [(await client.ask(asked)).answer for _ in range(60)]
        assert sum(isinstance(answer, Granted) for answer in answers) in range(50 - FAILURES - 1, 51)
        answer = (await client.ask(strict)).answer
        assert isinstance(answer, LimitRefused) and answer.mode == "closed" and answer.rule is strict[2].rule


@pytest.mark.parametrize("strategy", ["sliding_window", "moving_window"])
async def test_windows_are_counted_here_while_it_is_away(redis: Server, strategy: Literal["sliding_window"]) -> None:
    async with asker(redis.url) as client:
        asked = client.plan(
            LimitSettings(requests=RateValue(20, 60), strategy=strategy), LimitSettings(tokens=RateValue(1000, DAY))
        )
        assert await client.mode(asked) == "store"
        redis.freeze()
        answers = [await client.ask(asked) for _ in range(40)]
        assert {one.answer.mode for one in answers} == {"local"}
        assert sum(one.seconds for one in answers) < FAILURES * (TIMEOUT + SLACK) + 0.3
        assert sum(isinstance(one.answer, Granted) for one in answers) == 20
        redis.thaw()
        await client.back(asked)
        assert client.events() == ["store_lost", "store_back"]


async def test_shares_are_parts_of_the_limit(redis: Server) -> None:
    async with asker(redis.url) as one, asker(redis.url) as two, asker(redis.url) as three, asker(redis.url) as last:
        asked = last.plan(LimitSettings(requests=RateValue(100, DAY)), LimitSettings(concurrency=2))
        assert [client.meter.errors for client in (one, two, three, last)] == [{}] * 4
        redis.freeze()
        await last.lose(asked)
        lost = last.said[0][1]
        assert lost["processes"] == 4, "as many as were there when it was lost"
        answers = [(await last.ask(asked)).answer for _ in range(30)]
        held = [answer for answer in answers if isinstance(answer, Granted)]
        assert len(held) <= 1, "a quarter of two slots is one"
        redis.thaw()


@pytest.mark.parametrize("seconds", [0.4, 2.0])
async def test_it_is_slow(redis: Server, seconds: float) -> None:
    async with store_proxy(redis.port) as proxy, asker(proxy.url) as client:
        asked = client.plan(*MANY)
        assert await client.mode(asked) == "store"
        proxy.delay = seconds
        check_lost(await client.lose(asked), client)
        for _ in range(20):
            assert not (await client.ask(asked)).waited
            await asyncio.sleep(0.03)
        assert client.events() == ["store_lost"], "slow is away, and is not believed anew while it stays so"
        proxy.delay = 0.0
        await client.back(asked, BACK_WITHIN + seconds)
        assert set(client.meter.errors) <= {"timeout", "connection"}


async def test_a_single_late_answer_is_nothing(redis: Server) -> None:
    async with store_proxy(redis.port) as proxy, asker(proxy.url) as client:
        asked = client.plan(*MANY)
        proxy.delay = TIMEOUT * 1.5
        late = await client.ask(asked)
        assert late.answer.mode == "local"
        proxy.delay = 0.0
        await asyncio.sleep(TIMEOUT)
        assert await client.mode(asked) == "store"
        assert client.said == []
        assert client.meter.errors == {"timeout": 1}
        # What came too late was given back: this process's share has it.
        await remaining(client, asked, lambda left: left == [100_000, 1000])
        assert proxy.connections == 1


async def test_a_loop_that_stood_still_is_no_outage(redis: Server) -> None:
    async with asker(redis.url) as client:
        asked = client.plan(*MANY)
        await client.ask(asked)
        for _ in range(5):
            waiting = client.store.take(asked, "lease")
            assert isinstance(waiting, asyncio.Future)
            await asyncio.sleep(0)
            time.sleep(TIMEOUT * 2)  # noqa: ASYNC251  # what is tested
            assert (await waiting).mode == "store"
        assert client.meter.errors == {}


async def remaining(client: Asker, asked: Sequence[Demand], true: Callable[[list[int]], bool]) -> None:
    """Wait until what is left of each limit is so."""
    ends = time.monotonic() + 10
    while not true(left := [level.remaining for level in await client.store.seen(asked)]):
        assert time.monotonic() < ends, left
        await asyncio.sleep(0.05)


async def test_an_idle_connection_that_was_closed_is_made_anew_and_nobody_notices(redis: Server) -> None:
    async with asker(redis.url, timeout=PATIENT) as client:
        asked = client.plan(*MANY)
        for _ in range(3):
            assert await client.mode(asked) == "store"
            await asyncio.sleep(0.02)
            redis.ask("CLIENT", "KILL", "TYPE", "normal")
            await asyncio.sleep(0.3)
        assert await client.mode(asked) == "store"
        assert client.said == []


async def test_what_was_settled_meanwhile_is_carried_out_when_it_is_back(redis: Server) -> None:
    async with asker(redis.url) as client:
        asked = client.plan(LimitSettings(tokens=RateValue(100, 30 * DAY)), LimitSettings(concurrency=5))
        held = [(await client.ask(asked)).answer for _ in range(3)]
        redis.freeze()
        await client.lose(asked)
        for answer in held:
            assert isinstance(answer, Granted)
            client.store.refund(answer, [(asked[0], 9)])
        await asyncio.sleep(0.3)
        redis.thaw()
        await client.back(asked)
        # What was asked while it froze may have been counted there, and nobody knows: a slot is given back in any case.
        await remaining(client, asked, lambda left: 70 - FAILURES <= left[0] <= 70 and left[1] == 5)


# -- 55: restarted


async def test_a_restarted_server_is_taught_anew_and_leases_are_there_again(redis: Server) -> None:
    async with asker(redis.url) as client:
        asked = client.plan(LimitSettings(requests=RateValue(10, DAY)), LimitSettings(concurrency=5))
        held = [(await client.ask(asked)).answer for _ in range(3)]
        redis.stop()
        redis.start()
        await client.back(asked)
        # What was counted is lost with the server; who is still there is not.
        assert [level.remaining for level in await client.store.seen(asked)][1] == 2
        for answer in held:
            assert isinstance(answer, Granted)
            client.store.refund(answer)
        await remaining(client, asked, lambda left: left[1] == 5)


async def test_scripts_that_were_forgotten_are_sent_again(redis: Server) -> None:
    async with asker(redis.url, timeout=PATIENT) as client:
        asked = client.plan(*MANY, LimitSettings(requests=RateValue(1000, 60), strategy="sliding_window"))
        for _ in range(3):
            assert await client.mode(asked) == "store", (client.meter.errors, client.said)
            await asyncio.sleep(0.02)
            redis.ask("SCRIPT", "FLUSH")
            answers = await asyncio.gather(*(client.ask(asked) for _ in range(20)))
            assert {one.answer.mode for one in answers} == {"store"}
            for one in answers:
                assert isinstance(one.answer, Granted)
                client.store.refund(one.answer)
        assert client.meter.errors == {}


# -- 56: it answers with errors


async def test_it_is_read_only(redis: Server) -> None:
    async with asker(redis.url) as client:
        asked = client.plan(*MANY)
        assert await client.mode(asked) == "store"
        redis.ask("REPLICAOF", "127.0.0.1", 1)
        lost = await client.lose(asked)
        check_lost(lost, client)
        assert client.meter.errors["readonly"] >= 1
        redis.ask("REPLICAOF", "NO", "ONE")
        await client.back(asked)


async def test_its_memory_is_full(redis: Server) -> None:
    async with asker(redis.url) as client:
        asked = client.plan(*MANY)
        assert await client.mode(asked) == "store"
        redis.ask("CONFIG", "SET", "maxmemory", "1")
        check_lost(await client.lose(asked), client)
        assert client.meter.errors["oom"] >= FAILURES
        redis.ask("CONFIG", "SET", "maxmemory", "0")
        await client.back(asked)


async def test_it_is_loading(redis: Server) -> None:
    for start in range(0, 4000, 1000):
        redis.ask("MSET", *[word for number in range(start, start + 1000) for word in (f"k{number}", "x" * 500)])
    redis.ask("SAVE")
    async with asker(redis.url) as client:
        asked = client.plan(*MANY)
        assert await client.mode(asked) == "store"
        redis.stop()
        # 4,000 keys of half a millisecond each.
        redis.start("--key-load-delay", "500", "--loading-process-events-interval-bytes", "1024", wait=False)
        check_lost(await client.lose(asked), client)
        await client.back(asked, 15.0)
        assert client.meter.errors.get("loading", 0) >= 1, client.meter.errors


async def test_it_wants_a_password() -> None:
    with server("--requirepass", "secret") as redis:
        async with asker(redis.url) as client:
            assert await client.mode(client.plan(*MANY)) == "local"
            assert client.said[0][1]["kind"] == "noauth"
            assert client.meter.errors.keys() <= {"noauth"}
        async with asker(redis.url, password="wrong") as client:
            assert await client.mode(client.plan(*MANY)) == "local"
            assert client.said[0][1]["kind"] == "noauth"
        async with asker(redis.url, password="secret") as client:
            assert await client.mode(client.plan(*MANY)) == "store"


@pytest.mark.timeout(90)
async def test_sentinels_choose_another_server() -> None:
    with sentinels() as watched:
        async with asker(watched.url) as client:
            asked = client.plan(*MANY)
            assert await client.mode(asked) == "store"
            before = watched.primary
            before.stop()
            check_lost(await client.lose(asked), client)
            await client.until(lambda: watched.primary is not before)
            await client.back(asked)
            assert client.events() == ["store_lost", "store_back"]
            # The old one comes back as a replica, and nobody asks it.
            before.start()
            await asyncio.sleep(1.0)
            assert await client.mode(asked) == "store"


@pytest.mark.timeout(90)
async def test_a_node_of_the_cluster_is_lost() -> None:
    with cluster(replicas=True) as nodes:
        async with asker(nodes.url) as client:
            asked = client.plan(*MANY)
            assert await client.mode(asked) == "store"
            owner = nodes.owner("{sluice:limits:v1}:")
            owner.stop()
            check_lost(await client.lose(asked), client)
            await client.until(lambda: nodes.owner("{sluice:limits:v1}:") is not owner)
            await client.back(asked)
            assert client.events() == ["store_lost", "store_back"]


@pytest.mark.timeout(90)
async def test_the_slot_moves_to_another_node() -> None:
    with cluster() as nodes:
        async with asker(nodes.url, timeout=PATIENT) as client:
            asked = client.plan(*MANY)
            assert await client.mode(asked) == "store"
            owner = nodes.owner("{sluice:limits:v1}:")
            other = next(one for one in nodes.nodes if one is not owner)
            slot = owner.ask("CLUSTER", "KEYSLOT", "{sluice:limits:v1}:")
            for key in owner.ask("CLUSTER", "GETKEYSINSLOT", slot, 100):
                owner.ask("DEL", key)
            for node in (other, *[one for one in nodes.nodes if one is not other]):
                node.ask("CLUSTER", "SETSLOT", slot, "NODE", other.ask("CLUSTER", "MYID"))
            await client.back(asked)
            assert client.meter.errors.keys() <= {"moved"}
            assert await client.mode(asked) == "store"


# -- 57: replies out of step


@pytest.mark.parametrize(
    ("what", "tamper"),
    [
        ("one too many", lambda data: b":1\r\n" + data),
        ("somebody else's", lambda data: b"*3\r\n:1\r\n:1\r\n:1\r\n" + data),
        ("garbage", lambda data: b"HTTP/1.1 400 Bad Request\r\n\r\n"),
        ("a text", lambda data: b"+OK\r\n"),
        ("nothing", lambda data: b"*0\r\n"),
        ("nested", lambda data: b"*1\r\n*1\r\n*1\r\n:5\r\n"),
    ],
)
async def test_replies_that_are_none_of_ours_end_the_connection_and_decide_nothing(
    redis: Server, what: str, tamper: object
) -> None:
    async with store_proxy(redis.port) as proxy, asker(proxy.url) as client:
        asked = client.plan(LimitSettings(requests=RateValue(10, DAY)))
        assert await client.mode(asked) == "store"
        assert callable(tamper)
        proxy.tamper = tamper
        answers = [(await client.ask(asked)).answer]
        answers += [one.answer for one in await asyncio.gather(*(client.ask(asked) for _ in range(5)))]
        assert {answer.mode for answer in answers} == {"local"}
        assert set(client.meter.errors) <= {"other", "connection", "timeout"}
        proxy.tamper = None
        await client.back(asked)
        assert proxy.connections >= 2


async def test_a_reply_that_is_missing_is_noticed(redis: Server) -> None:
    """Where one is lost on the way, the next is not taken for it."""
    async with store_proxy(redis.port) as proxy, asker(proxy.url, timeout=3.0) as client:
        asked = client.plan(LimitSettings(requests=RateValue(10, DAY)))
        assert await client.mode(asked) == "store"
        await asyncio.sleep(0.05)
        proxy.tamper = lambda data: b""
        first = asyncio.create_task(client.ask(asked))  # noqa: TID251  # ended below
        await asyncio.sleep(0.5)
        proxy.tamper = None
        second = await client.ask(asked)
        assert second.answer.mode == "local" and (await first).answer.mode == "local"
        assert client.meter.errors == {"other": 2}
        await client.back(asked)


# -- 58: somebody dies


@pytest.mark.timeout(90)
def test_the_slots_of_a_process_that_is_killed_end_with_their_lifetime(redis: Server) -> None:
    """What becomes of them after it is in tests/contracts; here, that each has an end however its process ends."""
    command = [sys.executable, "-m", "tests.faults.limit_client", redis.url, "sluice", "50", "concurrency"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            assert process.stdin is not None and process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.stdout.readline() == "50\n"
        finally:
            process.kill()
    (bucket,) = [key for key in keys([redis]) if key.endswith("cs|k")]
    leases = redis.ask("ZRANGE", bucket, 0, -1, "WITHSCORES")
    now = time.time()  # noqa: TID251  # what the server goes by
    assert len(leases) == 100
    assert all(0 < float(score) / 1e6 - now <= LEASE_LIFETIME for score in leases[1::2])


# -- 59: clocks jump


@pytest.mark.parametrize("hours", [-1, 1])
async def test_the_servers_clock_jumps(redis: Server, hours: int) -> None:
    async with redis_stage(redis.url, [redis], redis, "jump", START) as stage:
        rules = plan(stage, LimitSettings(requests=RateValue(10, DAY)), LimitSettings(concurrency=5))
        asked = one(rules)
        held = [await granted(stage.store, asked, f"l{number}") for number in range(4)]
        stage.jump(hours * 3600.0)
        # The first reply tells of it, and leases are there again: no more get in than have place.
        await granted(stage.store, asked, "l4")
        for _ in range(100):
            if (await stage.store.seen(asked))[1].remaining == 0:
                break
            await asyncio.sleep(0.05)
        assert isinstance(await take(stage.store, asked, "l5"), LimitRefused)
        requests, slots = await stage.store.seen(asked)
        assert requests.remaining == 5 and slots.remaining == 0
        for each in held:
            stage.store.refund(each)
        await stage.settled()
        assert (await stage.store.seen(asked))[1].remaining == 4
        # What comes in does so from the new time on.
        await stage.advance(DAY / 10)
        assert (await stage.store.seen(asked))[0].remaining == 6


async def test_slots_of_who_died_before_the_servers_clock_went_back_are_not_held_for_an_hour(redis: Server) -> None:
    async with redis_stage(redis.url, [redis], redis, "back", START) as stage:
        asked = one(plan(stage, LimitSettings(concurrency=2)))
        for lease in ("a", "b"):
            await granted(stage.store, asked, lease)
        await stage.die()
        stage.jump(-3600.0)
        assert isinstance(await take(stage.store, asked, "c"), LimitRefused)
        await stage.advance(LEASE_LIFETIME + 1)
        await granted(stage.store, asked, "c")


# -- what stays behind


async def test_every_key_has_an_end(redis: Server) -> None:
    async with asker(redis.url, timeout=PATIENT) as client:
        rate = RateValue(10, 60)
        limits = [
            LimitSettings(requests=rate),
            LimitSettings(tokens=rate, strategy="fixed_window"),
            LimitSettings(concurrency=5),
        ]
        limits += [
            LimitSettings(requests=rate, strategy="sliding_window"),
            LimitSettings(requests=rate, strategy="moving_window"),
        ]
        assert (await client.ask(client.plan(*limits))).answer.mode == "store"
        left = keys([redis])
        assert len(left) >= 6 and all(milliseconds > 0 for milliseconds in left.values()), left


async def test_wherever_a_request_is_broken_off_nothing_stays_taken(redis: Server) -> None:
    async with asker(redis.url, timeout=PATIENT) as client:
        asked = client.plan(LimitSettings(requests=RateValue(1000, 30 * DAY)), LimitSettings(concurrency=100))

        async def request(number: int) -> None:
            answer = client.store.take(asked, f"r{number}")
            try:
                if isinstance(answer, asyncio.Future):
                    await answer
                await asyncio.sleep(0.01)
            finally:
                # Cancelled in the very turn in which it was answered: then it is ours to settle.
                found = answer.result() if isinstance(answer, asyncio.Future) and not answer.cancelled() else answer
                if isinstance(found, Granted):
                    client.store.refund(found, [(demand, -demand.amount) for demand in asked])

        for turn in range(60):
            task = asyncio.get_running_loop().create_task(request(turn))
            for _ in range(turn // 4):
                await asyncio.sleep(0)
            if turn % 3 == 0:
                await asyncio.sleep(0.001 * (turn % 7))
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await remaining(client, asked, lambda left: left == [1000, 100])
        assert client.meter.errors == {}
