"""What the tests of limits through the whole gateway have in common: plans, and what is used of them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.fakes.backend import Backend
from tests.fakes.client import request
from tests.flow.harness import CHAT, Running, eventually
from tests.gateway.served import Served, policy
from tests.pace import Watch

RESERVED = 50_000


def slots_and_tokens() -> list[dict[str, Any]]:
    # No window ends and no bucket refills meanwhile: whatever is not given back is seen.
    return [
        {"concurrency": 1000, "per": "all"},
        {"tokens": "100M/month", "strategy": "fixed_window", "per": "all"},
        {"output_tokens": "100M/month", "strategy": "fixed_window", "per": "key"},
    ]


def limited(url: str, *limits: dict[str, Any], **store: Any) -> dict[str, Any]:
    return {"store": {"url": url, **store}, "plans": {"test": {"limits": list(limits)}}}


async def mode(gw: Running, state: str, within: float) -> float:
    """Seconds, as `Watch.own` counts them, until the metric says that limits are in this state, and no other."""
    watch = Watch()
    await eventually(lambda: gw.total("limit_mode", state=state) == 1, f"never {state}", timeout=within)
    assert gw.total("limit_mode") == 1
    return watch.own


def said(gw: Running, event: str) -> int:
    return sum(f" {event} " in line for line in gw.log_text().splitlines())


async def used(gw: Running) -> list[int | None]:
    usage = (await gw.send(gw.request("GET", "/v1/usage"), method="GET")).json
    return [limit["used"] for limit in usage["limits"]]


async def settled(gw: Running, wanted: list[int]) -> None:
    """Wait until every limit is used as much as that."""
    await _until_used(gw, lambda found: found == wanted, f"{wanted}")


async def eventually_idle(gw: Running) -> None:
    """Wait until nobody holds a slot of the first limit."""
    await _until_used(gw, lambda found: found[0] == 0, "slots are held")


async def _until_used(gw: Running, so: Callable[[list[int | None]], bool], what: str) -> None:
    ends = time.monotonic() + 15
    while not so(found := await used(gw)):
        assert time.monotonic() < ends, f"{what}: {found}"
        await asyncio.sleep(0.03)


def anybody(folder: Path, backend: Backend, store: dict[str, str], *limits: dict[str, Any]) -> Path:
    """The policy file of a real process."""
    folder.mkdir()
    return policy(
        folder, auth={"anonymous": "test"}, plans={"test": {"limits": list(limits)}}, store=store,
        pools={"pool": {"engine": "vllm", "endpoints": [{"url": backend.url}]}},
    )  # fmt: skip


async def ready(served: Served) -> str:
    host, port = await asyncio.to_thread(served.ready)
    return f"{host}:{port}"


def chat(stream: bool) -> bytes:
    body = {"model": "m", "stream": stream, "messages": [{"role": "user", "content": "hi"}]}
    return request("POST", CHAT, json.dumps(body).encode(), [("content-type", "application/json")])
