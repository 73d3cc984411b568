"""Fault 83: a slow first token fails over; a plain answer may take five minutes.

The five minutes themselves pass in `make soak` (tests/soak/patience.py). Here every limit, every health interval and
the answer are a hundredth of what they are by default.
"""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gateway.exchange import AttemptState, Phase
from gateway.timeouts import overdue
from policies.config.settings import TimeoutSettings
from policies.config.settings.pools import HealthSettings
from tests.fakes.backend import STREAM_HEAD, Backend, Connection, Request, Said, chunked, plain
from tests.faults.scenes import TICK, ask_first_at, pool, state, steps
from tests.flow.harness import gateway_with
from tests.pace import Watch

ROLE, *_ = Said(("a",)).events()
ANTHROPIC_START = (
    b'event: message_start\ndata: {"type":"message_start","message":{"id":"m","type":"message","role":"assistant",'
    b'"content":[],"model":"m","stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":1,"output_tokens":1}}}\n\n'
)
ANTHROPIC_PING = b'event: ping\ndata: {"type": "ping"}\n\n'
# What is sent at once, and what after it every 50 ms, and never any content.
SLOW = {
    "comments": (b"", b": ping\n\n"),
    "the role, then comments": (ROLE, b": ping\n\n"),
    "Anthropic's start, then pings": (ANTHROPIC_START, ANTHROPIC_PING),
}


@pytest.mark.parametrize("how", SLOW)
async def test_a_slow_first_token_fails_over_at_about_first_byte_and_is_answered_once(
    backend: Backend, other: Backend, how: str
) -> None:
    begins, ping = SLOW[how]

    async def slow(c: Connection, request: Request) -> None:
        await c.send(STREAM_HEAD + (chunked(begins) if begins else b""))
        for _ in range(400):  # 20 s
            if c.closed.is_set():
                return
            await c.send(chunked(ping))
            await asyncio.sleep(0.05)

    backend.does(slow)
    other.streams("b", "c")
    rule = {"timeouts": {"first_byte": "1s"}}
    async with gateway_with(backend, other, policy=pool(), route=rule) as gw:
        watch = Watch()
        answer, line = await ask_first_at(gw, "pool-0")
        took = watch.stop()
        await backend.all_closed(timeout=1.0)
        # Requests that went to the other one before this took milliseconds.
        assert took.within(1.0, 1.0 + 2 * TICK + 0.2)
        assert steps(line) == [("pool-0", "too_slow"), ("pool-1", "ok")]
        assert 1000 - 5 <= line["trail"][0][2] < 1000 * (1.0 + 2 * TICK + took.waited)
        # Once, from its beginning, and nothing of what the first one had sent.
        assert (answer.status, answer.end, answer.text) == (200, "complete", "bc")
        assert answer.body == b"".join(Said(("b", "c")).events())
        assert (answer.header("x-sluice-endpoint"), answer.header("x-sluice-attempts")) == ("pool-1", "2")
        assert backend.attempts == 1


def hundredth(settings: TimeoutSettings | HealthSettings, *names: str) -> dict[str, str]:
    return {name: f"{getattr(settings, name) * 10:g}ms" for name in names}


@pytest.mark.parametrize("early", [b"", b"head"], ids=["nothing before the end", "its head at once"])
async def test_a_plain_answer_of_five_minutes_is_left_alone(backend: Backend, other: Backend, early: bytes) -> None:
    async def slow(c: Connection, request: Request) -> None:
        answer = plain(200, b'{"ok":true}')
        at = answer.index(b"\r\n\r\n") + 4 if early else 0
        await c.send(answer[:at])
        await asyncio.sleep(3.0)
        await c.send(answer[at:])

    backend.does(slow)
    other.does(slow)
    limits = hundredth(TimeoutSettings(), "first_byte", "idle", "attempt", "total")
    # A probe's own timeout stays: a loaded machine is not a sick engine.
    health = hundredth(HealthSettings(), "every", "suspect_every")
    settings = {"pools": {"pool": {"health": health}}}
    async with gateway_with(backend, other, policy=settings, route={"timeouts": limits}) as gw:
        async with await gw.connect() as client:
            watch = Watch()
            await client.send(gw.chat_request(stream=False))
            answer = await client.answer(timeout=10)
        assert watch.within(2.99, 3.5)
        assert (answer.status, answer.end, answer.json) == (200, "complete", {"ok": True})
        # No second generation, and nobody is blamed.
        assert backend.attempts + other.attempts == 1
        assert gw.total("retries_total") == gw.total("ejections_total") == gw.total("timeouts_total") == 0
        assert {state(gw, name) for name in ("pool-0", "pool-1")} == {"up"}
        assert {state(gw, name, "breaker_state") for name in ("pool-0", "pool-1")} == {"closed"}
        assert backend.probes > 10


def test_under_the_defaults_nothing_is_over_after_five_minutes_of_a_plain_answer() -> None:
    """The same with the defaults as they are, and a clock that is told."""
    timeouts = TimeoutSettings()
    attempt = AttemptState(0.0)
    attempt.began_at = attempt.dispatched_at = 0.0
    attempt.enter(Phase.FIRST_BYTE)
    plain_one: Any = SimpleNamespace(
        started=0.0, total=timeouts.total, timeouts=timeouts, stream=False, attempt=attempt
    )
    for now in (0.0, 60.0, 300.0):
        left = overdue(plain_one, now)
        assert cast(float, left) > 1000, (now, left)
