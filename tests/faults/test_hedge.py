"""A second attempt beside a slow first one: whoever is first, and whatever breaks or leaves, one answer reaches the
client whole and nothing of the other is left."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.control.policy_loader import StartError
from tests.fakes.backend import LAST_CHUNK, STREAM_HEAD, Backend, Connection, Request, Script, chunked, plain
from tests.fakes.client import Answer
from tests.fakes.listeners import full_backlog, refusing
from tests.faults.scenes import dies, pool, route, steps
from tests.flow.harness import Running, eventually, gateway_with

HEDGE = {"after": "50ms", "budget": 1}
SAID = (b'{"said":"one"}', b'{"said":"another"}')
SOON = 2.0
"""Seconds in which a loser's socket is closed: it is some milliseconds, and a busy machine may stand still."""


def hedged(
    *, retry: dict[str, Any] | None = None, hedge: dict[str, Any] | None = None, **timeouts: str
) -> dict[str, Any]:
    patient = {"first_byte": "10s", "first_byte_plain": "10s", "connect": "10s", **timeouts}
    return {**route(retry=retry, **patient), "hedge": {**HEDGE, **(hedge or {})}}


def in_order(*urls: Backend | str, **settings: Any) -> dict[str, Any]:
    """A policy whose pool asks an idle endpoint that stands before another first."""
    listed = [{"url": one if isinstance(one, str) else one.url, "weight": 8 >> at} for at, one in enumerate(urls)]
    return pool(balance="least_requests", endpoints=listed, **settings)


def asks(gw: Running, **fields: Any) -> asyncio.Task[Answer]:
    """A request beside what else the test does."""
    return asyncio.get_running_loop().create_task(gw.ask(**fields), name="request")


def silent(head: bytes = STREAM_HEAD) -> Script:
    """Takes the request, sends a head and no content."""

    async def script(c: Connection, request: Request) -> None:
        await c.send(head)
        await c.stall()

    return script


async def closed_soon(backend: Backend) -> None:
    await backend.all_closed(timeout=SOON)


@pytest.mark.parametrize("head", [b"", STREAM_HEAD], ids=["no head", "a head and no content"])
async def test_the_second_attempt_wins_and_the_first_is_left_at_once(
    backend: Backend, other: Backend, head: bytes
) -> None:
    backend.does(silent(head))
    other.streams("a", "b")
    async with gateway_with(backend, other, policy=in_order(backend, other), route=hedged()) as gw:
        answer = await gw.ask()
        await closed_soon(backend)
        assert (answer.status, answer.end, answer.text) == (200, "complete", "ab")
        assert answer.header("x-sluice-endpoint") == "pool-1"
        assert answer.header("x-sluice-attempts") == "2"
        (line,) = await gw.access_lines()
        assert steps(line) == [("pool-0", "hedge_lost"), ("pool-1", "ok")]
        assert gw.total("hedges_total", pool="pool") == 1
        assert gw.total("retries_total") == 0
    assert backend.attempts == other.attempts == 1
    assert backend.requests[0].body == other.requests[0].body


async def test_the_first_attempt_wins_and_the_second_is_left_at_once(backend: Backend, other: Backend) -> None:
    backend.streams("a", "b", hold=0)
    other.does(silent())
    async with gateway_with(backend, other, policy=in_order(backend, other), route=hedged()) as gw:
        asking = asks(gw)
        await other.requested()
        backend.release.set()
        answer = await asking
        await closed_soon(other)
        assert (answer.end, answer.text, answer.header("x-sluice-endpoint")) == ("complete", "ab", "pool-0")
        (line,) = await gw.access_lines()
        assert steps(line) == [("pool-1", "hedge_lost"), ("pool-0", "ok")]


async def test_who_answers_in_time_is_not_hedged(backend: Backend, other: Backend) -> None:
    for one in (backend, other):
        one.streams("a", "b", gap=0.05)
    async with gateway_with(backend, other, policy=in_order(backend, other), route=hedged(hedge={"after": "2s"})) as gw:
        assert await gw.chat() == "ab"
        assert gw.total("hedges_total") == 0
    assert backend.attempts + other.attempts == 1


