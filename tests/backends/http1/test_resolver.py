"""fault 29: last good addresses are kept while DNS fails or is slow, changes are followed, the loop is free."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Sequence

import pytest

from backends.http1.connection_pool import ConnectionPool
from backends.http1.interface import Origin, UpstreamError
from backends.http1.resolver import FRESH, KEPT, Resolver, system_lookup
from backends.http1.timer_wheel import TimerWheel
from tests.backends.http1.rig import OK, Server, says
from tests.flow.harness import eventually
from tests.pace import Watch

AWAY = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")


class Names:
    """A DNS, asked on threads: what it answers is set by the test; a name in `hanging` is answered when it is let go.

    Letting go happens on the loop: a resolver that blocked the loop would never come to it.
    """

    def __init__(self, **answers: Sequence[str] | Exception) -> None:
        self.answers: dict[str, Sequence[str] | Exception] = dict(answers)
        self.hanging: dict[str, threading.Event] = {}
        self.asked: list[str] = []

    def hang(self, *hosts: str) -> None:
        self.hanging.update({host: threading.Event() for host in hosts})

    def let_go(self, host: str) -> None:
        self.hanging.pop(host).set()

    def __call__(self, host: str) -> Sequence[str]:
        self.asked.append(host)
        gate = self.hanging.get(host)
        if gate is not None:
            assert gate.wait(20)
        answer = self.answers[host]
        if isinstance(answer, Exception):
            raise answer
        return answer


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def names() -> AsyncIterator[Names]:
    names = Names(engine=["10.0.0.1", "10.0.0.2"])
    yield names
    for host in list(names.hanging):
        names.let_go(host)


@pytest.fixture
def resolver(names: Names, clock: Clock) -> Resolver:
    return Resolver(clock, names)


async def fails(resolver: Resolver, host: str = "engine") -> int:
    """The number of the error of DNS."""
    with pytest.raises(socket.gaierror) as caught:
        await resolver.resolve(host, 80)
    assert caught.value.errno is not None
    return caught.value.errno


async def ended(host: str) -> None:
    """Wait until no lookup of the name is under way."""
    await eventually(lambda: f"resolve {host}" not in {thread.name for thread in threading.enumerate()}, "DNS hangs")


async def asked(names: Names, times: int) -> None:
    """Wait until DNS has been asked so often."""
    await eventually(lambda: len(names.asked) >= times, "DNS is not asked")


async def test_a_name_has_its_addresses_in_the_systems_order(resolver: Resolver) -> None:
    assert await resolver.resolve("engine", 80) == [("10.0.0.1", 80), ("10.0.0.2", 80)]


async def test_localhost_is_found_by_the_system() -> None:
    found = await Resolver(asyncio.get_running_loop().time).resolve("localhost", 8000)
    assert found
    assert {address for address, _ in found} <= {"127.0.0.1", "::1"}
    assert {port for _, port in found} == {8000}
    assert len(set(found)) == len(found)


async def test_a_name_that_is_not_there_is_not_found_by_the_system() -> None:
    await fails(Resolver(asyncio.get_running_loop().time), "no-such-host.invalid")


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "2001:db8::7"])
async def test_an_address_is_not_looked_up(resolver: Resolver, names: Names, address: str) -> None:
    assert await resolver.resolve(address, 80) == [(address, 80)]
    assert names.asked == []


async def test_a_name_is_looked_up_once_however_many_ask(resolver: Resolver, names: Names) -> None:
    names.hang("engine")
    waiting = [asyncio.get_running_loop().create_task(resolver.resolve("engine", port)) for port in range(50)]
    await asked(names, 1)
    names.let_go("engine")
    found = await asyncio.gather(*waiting)
    assert [one[0] for one in found] == [("10.0.0.1", port) for port in range(50)]
    assert names.asked == ["engine"]


async def test_an_answer_is_used_for_a_second_without_asking_again(
    resolver: Resolver, names: Names, clock: Clock
) -> None:
    await resolver.resolve("engine", 80)
    clock.now += FRESH - 0.01
    await resolver.resolve("engine", 80)
    assert len(names.asked) == 1
    clock.now += 0.01
    await resolver.resolve("engine", 80)
    assert len(names.asked) == 2


async def test_a_change_of_dns_is_followed(resolver: Resolver, names: Names, clock: Clock) -> None:
    await resolver.resolve("engine", 80)
    names.answers["engine"] = ["10.0.0.9"]
    clock.now += FRESH
    assert await resolver.resolve("engine", 80) == [("10.0.0.9", 80)]


@pytest.mark.parametrize(
    "failure",
    [AWAY, socket.gaierror(socket.EAI_NONAME, "Name or service not known"), [], OSError(24, "Too many open files")],
    ids=["away", "no_name", "no_address", "no_descriptor"],
)
async def test_last_good_addresses_are_used_while_dns_fails_for_a_minute_at_most(
    resolver: Resolver, names: Names, clock: Clock, failure: Sequence[str] | Exception
) -> None:
    good = await resolver.resolve("engine", 80)
    names.answers["engine"] = failure
    for _ in range(59):
        clock.now += 1.0
        assert await resolver.resolve("engine", 80) == good
    assert len(names.asked) == 60
    clock.now = 1000.0 + KEPT
    await fails(resolver)


async def test_a_name_that_failed_is_asked_again_after_a_second(resolver: Resolver, names: Names, clock: Clock) -> None:
    names.answers["engine"] = AWAY
    assert await fails(resolver) == socket.EAI_AGAIN
    names.answers["engine"] = ["10.0.0.3"]
    clock.now += FRESH - 0.01
    assert await fails(resolver) == socket.EAI_AGAIN
    assert len(names.asked) == 1
    clock.now += 0.01
    assert await resolver.resolve("engine", 80) == [("10.0.0.3", 80)]


async def test_a_good_answer_after_a_failure_is_good_for_a_minute_again(
    resolver: Resolver, names: Names, clock: Clock
) -> None:
    good = await resolver.resolve("engine", 80)
    names.answers["engine"] = AWAY
    clock.now += 50.0
    assert await resolver.resolve("engine", 80) == good
    names.answers["engine"] = ["10.0.0.3"]
    clock.now += 9.0
    new = await resolver.resolve("engine", 80)
    names.answers["engine"] = AWAY
    clock.now += 59.0
    assert new == await resolver.resolve("engine", 80) == [("10.0.0.3", 80)]


async def test_a_slow_dns_is_waited_for_a_moment_and_then_no_more(
    resolver: Resolver, names: Names, clock: Clock
) -> None:
    good = await resolver.resolve("engine", 80)
    names.hang("engine")
    clock.now += 30.0
    begun = Watch()
    assert await resolver.resolve("engine", 80) == good
    assert begun.within(0.09, 1.0)
    clock.now += 0.1
    begun = Watch()
    for _ in range(100):
        assert await resolver.resolve("engine", 80) == good
    assert begun.own < 0.09
    assert len(names.asked) == 2


async def test_what_a_slow_dns_answers_in_the_end_is_used(resolver: Resolver, names: Names, clock: Clock) -> None:
    good = await resolver.resolve("engine", 80)
    names.hang("engine")
    names.answers["engine"] = ["10.0.0.9"]
    clock.now += 30.0
    assert await resolver.resolve("engine", 80) == good
    names.let_go("engine")
    await ended("engine")
    assert await resolver.resolve("engine", 80) == [("10.0.0.9", 80)]


async def test_while_dns_hangs_last_good_addresses_grow_old_all_the_same(
    resolver: Resolver, names: Names, clock: Clock
) -> None:
    await resolver.resolve("engine", 80)
    names.hang("engine")
    clock.now += KEPT
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await resolver.resolve("engine", 80)


async def test_who_gives_up_waiting_leaves_the_lookup_to_the_others(resolver: Resolver, names: Names) -> None:
    names.hang("engine")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await resolver.resolve("engine", 80)
    other = asyncio.get_running_loop().create_task(resolver.resolve("engine", 80))
    await asyncio.sleep(0)
    names.let_go("engine")
    assert await other == [("10.0.0.1", 80), ("10.0.0.2", 80)]
    assert names.asked == ["engine"]


async def test_names_that_hang_hold_no_other_up(resolver: Resolver, names: Names) -> None:
    hosts = [f"host-{number}" for number in range(40)]
    names.hang(*hosts)
    names.answers.update({host: ["10.0.0.7"] for host in hosts})
    waiting = [asyncio.get_running_loop().create_task(resolver.resolve(host, 80)) for host in hosts]
    await asked(names, 40)
    async with asyncio.timeout(5):
        assert await resolver.resolve("engine", 80)
    for host in hosts:
        names.let_go(host)
    assert await asyncio.gather(*waiting) == [[("10.0.0.7", 80)]] * 40


@pytest.mark.parametrize("host", ["a" * 70 + ".example", "a..b", "\udcff"])
async def test_what_is_no_name_is_an_error_of_dns(host: str) -> None:
    await fails(Resolver(asyncio.get_running_loop().time, system_lookup), host)


async def test_names_that_nobody_asks_for_any_more_are_forgotten(
    resolver: Resolver, names: Names, clock: Clock
) -> None:
    for number in range(100):
        names.answers[f"host-{number}"] = ["10.0.0.7"] if number % 2 else AWAY
        clock.now += 10.0
        try:
            await resolver.resolve(f"host-{number}", 80)
        except socket.gaierror:
            continue
    assert len(resolver._names) < 10


def test_a_loop_that_closes_under_a_lookup_is_let_go() -> None:
    names = Names(engine=["10.0.0.1"])
    names.hang("engine")

    async def give_up() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await Resolver(asyncio.get_running_loop().time, names).resolve("engine", 80)

    asyncio.run(give_up())
    names.let_go("engine")
    asyncio.run(ended("engine"))


def test_a_process_ends_while_dns_hangs() -> None:
    code = """
