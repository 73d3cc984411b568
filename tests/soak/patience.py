"""fault 83 in real time: a plain answer that takes five minutes, through a gateway with everything at its
default."""

from __future__ import annotations

import asyncio
import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from tests.bench.children import child
from tests.soak.clients import Reply, ask
from tests.soak.faults import tell
from tests.soak.judge import account
from tests.soak.stage import MODEL, SIMULATOR, SLUICE, make_key

SECONDS: Final = 300.0


async def five_minutes(folder: Path) -> list[str]:
    """What was wrong with it. Takes 5 minutes and some seconds."""
    with ExitStack() as running:
        simulator = running.enter_context(child(SIMULATOR, r"ready on http://(\S+)$", log=folder / "simulator.log"))
        await tell(simulator.address, "POST", [{"kind": "stall", "where": "head", "for": SECONDS}])
        key = make_key(folder)
        policy = folder / "policy.yaml"
        policy.write_text(json.dumps(_document(simulator.address)))
        gateway = running.enter_context(
            child([SLUICE, "serve", str(policy)], r"^ready on (\S+)$", log=folder / "gateway.out")
        )
        body = {"model": MODEL, "messages": [{"role": "user", "content": "Take your time."}]}
        began = asyncio.get_running_loop().time()
        reply = await ask(gateway.address, body, {"authorization": f"Bearer {key}"}, timeout=SECONDS + 30)
        took = asyncio.get_running_loop().time() - began
        await asyncio.sleep(1.0)
        return _wrong(reply, took, folder / "access.log")


def _wrong(reply: Reply, took: float, log: Path) -> list[str]:
    found = account(log)
    right = reply.complete and reply.status == 200 and took >= SECONDS and (found.lines, found.attempts) == (1, 1)
    if right and not found.odd:
        return []
    head = reply.head.decode("latin-1")
    return [
        f"a plain answer of {SECONDS:g} s took {took:.1f} s and {found.attempts} attempts: {head}{reply.body[:500]!r}"
    ]


def _document(address: str) -> dict[str, Any]:
    return {
        "version": 1,
        "server": {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0"},
        "auth": {"api_keys": {"file": "keys.yaml"}},
        "plans": {"soak": {}},
        "pools": {"pool": {"engine": "simulator", "endpoints": [{"url": f"http://{address}"}]}},
        "routes": [{"model": MODEL, "pool": "pool"}],
        "observe": {"access_log": {"path": "access.log"}, "log": {"path": "sluice.log"}},
    }