@pytest.mark.parametrize("whole", [True, False], ids=["whole answers", "streams that go on"])
async def test_two_answers_of_one_turn_are_one_answer(backend: Backend, other: Backend, whole: bool) -> None:
    """Both backends are in this loop: what both write in one turn is read in one turn of the gateway."""
    go = asyncio.Event()

    def script(said: bytes) -> Script:
        async def both(c: Connection, request: Request) -> None:
            await go.wait()
            if whole:
                await c.send(plain(200, said))
                return
            await c.send(STREAM_HEAD + chunked(b"data: " + said + b"\n\n"))
            await asyncio.sleep(0.02)
            await c.send(chunked(b"data: [DONE]\n\n") + LAST_CHUNK)

        return both

    async with gateway_with(
        backend, other, policy=in_order(backend, other), route=hedged(hedge={"after": "20ms"})
    ) as gw:
        for number in range(10):
            go.clear()
            backend.does(script(SAID[0]))
            other.does(script(SAID[1]))
            asking = asks(gw, stream=not whole)
            await backend.requested(number + 1)
            await other.requested(number + 1)
            go.set()
            answer = await asking
            said = SAID[answer.header("x-sluice-endpoint") == "pool-1"]
            assert (answer.status, answer.end) == (200, "complete")
            assert answer.body == (said if whole else b"data: " + said + b"\n\ndata: [DONE]\n\n")
        lines = await gw.access_lines()
        assert all(len(line["trail"]) == 2 and line["outcome"] == "ok" for line in lines)
        losers = {line["trail"][0][1] for line in lines}
        assert losers <= ({"ok", "hedge_lost"} if whole else {"hedge_lost"})


@pytest.mark.parametrize("phase", ["first_byte", "connect"])
async def test_a_client_that_leaves_ends_both(backend: Backend, other: Backend, phase: str) -> None:
    backend.does(silent())
    other.does(silent())
    with full_backlog() as port:
        second: Backend | str = other if phase == "first_byte" else f"http://127.0.0.1:{port}"
        async with gateway_with(backend, second, policy=in_order(backend, second), route=hedged()) as gw:
            async with await gw.connect() as client:
                await client.send(gw.chat_request())
                await eventually(lambda: gw.total("hedges_total") == 1, "never hedged")
                if phase == "first_byte":
                    await other.requested()
                assert gw.total("endpoint_in_flight") == 2
            await closed_soon(backend)
            await closed_soon(other)
            (line,) = await gw.access_lines(1)
            assert (line["status"], line["client_gone"]) == (499, "first_byte")
            assert sorted(steps(line)) == [("pool-0", "client_gone"), ("pool-1", "client_gone")]


async def test_a_client_that_leaves_in_the_stream_of_the_winner_ends_it(backend: Backend, other: Backend) -> None:
    backend.does(silent())
    other.streams("one", "two", hold=2)
    async with gateway_with(backend, other, policy=in_order(backend, other), route=hedged()) as gw:
        async with await gw.connect() as client:
            await client.send(gw.chat_request())
            await client.until(b"one")
            await closed_soon(backend)
        await closed_soon(other)
        (line,) = await gw.access_lines(1)
        assert steps(line) == [("pool-0", "hedge_lost"), ("pool-1", "client_gone")]
        assert line["client_gone"] == "stream"


async def test_the_deadline_ends_both(backend: Backend, other: Backend) -> None:
    backend.does(silent())
    other.does(silent())
    settings = in_order(backend, other, ejection={"consecutive": 1}, breaker={"failures": 1})
    async with gateway_with(backend, other, policy=settings, route=hedged()) as gw:
        answer = await gw.send(gw.chat_request(headers=[("x-sluice-deadline", "1s")]))
        assert (answer.status, answer.error["code"]) == (504, "deadline_exceeded")
        await closed_soon(backend)
        await closed_soon(other)
        (line,) = await gw.access_lines()
        assert sorted(steps(line)) == [("pool-0", "too_slow"), ("pool-1", "too_slow")]
        # Neither had the time that the route gives it.
        assert gw.total("ejections_total") == gw.total("breaker_state", state="open") == 0


