"""CASES: what an engine refuses, or tells of in its stream, and where a request goes then."""

from __future__ import annotations

import json

import pytest

from tests.fakes.backend import STREAM_HEAD, Backend, Said, chunked
from tests.faults.scenes import ask_first_at, dies, pool, route, state, steps, trails
from tests.flow.harness import gateway_with

ERROR = b'{"error":{"message":"failed","type":"InternalServerError","param":null,"code":500}}'
LAST = b"0\r\n\r\n"


def error_event(code: int) -> bytes:
    """What vLLM writes after its 200."""
    error = {"error": {"message": "no", "type": "Error", "param": None, "code": code}}
    return b"data: " + json.dumps(error).encode() + b"\n\n"


def stream_of(*events: bytes) -> bytes:
    """A whole chat stream of these events."""
    return STREAM_HEAD + b"".join(chunked(event) for event in events) + LAST


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
        for _ in range(10):
            assert await gw.chat() == "c"
        tried = (await trails(gw))[-10:]
        assert [trail for trail in tried if len(trail) > 1]
        assert all(trail in ([("pool-0", "no_answer"), ("pool-1", "ok")], [("pool-1", "ok")]) for trail in tried)
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
        # The requests refill the budget: with the floor alone there would be 105.
        assert 1.2 * 100 <= attempts <= 1.2 * 100 + 5
        assert attempts == gw.total("attempts_total") == 100 + gw.total("retries_total")
        assert gw.total("retry_budget_exhausted_total", pool="pool") > 50
