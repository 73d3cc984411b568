"""What many keys cost: `.venv/bin/python -m tests.bench.keys [--keys N] [--rounds N]` (half a minute).

`sluice serve` has so many keys, each with an end, a glob and a label, in its file or in a redis-server of this machine;
then one more is there. *Until known* is from the change to the first answer that is no 401: how often the gateway looks
is most of it. *Waited* is the longest time that a question took meanwhile, of one a millisecond: what a request may
wait while keys are read. It is next to the same time with nothing to read, which is the machine's own doing.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from backends.identity.keyfile import load_keys, write_entry
from policies.identity.api_keys import KeyEntry, digest
from tests.bench.machine import busy, machine
from tests.fakes.client import Client, request
from tests.fakes.redis_servers import Server, server
from tests.gateway.served import policy, serving

ENTRY = KeyEntry("k", b"", "acme", "test", 1e9, expires=4e9, models=("a-*",), labels={"team": "t"})
POOLS = {"pool": {"engine": "http", "endpoints": [{"url": "http://127.0.0.1:1"}], "health": "off"}}


@dataclass(frozen=True, slots=True)
class Figures:
    """Seconds."""

    known: float
    waited: float
    calm: float


class Asking:
    """Asks who a key is, again and again, on one connection."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._turn = 0

    async def ask(self, key: str, until: Callable[[int], bool]) -> float:
        """The longest time that an answer took until there was one with such a status."""
        longest = 0.0
        while True:
            # Of an address of its own each: who fails often from one is held up.
            self._turn += 1
            address = f"10.{self._turn >> 16 & 255}.{self._turn >> 8 & 255}.{self._turn & 255}"
            began = time.perf_counter()
            headers = [("authorization", f"Bearer {key}"), ("x-forwarded-for", address)]
            await self._client.send(request("GET", "/v1/models", None, headers))
            answer = await self._client.answer(method="GET")
            longest = max(longest, time.perf_counter() - began)
            if until(answer.status):
                return longest
            await asyncio.sleep(0.001)


def lines(number: int) -> list[bytes]:
    return [
        write_entry(replace(ENTRY, id=f"k{n}", sha256=digest(f"{n}"), labels={"team": f"t{n}"})) for n in range(number)
    ]


async def measure(at: Path, change: Callable[[int], None], number: int, rounds: int) -> list[Figures]:
    """Of a gateway that serves meanwhile. `change` adds the key of that number."""
    found = []
    with serving(at) as served:
        host, port = await asyncio.to_thread(served.ready)
        async with await Client.to(f"{host}:{port}") as client:
            asking = Asking(client)
            for turn in range(number, number + rounds):
                end = time.perf_counter() + 1.5
                calm = await asking.ask(f"{turn}", lambda _: time.perf_counter() > end)  # noqa: B023  used at once
                change(turn)
                began = time.perf_counter()
                waited = await asking.ask(f"{turn}", lambda status: status != 401)
                found.append(Figures(time.perf_counter() - began, waited, calm))
    return found


def in_file(folder: Path, number: int, rounds: int) -> list[Figures]:
    keys, written = folder / "keys.yaml", lines(number + rounds)

    def change(turn: int) -> None:
        fresh = folder / f"keys.{turn}"
        fresh.write_bytes(b"".join(line + b"\n" for line in written[: turn + 1]))
        os.replace(fresh, keys)

    keys.write_bytes(b"".join(line + b"\n" for line in written[:number]))
    at = policy(folder, plans={"test": {}}, pools=POOLS, auth={"api_keys": {"file": "keys.yaml"}})
    return asyncio.run(measure(at, change, number, rounds))


def in_store(folder: Path, redis: Server, number: int, rounds: int) -> list[Figures]:
    written = lines(number + rounds)

    def write(numbers: range) -> None:
        pairs = [word for n in numbers for word in (digest(f"{n}").hex(), written[n].decode())]
        redis.ask("HSET", "sluice:keys:v1", "version", f"v{numbers.stop}", *pairs)

    def change(turn: int) -> None:
        write(range(turn, turn + 1))

    for start in range(0, number, 1000):
        write(range(start, min(start + 1000, number)))
    at = policy(
        folder, plans={"test": {}}, pools=POOLS, auth={"api_keys": {"store": True}}, store={"url": redis.url}
    )  # fmt: skip
    return asyncio.run(measure(at, change, number, rounds))


def row(name: str, found: list[Figures]) -> str:
    def ms(values: list[float]) -> str:
        return f"{statistics.median(values) * 1e3:.0f}, {max(values) * 1e3:.0f}"

    known, waited, calm = ([getattr(one, word) for one in found] for word in ("known", "waited", "calm"))
    return f"| {name} | {ms(known)} | {ms(waited)} | {ms(calm)} |"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.keys")
    parser.add_argument("--keys", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=7)
    words = parser.parse_args()
    out = [machine(), busy() or "", f"{words.keys} keys, {words.rounds} rounds: median, longest, in ms", ""]
    out += ["| keys in | until known | waited | waited anyhow |", "|---|---:|---:|---:|"]
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other, server() as redis:
        out.append(row("a file", in_file(Path(one), words.keys, words.rounds)))
        took = []
        for _ in range(words.rounds):
            began = time.perf_counter()
            load_keys(Path(one) / "keys.yaml")
            took.append(time.perf_counter() - began)
        out.append(row("Redis", in_store(Path(other), redis, words.keys, words.rounds)))
        out.append(f"\nThe file by itself, nothing else running: {statistics.median(took) * 1e3:.0f} ms.")
    sys.stdout.write("\n".join(out) + "\n")


if __name__ == "__main__":
    main()