@pytest.mark.parametrize(
    ("fails", "outcome"),
    [(dies("rst"), "no_answer"), (dies("fin"), "no_answer"), (503, "503"), (500, "500")],
    ids=["rst", "fin", "503", "500"],
)
@pytest.mark.parametrize("which", [0, 1], ids=["the first", "the second"])
async def test_where_one_fails_the_other_goes_on(
    backend: Backend, other: Backend, fails: Script | int, outcome: str, which: int
) -> None:
    good, bad = (other, backend) if which == 0 else (backend, other)
    asked = asyncio.Event()

    async def fail(c: Connection, request: Request) -> None:
        await asked.wait()
        if isinstance(fails, int):
            await c.send(plain(fails, b'{"error":{"message":"no"}}'))
        else:
            await fails(c, request)

    bad.does(fail)
    good.streams("a", hold=0)
    async with gateway_with(backend, other, policy=in_order(backend, other), route=hedged()) as gw:
        asking = asks(gw)
        await other.requested()
        asked.set()
        await eventually(lambda: gw.total("attempts_total") == 1, "the failure was never settled")
        good.release.set()
        answer = await asking
        assert (answer.status, answer.end, answer.text) == (200, "complete", "a")
        (line,) = await gw.access_lines()
        assert steps(line) == [(f"pool-{which}", outcome), (f"pool-{1 - which}", "ok")]
        assert gw.total("retries_total") == 0


async def test_where_both_fail_a_third_is_asked(backend: Backend, other: Backend) -> None:
    together = asyncio.Event()

    async def dies_later(c: Connection, request: Request) -> None:
        await together.wait()
        c.rst()

    backend.does(dies_later)
    other.does(dies_later)
    async with Backend() as third:
        third.streams("a")
        async with gateway_with(backend, other, third, policy=in_order(backend, other, third), route=hedged()) as gw:
            asking = asks(gw)
            await other.requested()
            together.set()
            answer = await asking
            assert answer.text == "a"
            (line,) = await gw.access_lines()
            assert sorted(steps(line)[:2]) == [("pool-0", "no_answer"), ("pool-1", "no_answer")]
            assert steps(line)[2:] == [("pool-2", "ok")]
            assert answer.header("x-sluice-attempts") == "3"


async def test_what_the_request_is_to_blame_for_is_not_waited_for_twice(backend: Backend, other: Backend) -> None:
    backend.does(silent(b""))
    other.answers(400, b'{"error":{"message":"bad","code":"x"}}')
    async with gateway_with(backend, other, policy=in_order(backend, other), route=hedged()) as gw:
        answer = await gw.ask()
        assert (answer.status, answer.error["message"]) == (400, "bad")
        await closed_soon(backend)
        (line,) = await gw.access_lines()
        assert steps(line) == [("pool-0", "hedge_lost"), ("pool-1", "400")]


async def test_when_the_firsts_time_is_up_the_second_goes_on(backend: Backend, other: Backend) -> None:
    backend.does(silent())
    other.streams("a", hold=0)
    # The second has a second more than the first, in which it is let go.
    route_ = hedged(first_byte="1500ms", hedge={"after": "1s"})
    async with gateway_with(backend, other, policy=in_order(backend, other), route=route_) as gw:
        asking = asks(gw)
        await backend.requested()
        await eventually(lambda: gw.total("attempts_total", outcome="too_slow") == 1, "it was never given up")
        other.release.set()
        answer = await asking
        assert (answer.end, answer.text) == ("complete", "a")
        (line,) = await gw.access_lines()
        assert steps(line) == [("pool-0", "too_slow"), ("pool-1", "ok")]
        assert gw.total("timeouts_total", kind="first_byte") == 1


