"""What goes wrong in a soak, and when: one conductor for all endpoints.

At any time at least one endpoint is well, and has been for SETTLE: longer than any attempt takes, and than a gateway
that probes may take to see it. So no request has reason to fail for want of an endpoint.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from tests.bench.children import Child

SETTLE: Final = 6.0
Fault = Mapping[str, Any]
_GARBAGE: Final = (
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 7\r\n\r\nhello",
    "SSH-2.0-OpenSSH_9.9\r\n",
    "HTTP/1.1 2OO fine\r\n\r\n",
)


def _bytes(rng: random.Random) -> int:
    """A place in an answer: within the first event, or later."""
    return rng.choice((1, 40, 300, 700, 1500))


# Name -> the fault as the simulator takes it.
_MAKERS: Final[Mapping[str, Callable[[random.Random], Fault]]] = {
    "reset before the head": lambda rng: {"kind": "reset_before", "after": rng.choice((0, 0.01))},
    "reset mid-stream": lambda rng: {"kind": "reset_at", "at": _bytes(rng)},
    "closed mid-stream": lambda rng: {"kind": "close_at", "at": rng.choice((None, 1, 300, 1500))},
    "stall before the head": lambda _: {"kind": "stall", "where": "head"},
    "stall before content": lambda _: {"kind": "stall", "where": "content"},
    "stall after the role": lambda _: {"kind": "stall", "where": "event", "after": 1},
    "stall mid-stream": lambda rng: {"kind": "stall", "where": "event", "after": rng.randint(2, 6)},
    "drip": lambda rng: {"kind": "drip", "bytes": rng.choice((16, 64)), "every": "20ms"},
    "dripped head": lambda _: {"kind": "drip", "bytes": 1, "every": "30ms", "part": "head"},
    "429": lambda _: {"kind": "status", "code": 429},
    "429 and Retry-After": lambda _: {"kind": "status", "code": 429, "retry_after": "1"},
    "503": lambda _: {"kind": "status", "code": 503},
    "503 and Retry-After": lambda rng: {"kind": "status", "code": 503, "retry_after": rng.choice(("1", "soon", "-3"))},
    "500": lambda _: {"kind": "status", "code": 500},
    "502": lambda rng: {"kind": "status", "code": 502, "after": rng.choice((0, 0.05))},
    "400": lambda _: {"kind": "status", "code": 400},
    "malformed": lambda rng: {"kind": "raw", "text": rng.choice(_GARBAGE)},
    "hangs, says that it is well": lambda _: {"kind": "freeze"},
}
REFUSES: Final = "refuses"
FROZEN: Final = "SIGSTOP"
NAMES: Final = (*_MAKERS, REFUSES, FROZEN)


@dataclass(slots=True)
class _Endpoint:
    child: Child
    fault: str | None = None
    well_since: float = 0.0
    ends_at: float = 0.0


class Conductor:
    """Begins and ends faults until `stop`; then every endpoint is well again."""

    def __init__(self, simulators: tuple[Child, ...], rng: random.Random, begun: Counter[str]) -> None:
        """`begun` is told of each fault that begins."""
        self._endpoints = [_Endpoint(child) for child in simulators]
        self._rng = rng
        self._stopped = asyncio.Event()
        # Each in its turn, shuffled, so that a short soak meets them all.
        self._deck: list[str] = []
        self._begun = begun

    def stop(self) -> None:
        self._stopped.set()

    async def run(self) -> None:
        """Until `stop`, and until the last fault has ended."""
        loop = asyncio.get_running_loop()
        for endpoint in self._endpoints:
            endpoint.well_since = loop.time()
        try:
            while not self._stopped.is_set():
                now = loop.time()
                for endpoint in self._endpoints:
                    if endpoint.fault is not None and now >= endpoint.ends_at:
                        await self._end(endpoint)
                for endpoint in self._endpoints:
                    if endpoint.fault is None and self._may_fail(endpoint, now) and self._rng.random() < 0.15:
                        await self._begin(endpoint)
                await asyncio.sleep(0.1)
        finally:
            for endpoint in self._endpoints:
                await self._end(endpoint)

    def _may_fail(self, endpoint: _Endpoint, now: float) -> bool:
        return any(
            other.fault is None and now - other.well_since >= SETTLE
            for other in self._endpoints
            if other is not endpoint
        )

    async def _begin(self, endpoint: _Endpoint) -> None:
        if not self._deck:
            self._deck = self._rng.sample(NAMES, len(NAMES))
        name, lasts = self._deck.pop(), self._rng.uniform(0.5, 4.0)
        endpoint.fault, endpoint.ends_at = name, asyncio.get_running_loop().time() + lasts
        self._begun[name] += 1
        if name == FROZEN:
            os.kill(endpoint.child.pid, signal.SIGSTOP)
        elif name == REFUSES:
            await tell(endpoint.child.address, "POST", [{"kind": "refuse", "for": lasts}])
        else:
            share = {"probability": self._rng.choice((0.2, 0.5, 1.0, 1.0)), "seed": self._rng.randrange(1 << 16)}
            fault = _MAKERS[name](self._rng)
            await tell(endpoint.child.address, "POST", [{**fault, **({} if fault["kind"] == "freeze" else share)}])

    async def _end(self, endpoint: _Endpoint) -> None:
        name = endpoint.fault
        if name is None:
            return
        if name == FROZEN:
            os.kill(endpoint.child.pid, signal.SIGCONT)
        elif name == REFUSES:
            await _listens(endpoint.child.address)
        else:
            await tell(endpoint.child.address, "DELETE", None)
        endpoint.fault, endpoint.well_since = None, asyncio.get_running_loop().time()


async def tell(address: str, method: str, faults: list[Fault] | None) -> None:
    """Tell a simulator; AssertionError with what it says where it does not take them."""
    body = b"" if faults is None else json.dumps(faults).encode()
    async with asyncio.timeout(10):
        host, _, port = address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        head = f"{method} /simulator/faults HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n"
        writer.write(f"{head}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
        said = await reader.read()
        writer.close()
    assert said.startswith(b"HTTP/1.1 200 "), said


async def _listens(address: str) -> None:
    """Wait until a simulator takes connections again."""
    host, _, port = address.rpartition(":")
    async with asyncio.timeout(10):
        while True:
            try:
                _, writer = await asyncio.open_connection(host, int(port))
            except ConnectionRefusedError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return
