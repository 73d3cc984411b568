"""FAULTS rows 32-34 and CASES: some fail, much or little; the others, and other models, are none the worse for it."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from contextlib import AsyncExitStack

import pytest

from tests.fakes.backend import STREAM_HEAD, Backend, Connection, Request, Said, Script, chunked, plain
from tests.faults.scenes import ask_first_at, dies, pool, route, state, steps, trails
from tests.flow.harness import Running, gateway_with

ERROR = b'{"error":{"message":"failed","type":"InternalServerError","param":null,"code":500}}'
LAST = b"0\r\n\r\n"


def error_event(code: int) -> bytes:
    """What vLLM writes after its 200."""
    error = {"error": {"message": "no", "type": "Error", "param": None, "code": code}}
    return b"data: " + json.dumps(error).encode() + b"\n\n"


def stream_of(*events: bytes) -> bytes:
    """A whole chat stream of these events."""
    return STREAM_HEAD + b"".join(chunked(event) for event in events) + LAST


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
        async with gateway_with(bad, *good, policy=settings, route=route()) as gw:
            statuses = await load(gw, 1.0)
            first, total = bad.attempts, sum(statuses.values())
            # 500 is passed on until the endpoint is out.
            assert statuses[200] == total if how != "500" else statuses[200] >= total - 20
            statuses += await load(gw, 0.5)
            later = sum(statuses.values()) - total
            assert bad.attempts - first <= 0.02 * later
            assert first <= 20


# -- CASES


async def test_1000_times_400_leave_the_breaker_closed(backend: Backend, other: Backend) -> None:
    backend.answers(400, ERROR)
    other.answers(422, ERROR)
    async with gateway_with(backend, other, policy=pool(ejection={}, breaker={}), route=route()) as gw:
        async with await gw.connect() as client:
            for _ in range(1000):
                await client.send(gw.chat_request())
                answer = await client.answer()
                assert (answer.status, answer.body) in ((400, ERROR), (422, ERROR))
                assert answer.header("x-sluice-attempts") == "1"
        for endpoint in ("pool-0", "pool-1"):
            assert state(gw, endpoint, "breaker_state") == "closed"
        assert gw.total("ejections_total") == 0
        assert backend.attempts + other.attempts == 1000


@pytest.mark.parametrize("code", [429, 502, 503])
async def test_a_first_event_that_is_an_error_is_repeated_elsewhere(
    backend: Backend, other: Backend, code: int
) -> None:
    role, *_ = Said(("a",)).events()
    backend.raw(stream_of(role, error_event(code), b"data: [DONE]\n\n"), keep=True)
    other.streams("a", "b")
    async with gateway_with(backend, other, policy=pool(), route=route()) as gw:
        answer, line = await ask_first_at(gw, "pool-0")
        assert (answer.text, answer.end) == ("ab", "complete")
        assert b"error" not in answer.body
        assert steps(line) == [("pool-0", str(code)), ("pool-1", "ok")]


@pytest.mark.parametrize(("code", "listed"), [(500, False), (400, False), (503, True)])
async def test_a_first_event_that_is_an_error_passes_as_it_came_when_it_is_not_repeated(
    backend: Backend, code: int, listed: bool
) -> None:
    backend.raw(stream_of(error_event(code), b"data: [DONE]\n\n"), keep=True)
    settings = pool(ejection={"consecutive": 1, "max_ejected": 1.0}, breaker={"failures": 1, "open_for": "30s"})
    async with gateway_with(backend, policy=settings, route=route(retry={"retries": 1})) as gw:
        answer = await gw.ask()
        assert (answer.status, answer.end) == (200, "complete")
        assert answer.body == error_event(code) + b"data: [DONE]\n\n"
        assert answer.header("x-should-retry") == ("false" if listed else None)
        assert await trails(gw) == [[("pool-0", str(code))] * (2 if listed else 1)]
        # Whose fault it was is told by its code, as with a status.
        assert state(gw, "pool-0", "breaker_state") == ("open" if code == 500 else "closed")


@pytest.mark.parametrize("code", [500, 502])
async def test_done_after_an_error_is_no_success(backend: Backend, code: int) -> None:
    role, one, *_ = Said(("a",)).events()
    backend.raw(stream_of(role, one, error_event(code), b"data: [DONE]\n\n"), keep=True)
    settings = pool(breaker={"failures": 2, "open_for": "30s"})
    async with gateway_with(backend, policy=settings, route=route()) as gw:
        for _ in range(2):
            answer = await gw.ask()
            # The client has content: nothing is repeated, and nothing is changed.
            assert answer.body == role + one + error_event(code) + b"data: [DONE]\n\n"
            assert answer.header("x-sluice-attempts") == "1"
        assert await trails(gw) == [[("pool-0", str(code))]] * 2
        assert state(gw, "pool-0", "breaker_state") == "open"


async def test_a_retry_goes_to_everybody_else_before_it_goes_back(backend: Backend, other: Backend) -> None:
    async with Backend() as third:
        for one in (backend, other, third):
            one.answers(503, ERROR, [("retry-after", "1")])
        async with gateway_with(backend, other, third, policy=pool(), route=route(total="800ms")) as gw:
            assert (await gw.ask()).status == 503
            (trail,) = await trails(gw)
            assert sorted(trail) == [("pool-0", "503"), ("pool-1", "503"), ("pool-2", "503")]


async def test_a_retry_goes_elsewhere_though_the_one_that_failed_has_less_to_do(
    backend: Backend, other: Backend
) -> None:
    backend.does(dies("rst"))
    other.streams("a", "b", hold=2).then.streams("c")
    settings = pool(balance="least_requests", ejection={"consecutive": 1, "max_ejected": 0.1})
    async with gateway_with(backend, other, policy=settings, route=route()) as gw, await gw.connect() as client:
        await client.send(gw.chat_request())
        await other.requested()
        for _ in range(5):
            assert await gw.chat() == "c"
        tried = (await trails(gw))[-5:]
        assert tried == [[("pool-0", "no_answer"), ("pool-1", "ok")]] * 5
        other.release.set()
        await client.until(b"[DONE]")


async def test_a_full_outage_multiplies_no_traffic(backend: Backend, other: Backend) -> None:
    backend.does(dies("rst"))
    other.does(dies("fin"))
    rule = route(retry={"floor": 5, "budget": 0.2})
    async with gateway_with(backend, other, policy=pool(), route=rule) as gw:
        for _ in range(100):
            assert (await gw.ask(stream=False)).status == 502
        attempts = backend.attempts + other.attempts
        assert attempts <= 1.2 * 100 + 5
        assert attempts == gw.total("attempts_total") == 100 + gw.total("retries_total")
        assert gw.total("retry_budget_exhausted_total", pool="pool") > 50