async def test_when_the_time_of_both_is_up_the_client_is_told(backend: Backend, other: Backend) -> None:
    backend.does(silent())
    other.does(silent())
    async with gateway_with(
        backend, other, policy=in_order(backend, other), route=hedged(first_byte="200ms", retry={"retries": 1})
    ) as gw:
        answer = await gw.ask()
        assert (answer.status, answer.error["code"]) == (504, "first_byte_timeout")
        assert answer.header("x-should-retry") == "false"
        (line,) = await gw.access_lines()
        assert steps(line) == [("pool-0", "too_slow"), ("pool-1", "too_slow")]


async def test_a_first_attempt_that_never_connects_is_hedged_too(backend: Backend) -> None:
    backend.streams("a")
    with full_backlog() as port:
        async with gateway_with(
            f"http://127.0.0.1:{port}", backend, policy=in_order(f"http://127.0.0.1:{port}", backend), route=hedged()
        ) as gw:
            assert await gw.chat() == "a"
            (line,) = await gw.access_lines()
            assert steps(line) == [("pool-0", "hedge_lost"), ("pool-1", "ok")]


async def test_a_second_attempt_that_never_connects_leaves_no_socket(backend: Backend) -> None:
    backend.streams("a", hold=0)
    with full_backlog() as port:
        async with gateway_with(
            backend, f"http://127.0.0.1:{port}", policy=in_order(backend, f"http://127.0.0.1:{port}"), route=hedged()
        ) as gw:
            asking = asks(gw)
            await eventually(lambda: gw.total("hedges_total") == 1, "never hedged")
            backend.release.set()
            assert (await asking).text == "a"
            (line,) = await gw.access_lines()
            assert steps(line) == [("pool-1", "hedge_lost"), ("pool-0", "ok")]


async def test_a_second_attempt_that_is_refused_hurts_nobody(backend: Backend) -> None:
    backend.streams("a", hold=0)
    with refusing() as port:
        async with gateway_with(
            backend, f"http://127.0.0.1:{port}", policy=in_order(backend, f"http://127.0.0.1:{port}"), route=hedged()
        ) as gw:
            asking = asks(gw)
            await eventually(lambda: gw.total("attempts_total", outcome="not_sent") == 1, "never refused")
            backend.release.set()
            assert (await asking).text == "a"
            (line,) = await gw.access_lines()
            assert steps(line) == [("pool-1", "not_sent"), ("pool-0", "ok")]


async def test_a_second_attempt_that_is_too_slow_to_connect_hurts_nobody(backend: Backend) -> None:
    backend.streams("a", hold=0)
    with full_backlog() as port:
        url = f"http://127.0.0.1:{port}"
        async with gateway_with(backend, url, policy=in_order(backend, url), route=hedged(connect="1s")) as gw:
            asking = asks(gw)
            await eventually(lambda: gw.total("timeouts_total", kind="connect") == 1, "it was never given up")
            backend.release.set()
            assert (await asking).text == "a"
            (line,) = await gw.access_lines()
            assert steps(line) == [("pool-1", "not_sent"), ("pool-0", "ok")]


@pytest.mark.parametrize("why", ["budget", "room", "slots"])
async def test_a_hedge_that_may_not_be_holds_nothing(backend: Backend, other: Backend, why: str) -> None:
    backend.streams("a", gap=0.3)
    other.does(silent())
    settings = in_order(backend, other, max_in_flight=1 if why == "slots" else 2)
    if why == "room":
        settings["pools"]["pool"]["endpoints"][1]["max_in_flight"] = 1
    budget = 0.01 if why == "budget" else 1
    async with gateway_with(backend, other, policy=settings, route=hedged(hedge={"budget": budget})) as gw:
        if why == "room":
            (endpoint,) = gw.gateway.plane.named("pool", "pool-1")
            endpoint.in_flight += 1
        assert await hedges(gw, 1) == 0
        if why == "room":
            endpoint.in_flight -= 1
        (door,) = gw.gateway.data.admission.queues.values()
        assert (door.queue.taken, other.attempts) == (0, 0)


