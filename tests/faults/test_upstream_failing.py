"""Faults 32 to 34: some fail, much or little; the others, and other models, are none the worse for it."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack

import pytest

from tests.fakes.backend import Backend, Connection, Request, Script, plain
from tests.faults.scenes import dies, pool, route, state
from tests.flow.harness import Running, gateway_with
from tests.pace import Watch

ERROR = b'{"error":{"message":"failed","type":"InternalServerError","param":null,"code":500}}'


async def load(gw: Running, seconds: float, clients: int = 16) -> Counter[int]:
    """So many clients ask, one request after another: how many got which status."""
    statuses: Counter[int] = Counter()
    until = asyncio.get_running_loop().time() + seconds

    async def one() -> None:
        async with await gw.connect() as client:
            while asyncio.get_running_loop().time() < until:
                await client.send(gw.chat_request(stream=False))
                statuses[(await client.answer()).status] += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(one())
    return statuses


# -- row 32: a bulkhead between models


@pytest.mark.parametrize("how", ["rst", "500", "502", "stall"])
async def test_when_all_of_one_model_fail_the_other_model_does_not_feel_it(backend: Backend, how: str) -> None:
    async def stall(c: Connection, request: Request) -> None:
        await c.stall()

    async with Backend() as one, Backend() as two:
        for bad in (one, two):
            bad.does(dies("rst")) if how == "rst" else bad.does(stall) if how == "stall" else bad.answers(int(how))
        rule = route(first_byte_plain="50ms")
        routes = [{"model": "m", "pool": "good", **rule}, {"model": "bad", "pool": "pool", **rule}]
        settings = {**pool(breaker={"failures": 3, "open_for": "30s"}, ejection={"consecutive": 3}), "routes": routes}
        async with gateway_with(pools={"pool": [one, two], "good": [backend]}, policy=settings) as gw:
            for _ in range(30):
                worse, well = await asyncio.gather(gw.ask(model="bad", stream=False), gw.ask(stream=False))
                assert (well.status, well.header("x-sluice-attempts")) == (200, "1")
                assert worse.status in (500, 502, 503, 504)
            # Their breakers are open: they are not asked any more, and the client is told at once.
            assert (worse.status, worse.error["code"]) == (503, "no_endpoint_available")
            assert int(worse.header("retry-after") or 0) >= 1
            assert one.attempts + two.attempts < 20
            assert gw.total("ejections_total", pool="good") == 0


async def test_a_bad_model_opens_no_breaker_of_a_good_one_on_the_same_endpoint(backend: Backend) -> None:
    async def script(c: Connection, request: Request) -> None:
        await c.send(plain(502 if b'"bad' in request.body else 200, b"{}"))

    backend.does(script)
    settings = {
        **pool(breaker={"failures": 2, "open_for": "30s"}),
        "routes": [{"model": "*", "pool": "pool", **route(retry="off")}],
    }
    async with gateway_with(backend, policy=settings) as gw:
        bad = [(await gw.ask(model="bad", stream=False)).status for _ in range(5)]
        assert bad == [502, 502, 503, 503, 503]
        assert [(await gw.ask(model="good", stream=False)).status for _ in range(5)] == [200] * 5
        assert [(await gw.ask(model="bad", stream=False)).status for _ in range(2)] == [503, 503]
        # What is shown is the worst of its models.
        assert state(gw, "pool-0", "breaker_state") == "open"


# -- row 33: one of four fails half the time


def every_other(status: int | None) -> Script:
    """A script that fails every other time, on a connection of its own: never two in a row."""
    count = 0

    async def script(c: Connection, request: Request) -> None:
        nonlocal count
        count += 1
        if count % 2:
            await c.send(plain(200, b"{}", [("connection", "close")]))
            c.fin()
        elif status is None:
            c.rst()
        else:
            await c.send(plain(status, ERROR))

    return script


@pytest.mark.parametrize("status", [None, 502, 500], ids=["no answer", "502", "500"])
async def test_one_of_four_that_fails_half_the_time_is_found_by_its_rate(status: int | None) -> None:
    async with AsyncExitStack() as stack:
        bad, *good = [await stack.enter_async_context(Backend()) for _ in range(4)]
        bad.does(every_other(status))
        for one in good:
            one.answers(200, b"{}")
        settings = pool(ejection={"min_requests": 20, "error_rate": 0.4, "for": "30s"}, balance="least_requests")
        async with gateway_with(bad, *good, policy=settings, route=route()) as gw:
            statuses = [(await gw.ask(stream=False)).status for _ in range(200)]
            assert state(gw, "pool-0") == "ejected"
            assert gw.total("ejections_total", endpoint="pool-0", reason="error_rate") == 1
            # The window's minimum, and those that were under way.
            assert 18 <= bad.attempts <= 24
            # A 500 is not repeated by default; what is, no client hears of.
            assert statuses.count(200) == 200 if status != 500 else statuses.count(500) <= 12
            assert sum(one.attempts for one in good) >= 176


# -- row 34: no black hole


def slowly(status: int = 200, seconds: float = 0.02) -> Script:
    async def script(c: Connection, request: Request) -> None:
        await asyncio.sleep(seconds)
        await c.send(plain(status, b"{}"))

    return script


@pytest.mark.parametrize("how", ["503", "429", "502", "500", "rst"])
@pytest.mark.parametrize("balance", ["least_requests", "round_robin"])
async def test_an_endpoint_that_fails_fast_draws_no_traffic(balance: str, how: str) -> None:
    """It has nothing in flight all the time, which is what least_requests likes best."""
    async with AsyncExitStack() as stack:
        bad, *good = [await stack.enter_async_context(Backend()) for _ in range(4)]
        bad.does(dies("rst")) if how == "rst" else bad.answers(int(how), ERROR)
        for one in good:
            one.does(slowly())
        settings = pool(ejection={"for": "30s"}, breaker={}, balance=balance)
        # On a slow machine all clients may have failed there at once, and the good ones take their time.
        rule = route(retry={"floor": 50}, first_byte_plain="10s", connect="2s")
        async with gateway_with(bad, *good, policy=settings, route=rule) as gw:
            # Each client may have a request under way when it is found out, at the fifth failure.
            most = 16 + 5
            statuses = await load(gw, 1.4)
            first, total = bad.attempts, sum(statuses.values())
            # 500 is passed on until the endpoint is out.
            assert statuses[200] == total if how != "500" else statuses[200] >= total - most
            statuses += await load(gw, 0.5)
            later = sum(statuses.values()) - total
            assert bad.attempts - first <= 0.02 * later
            # Some come again at the end of a first pause of 1 s, before there is a second one of 2 s.
            assert first <= most + 16


async def test_the_answer_that_opens_the_last_breaker_is_passed_on_when_nobody_is_back_in_time(
    backend: Backend,
) -> None:
    backend.answers(502, ERROR, [("x-engine", "vllm")])
    settings, rule = pool(breaker={"failures": 2}), route(total="700ms")
    async with gateway_with(backend, policy=settings, route=rule) as gw:
        answer = await gw.ask(stream=False)
        assert (answer.status, answer.body, answer.header("x-engine")) == (502, ERROR, "vllm")
        assert (answer.header("x-sluice-attempts"), backend.attempts) == ("2", 2)
        assert gw.total("retries_total") == 1


async def test_the_deadline_holds_in_the_second_attempt_too(backend: Backend, other: Backend) -> None:
    async def late(c: Connection, request: Request) -> None:
        await asyncio.sleep(1.5)
        await c.send(plain(502, b"no"))

    async def silent(c: Connection, request: Request) -> None:
        await c.stall()

    backend.does(late)
    other.does(silent)
    async with gateway_with(backend, other, policy=pool(balance="round_robin")) as gw:
        took = []
        for _ in range(2):
            watch = Watch()
            answer = await gw.send(gw.chat_request(headers=[("x-sluice-deadline", "2s")]))
            took.append(watch.own)
            assert (answer.status, answer.error["code"]) == (504, "deadline_exceeded")
        # Not two seconds after the second attempt was sent.
        assert max(took) < 3


async def test_after_an_outage_long_streams_do_not_hold_the_others_up(backend: Backend) -> None:
    event = b'data: {"choices":[{"index":0,"delta":{"content":"x"}}]}\n\n'
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"

    async def goes_on(c: Connection, request: Request) -> None:
        await c.send(head + b"%x\r\n%b\r\n" % (len(event), event))
        await c.stall()

    settings = pool(breaker={"failures": 2, "open_for": "100ms", "probes": 1})
    async with gateway_with(backend, policy=settings, route=route(idle="20s") | {"retry": "off"}) as gw:
        backend.does(dies("rst"))
        while (await gw.ask()).error["code"] != "no_endpoint_available":
            pass
        backend.does(goes_on)
        await asyncio.sleep(1.2)
        async with AsyncExitStack() as stack:
            # The breaker is half open and lets one try; the stream of it has begun, and goes on and on.
            for _ in range(4):
                client = await stack.enter_async_context(await gw.connect())
                await client.send(gw.chat_request())
                await client.until(event)
            assert state(gw, "pool-0", "breaker_state") == "closed"
