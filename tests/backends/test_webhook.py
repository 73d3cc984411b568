"""A person is told once, in the background, and nobody waits for it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping

import pytest

from backends.webhook import Webhooks
from tests.fakes.backend import Backend
from tests.flow.harness import eventually

Said = list[tuple[str, Mapping[str, object]]]


@pytest.fixture
def said() -> Said:
    return []


def hooks(said: Said, *, timeout: float = 5.0, waits: tuple[float, ...] = (0.01, 0.02), most: int = 16) -> Webhooks:
    return Webhooks(
        agent="sluice/test", say=lambda event, what: said.append((event, what)), timeout=timeout, waits=waits, most=most
    )


async def test_it_posts_json_with_the_token_as_a_bearer(backend: Backend, said: Said) -> None:
    backend.answers(204, b"")
    webhooks = hooks(said)
    assert webhooks.notify(f"{backend.url}/hook?x=1", "s3cret", "m", {"event": "degraded", "why": "503"})
    request = await backend.requested()
    await eventually(lambda: bool(said), "never told")
    assert request.line == "POST /hook?x=1 HTTP/1.1"
    assert request.header("authorization") == "Bearer s3cret"
    assert request.header("content-type") == "application/json"
    assert request.header("user-agent") == "sluice/test"
    assert json.loads(request.body) == {"event": "degraded", "why": "503"}
    assert said == [("webhook_told", {"route": "m", "tries": 1})]
    await webhooks.stop()


async def test_without_a_token_there_is_no_authorization(backend: Backend, said: Said) -> None:
    backend.answers(200)
    webhooks = hooks(said)
    webhooks.notify(backend.url, None, "m", {})
    assert (await backend.requested()).header("authorization") is None
    await webhooks.stop()


@pytest.mark.parametrize("status", [408, 429, 500, 503])
async def test_what_may_pass_is_tried_again(backend: Backend, said: Said, status: int) -> None:
    backend.answers(status).then.answers(200)
    webhooks = hooks(said)
    webhooks.notify(backend.url, None, "m", {})
    await eventually(lambda: bool(said), "never told")
    assert said == [("webhook_told", {"route": "m", "tries": 2})]
    await webhooks.stop()


@pytest.mark.parametrize("status", [301, 400, 401, 404])
async def test_what_another_try_would_not_change_is_told_in_the_log(backend: Backend, said: Said, status: int) -> None:
    backend.answers(status)
    webhooks = hooks(said)
    webhooks.notify(backend.url, None, "m", {})
    await eventually(lambda: bool(said), "never told")
    assert said == [("webhook_failed", {"route": "m", "tries": 1, "reason": f"status {status}"})]
    await webhooks.stop()


async def test_a_hook_that_is_away_is_given_up_and_its_address_is_in_no_log(said: Said) -> None:
    webhooks = hooks(said)
    webhooks.notify("http://127.0.0.1:1/hook?secret=1", None, "m", {})
    await eventually(lambda: bool(said), "never told", timeout=10.0)
    assert said == [("webhook_failed", {"route": "m", "tries": 3, "reason": "no answer"})]
    await webhooks.stop()


async def test_one_that_hangs_is_left_after_its_timeout(backend: Backend, said: Said) -> None:
    backend.raw(b"", stall=True)
    webhooks = hooks(said, timeout=0.2, waits=())
    webhooks.notify(backend.url, None, "m", {})
    await eventually(lambda: bool(said), "never told", timeout=10.0)
    assert said == [("webhook_failed", {"route": "m", "tries": 1, "reason": "no answer in time"})]
    await webhooks.stop()


async def test_no_more_than_so_many_are_on_their_way_and_the_end_waits_for_none_of_them(
    backend: Backend, said: Said
) -> None:
    backend.raw(b"", stall=True)
    webhooks = hooks(said, most=2)
    told = [webhooks.notify(backend.url, None, "m", {}) for _ in range(5)]
    assert told == [True, True, False, False, False]
    assert [event for event, _ in said] == ["webhook_dropped"] * 3
    await backend.requested(2)
    await asyncio.wait_for(webhooks.stop(grace=0.05), 5.0)
    await backend.all_closed(timeout=2.0)
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "webhook"]