async def test_a_kept_connection_that_died_is_replaced_once(backend: Backend, other: Backend) -> None:
    """fault 3 holds for a route with hedges."""
    backend.streams("a").then.does(dies("rst")).then.streams("b")
    async with gateway_with(backend, policy=in_order(backend), route=hedged()) as gw:
        assert await gw.chat() == "a"
        assert await gw.chat() == "b"
        assert [steps(line) for line in await gw.access_lines()] == [[("pool-0", "ok")]] * 2


async def hedges(gw: Running, count: int, **fields: Any) -> float:
    for _ in range(count):
        assert (await gw.ask(**fields)).status == 200
    return gw.total("hedges_total")


async def test_hedges_have_a_budget(backend: Backend, other: Backend) -> None:
    for one in (backend, other):
        one.streams("a", gap=0.02)
    route_ = hedged(hedge={"after": "5ms", "budget": 0.1})
    async with gateway_with(backend, other, policy=in_order(backend, other), route=route_) as gw:
        assert 1 <= await hedges(gw, 25) <= 2


@pytest.mark.parametrize("alone", [True, False], ids=["nobody else is there", "attempts are spent"])
async def test_a_hedge_needs_somebody_else_and_an_attempt(backend: Backend, other: Backend, alone: bool) -> None:
    backend.streams("a", gap=1.2)
    other.does(dies("rst"))
    route_ = hedged(retry={"retries": 1}, hedge={"after": "800ms"})
    backends = [backend] if alone else [other, backend]
    async with gateway_with(*backends, policy=in_order(*backends), route=route_) as gw:
        assert await hedges(gw, 1) == 0


async def test_a_plain_generation_is_not_hedged_and_an_embedding_is(backend: Backend, other: Backend) -> None:
    async def slowly(c: Connection, request: Request) -> None:
        await asyncio.sleep(0.1)
        await c.send(plain(200, b'{"ok":true}'))

    for one in (backend, other):
        one.does(slowly)
    route_ = hedged(hedge={"after": "20ms"})
    route_["timeouts"]["first_byte_plain"] = "off"
    async with gateway_with(backend, other, policy=in_order(backend, other), route=route_) as gw:
        assert await hedges(gw, 2, stream=False) == 0
        assert (await gw.post("/v1/embeddings", {"model": "m", "input": "x"})).status == 200
        assert gw.total("hedges_total") == 1


@pytest.mark.parametrize("retry", ["off", {"retries": 0}])
async def test_a_hedge_without_an_attempt_to_spend_is_a_mistake(backend: Backend, retry: Any) -> None:
    with pytest.raises(StartError, match=r"hedge needs retry\.retries"):
        async with gateway_with(backend, route={"retry": retry, "hedge": HEDGE}):
            pass


async def test_a_hedge_takes_a_slot_of_the_pool_and_waits_for_none(backend: Backend, other: Backend) -> None:
    backend.does(silent())
    other.streams("a", hold=0)
    settings = in_order(backend, other, max_in_flight=3, queue={"size": 8, "wait": "10s"})
    async with gateway_with(backend, other, policy=settings, route=hedged()) as gw:
        asking = [asks(gw)]
        await other.requested()
        # Two of three slots are taken, and the next request takes the third.
        asking.append(asks(gw))
        await eventually(lambda: gw.total("endpoint_in_flight") == 3, "the third slot is free")
        await asyncio.sleep(0.15)
        assert gw.total("hedges_total") == 1
        asking.append(asks(gw))
        await eventually(lambda: gw.total("queue_depth") == 1, "it does not wait")
        backend.streams("a")
        other.release.set()
        assert [(await one).text for one in asking[:1]] == ["a"]
        # The loser's slot is the next one's, at once.
        assert (await asking[2]).text == "a"
        for connection in backend.open:
            connection.rst()
        assert (await asking[1]).text == "a"


