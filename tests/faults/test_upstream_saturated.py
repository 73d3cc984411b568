"""Faults 20 and 21: the engine says that it has too much to do, and perhaps when to come again."""

from __future__ import annotations

import asyncio
import datetime
from email.utils import format_datetime

import pytest

from tests.fakes.backend import STREAM_HEAD, Backend, Connection, Request, chunked
from tests.faults.scenes import ask_first_at, pool, route, state, steps, trails
from tests.flow.harness import eventually, gateway_with
from tests.pace import Watch

BUSY = b'{"error":{"message":"busy","type":"Busy","param":null,"code":503}}'


def in_seconds(seconds: float) -> str:
    """An HTTP date, rounded down to a second."""
    return format_datetime(datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=seconds), usegmt=True)


# What an engine may say (RFC 9110, 10.2.3), and for how many seconds it is left alone then, at least and at most.
# Whoever says nothing that makes sense is left alone for 1 s; so is who says "at once", or it would draw everything.
RETRY_AFTER = {
    "seconds": ("2", 1.9, 2.2),
    "a date": (lambda: in_seconds(2.9), 1.8, 3.1),
    "none": (None, 0.9, 1.2),
    "junk": ("soon", 0.9, 1.2),
    "negative": ("-5", 0.9, 1.2),
    "0": ("0", 0.9, 1.2),
    "past": (lambda: in_seconds(-60), 0.9, 1.2),
    "far": ("1000000000", 3.0, 1e9),
}


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(("value", "least", "most"), RETRY_AFTER.values(), ids=RETRY_AFTER)
async def test_a_saturated_endpoint_is_left_for_another_and_then_left_alone(
    backend: Backend, other: Backend, status: int, value: object, least: float, most: float
) -> None:
    told = value() if callable(value) else value
    headers = [] if told is None else [("retry-after", str(told))]
    backend.answers(status, BUSY, headers).then.answers(200, b"back")
    async with gateway_with(backend, other, policy=pool(), route=route()) as gw:
        watch = Watch()
        answer, line = await ask_first_at(gw, "pool-0", stream=False)
        assert (answer.status, answer.header("retry-after")) == (200, None)
        assert steps(line) == [("pool-0", str(status)), ("pool-1", "ok")]
        assert state(gw, "pool-0") == "paused"
        while backend.attempts == 1 and watch.seconds < min(most, 3.0):
            assert (await gw.ask(stream=False)).status == 200
            await asyncio.sleep(0.02)
        # Watched from before the pause began, which on a busy machine is some time.
        assert watch.within(least, most + 0.6), watch


@pytest.mark.parametrize("value", ["1000000000", "31", "10"])
async def test_a_retry_after_that_is_too_late_is_passed_on_at_once_with_the_answer(
    backend: Backend, value: str
) -> None:
    """31 s is more than we wait for anybody, 10 s is after the deadline."""
    backend.answers(503, BUSY, [("retry-after", value), ("x-engine", "vllm")])
    async with gateway_with(backend, policy=pool(), route=route(total="5s")) as gw:
        watch = Watch()
        answer = await gw.ask()
        assert (answer.status, answer.body) == (503, BUSY)
        assert (answer.header("retry-after"), answer.header("x-engine")) == (value, "vllm")
        assert answer.header("x-sluice-attempts") == "1"
        (line,) = await gw.access_lines()
        assert (line["status"], line["code"], line["outcome"]) == (503, None, "503")
        assert line["ms"] < 100 + 1000 * watch.waited


async def test_a_retry_after_is_waited_for_when_nobody_else_is_left(backend: Backend) -> None:
    backend.answers(503, BUSY, [("retry-after", "1")]).then.answers(200, b"{}")
    async with gateway_with(backend, policy=pool(), route=route()) as gw:
        watch = Watch()
        answer = await gw.ask(stream=False)
        assert (answer.status, answer.header("x-sluice-attempts")) == (200, "2")
        assert watch.within(1.0, 1.3)
        assert gw.total("retries_total", reason="503") == 1


async def test_whoever_is_back_first_is_waited_for_not_who_spoke_last(backend: Backend, other: Backend) -> None:
    backend.answers(503, BUSY, [("retry-after", "1")]).then.answers(200, b"{}")
    other.answers(503, BUSY, [("retry-after", "20")])
    async with gateway_with(backend, other, policy=pool(), route=route(total="5s")) as gw:
        watch = Watch()
        answer = await gw.ask(stream=False)
        assert (answer.status, answer.header("x-sluice-attempts")) == (200, "3")
        assert watch.within(1.0, 1.4)
        assert (backend.attempts, other.attempts) == (2, 1)


async def test_the_engines_own_answer_is_passed_on_when_the_attempts_are_spent(
    backend: Backend, other: Backend
) -> None:
    for one in (backend, other):
        one.answers(503, BUSY, [("x-engine", "vllm")])
    async with gateway_with(backend, other, policy=pool(), route=route(retry={"retries": 2})) as gw:
        answer = await gw.ask()
        assert (answer.status, answer.body, answer.header("x-engine")) == (503, BUSY, "vllm")
        assert (answer.header("x-sluice-attempts"), answer.header("x-should-retry")) == ("3", "false")
        assert backend.attempts + other.attempts == 3


async def test_when_the_budget_is_spent_the_answer_is_passed_on_and_the_client_need_not_try(
    backend: Backend, other: Backend
) -> None:
    for one in (backend, other):
        one.answers(503, BUSY)
    rule = route(retry={"floor": 1, "budget": 0, "retries": 1})
    async with gateway_with(backend, other, policy=pool(), route=rule) as gw:
        answers = [await gw.ask() for _ in range(5)]
        assert {(answer.status, answer.body, answer.header("x-should-retry")) for answer in answers} == {
            (503, BUSY, "false")
        }
        assert [answer.header("x-sluice-attempts") for answer in answers] == ["2", "1", "1", "1", "1"]
        assert gw.total("retry_budget_exhausted_total", pool="pool") == 4