import asyncio, time
from backends.http1.resolver import Resolver
async def main():
    try:
        async with asyncio.timeout(0.05):
            await Resolver(time.monotonic, lambda host: time.sleep(60)).resolve("engine", 80)
    except TimeoutError:
        print("gave up")
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=True)
    assert done.stdout == "gave up\n"


def pool_with(resolver: Resolver, port: int) -> ConnectionPool:
    wheel = TimerWheel(asyncio.get_running_loop())
    return ConnectionPool(Origin("engine", port), keep_alive=4.0, wheel=wheel, resolve=resolver.resolve)


@pytest.mark.parametrize("fault", ["fails", "hangs"])
async def test_new_connections_are_made_while_dns_is_away(
    resolver: Resolver, names: Names, clock: Clock, fault: str
) -> None:
    names.answers["engine"] = ["127.0.0.1"]
    async with Server(says(OK)) as server:
        pool = pool_with(resolver, server.port)
        (await pool.connect(2.0)).abort()
        if fault == "fails":
            names.answers["engine"] = AWAY
        else:
            names.hang("engine")
        clock.now += 30.0
        (await pool.connect(2.0)).abort()
        assert len(names.asked) == 2


@pytest.mark.parametrize(("fault", "kind"), [("fails", "dns"), ("hangs", "connect_timeout")])
async def test_without_a_last_good_address_connecting_fails_within_its_timeout(
    resolver: Resolver, names: Names, fault: str, kind: str
) -> None:
    if fault == "fails":
        names.answers["engine"] = AWAY
    else:
        names.hang("engine")
    with pytest.raises(UpstreamError) as caught:
        await pool_with(resolver, 80).connect(0.1)
    assert caught.value.kind == kind