async def test_hedges_do_not_hide_an_engine_that_hangs(backend: Backend, other: Backend) -> None:
    """`/health` says 200 and no request of this route ever waits for its timeout: a probe asks for a token."""
    backend.does(silent())
    backend.token.does(silent())
    other.streams("a")
    settings = in_order(backend, other, health={"every": "200ms", "timeout": "500ms", "suspect_every": "50ms"})
    async with gateway_with(backend, other, policy=settings, route=hedged()) as gw:
        assert (await gw.ask()).text == "a"
        assert sum(gw.total("endpoint_state", endpoint="pool-0", state=one) for one in ("suspect", "down")) == 1
        await eventually(
            lambda: gw.total("endpoint_state", endpoint="pool-0", state="down") == 1, "nobody found out", 40
        )
        assert (await gw.ask()).header("x-sluice-attempts") == "1"
        assert gw.total("ejections_total") == 0


async def test_who_yields_to_others_or_had_no_time_is_not_doubted(backend: Backend, other: Backend) -> None:
    go = asyncio.Event()

    async def once_slow(c: Connection, request: Request) -> None:
        await c.send(STREAM_HEAD + chunked(b'data: {"said":"a"}\n\n'))
        for _ in range(1000):
            if go.is_set():
                break
            await asyncio.sleep(0.01)
            await c.send(chunked(b'data: {"said":"a"}\n\n'))
        await c.send(LAST_CHUNK)

    backend.does(once_slow).then.does(silent())
    other.streams("a")
    settings = pool(balance="round_robin")
    async with gateway_with(backend, other, policy=settings, route=hedged(hedge={"after": "800ms"})) as gw:
        asking = []
        while backend.attempts < 2:
            asking.append(asks(gw))
            await asyncio.sleep(0.01)
        await asyncio.wait(asking[-1:], timeout=8)
        go.set()
        assert {(await one).status for one in asking} == {200}
        assert gw.total("attempts_total", outcome="hedge_lost", endpoint="pool-0") == 1
        assert gw.total("endpoint_state", state="suspect") == 0


@pytest.mark.parametrize("winner", [0, 1], ids=["the first wins", "the second wins"])
async def test_a_leader_that_leaves_while_two_race_hurts_no_follower(
    backend: Backend, other: Backend, winner: int
) -> None:
    """With a cache several clients wait for one answer, whose first asker may leave."""
    good, bad = (backend, other) if winner == 0 else (other, backend)
    good.streams("a", "b", hold=0)
    bad.does(silent())
    route_ = {**hedged(), "cache": {"mode": "always", "ttl": "10s"}}
    async with gateway_with(backend, other, policy=in_order(backend, other), route=route_) as gw:
        async with await gw.connect() as leader:
            await leader.send(gw.chat_request())
            await backend.requested()
            following = asks(gw)
            await other.requested()
        await eventually(lambda: gw.total("endpoint_in_flight") == 2, "they were left")
        await asyncio.sleep(0.05)
        assert gw.total("endpoint_in_flight") == 2
        good.release.set()
        answer = await following
        await closed_soon(bad)
        assert (answer.status, answer.end, answer.text) == (200, "complete", "ab")
        line = next(line for line in await gw.access_lines() if line["trail"])
        assert steps(line) == [(f"pool-{1 - winner}", "hedge_lost"), (f"pool-{winner}", "ok")]
        assert (await gw.ask()).header("x-sluice-cache") == "hit"


async def test_where_both_fail_the_fallback_answers(backend: Backend, other: Backend) -> None:
    together = asyncio.Event()

    async def dies_later(c: Connection, request: Request) -> None:
        await together.wait()
        c.rst()

    for one in (backend, other):
        one.does(dies_later).then.does(dies("rst"))
    route_ = {**hedged(), "fallback": [{"message": "busy"}]}
    async with gateway_with(backend, other, policy=in_order(backend, other), route=route_) as gw:
        asking = asks(gw)
        await other.requested()
        together.set()
        answer = await asking
        assert (answer.status, answer.text, answer.header("x-sluice-degraded")) == (200, "busy", "message")
        (line,) = await gw.access_lines()
        assert {outcome for _, outcome in steps(line)} == {"no_answer"}