async def test_all_paused_is_503_at_once_with_the_shortest_pause_and_nothing_is_sent(
    backend: Backend, other: Backend
) -> None:
    backend.answers(503, BUSY, [("retry-after", "20")])
    other.answers(429, BUSY, [("retry-after", "12")])
    async with gateway_with(backend, other, policy=pool(), route=route(total="5s")) as gw:
        first = await gw.ask()
        # The last engine's own words; the other was asked before it.
        assert (first.status, first.header("retry-after")) in ((503, "20"), (429, "12"))
        assert (backend.attempts, other.attempts) == (1, 1)
        watch = Watch()
        answer = await gw.ask()
        assert (answer.status, answer.error["code"]) == (503, "no_endpoint_available")
        assert 11 <= int(answer.header("retry-after") or 0) <= 12
        assert (backend.attempts, other.attempts) == (1, 1)
        line = (await gw.access_lines())[-1]
        assert (line["attempts"], line["trail"], line["outcome"]) == (0, [], None)
        assert line["ms"] < 100 + 1000 * watch.waited


async def test_all_paused_without_having_said_for_how_long_are_asked_all_the_same(
    backend: Backend, other: Backend
) -> None:
    backend.answers(503, BUSY).then.answers(200, b"1")
    other.answers(503, BUSY).then.answers(200, b"1")
    async with gateway_with(backend, other, policy=pool(), route=route(retry={"retries": 1})) as gw:
        assert (await gw.ask()).status == 503
        assert (await gw.ask(stream=False)).status == 200
        assert gw.total("panics_total", pool="pool") >= 1


async def test_five_503_in_a_row_without_retry_after_eject(backend: Backend, other: Backend) -> None:
    backend.answers(503, BUSY)
    other.answers(503, BUSY)
    settings = pool(ejection={"max_ejected": 0.5})
    async with gateway_with(backend, other, policy=settings, route=route(retry="off")) as gw:
        for _ in range(16):
            assert (await gw.ask()).status == 503
        assert gw.total("ejections_total") == 1
        assert sorted(state(gw, name) == "ejected" for name in ("pool-0", "pool-1")) == [False, True]


# -- row 21


async def test_429_is_no_failure_in_a_row_but_counts_in_the_error_rate(backend: Backend, other: Backend) -> None:
    backend.answers(429, BUSY)
    other.answers(429, BUSY)
    settings = pool(ejection={"consecutive": 2, "min_requests": 10, "error_rate": 0.5})
    async with gateway_with(backend, other, policy=settings, route=route(retry="off")) as gw:
        for _ in range(8):
            assert (await gw.ask()).status == 429
        assert gw.total("ejections_total") == 0
        for _ in range(16):
            assert (await gw.ask()).status == 429
        assert gw.total("ejections_total") == gw.total("ejections_total", reason="error_rate") == 1


async def test_429_fails_a_breakers_probe(backend: Backend) -> None:
    backend.answers(502, BUSY).then.answers(429, BUSY, [("retry-after", "0")]).then.answers(200)
    settings = pool(breaker={"failures": 1, "open_for": "100ms", "probes": 1})
    async with gateway_with(backend, policy=settings, route=route(retry="off")) as gw:
        assert (await gw.ask()).status == 502
        assert state(gw, "pool-0", "breaker_state") == "open"
        refused = await gw.ask()
        assert (refused.status, refused.error["code"]) == (503, "no_endpoint_available")
        await eventually(lambda: state(gw, "pool-0", "breaker_state") == "half_open", "it never let a probe through")
        assert (await gw.ask()).status == 429
        assert state(gw, "pool-0", "breaker_state") == "open"
        await eventually(lambda: state(gw, "pool-0", "breaker_state") == "half_open", "it never let a probe through")
        assert (await gw.ask(stream=False)).status == 200
        assert state(gw, "pool-0", "breaker_state") == "closed"
        assert backend.attempts == 3


async def test_a_breaker_lets_no_more_than_its_probes_through_and_frees_those_that_are_cancelled(
    backend: Backend,
) -> None:
    async def held(c: Connection, request: Request) -> None:
        await c.send(STREAM_HEAD + chunked(b": ping\n\n"))
        await c.stall()

    backend.answers(502, BUSY).then.does(held).then.does(held).then.answers(200)
    settings = pool(breaker={"failures": 1, "open_for": "100ms", "probes": 2})
    async with gateway_with(backend, policy=settings, route=route(retry="off", first_byte="20s")) as gw:
        assert (await gw.ask()).status == 502
        await eventually(lambda: state(gw, "pool-0", "breaker_state") == "half_open", "it never let a probe through")
        async with await gw.connect() as one, await gw.connect() as two:
            await one.send(gw.chat_request())
            await two.send(gw.chat_request())
            await backend.requested(3)
            assert [(await gw.ask()).status for _ in range(5)] == [503] * 5
            assert backend.attempts == 3
        await backend.all_closed(timeout=1.0)
        await eventually(lambda: gw.gateway.plane.in_flight == 0, "a client left and its attempt did not")
        assert [(await gw.ask(stream=False)).status for _ in range(2)] == [200, 200]
        assert state(gw, "pool-0", "breaker_state") == "closed"
        assert [trail[-1][1] for trail in await trails(gw) if trail].count("client_gone") == 2
