"""What limits in Redis cost: `.venv/bin/python -m tests.bench.store [--seconds N] [--rounds N]` (half a minute).

A plan of three rules (requests, tokens, concurrency) on a real redis-server of this machine, and on one node of a
Cluster; each grant is settled with a correction of tokens. CPU is the asking process's own, everything in it that a
request does not do otherwise: the call, its reply, its settlement, and the task that waits. p50 is of one client, from
the question to the answer. The server's CPU says how many requests one of its cores carries: on a Cluster that is what
limits carry at all, since one shard has them. Writes are what the client's socket was given, by the server's count of
reads: one a tick, however many ask in it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import time
from dataclasses import dataclass
from random import Random

import uvloop

from backends.store.factory import StoreContext, make_store
from policies.config.settings.auth import LimitSettings
from policies.config.settings.server import StoreSettings
from policies.config.units import RateValue
from policies.limits import Demand, Granted, LimitSubject, demands, rules_of
from tests.fakes.redis_servers import Server, cluster, server
from tests.fakes.store import SpyMeter

RULES = (
    LimitSettings(requests=RateValue(10**8, 60)),
    LimitSettings(tokens=RateValue(10**9, 60)),
    LimitSettings(concurrency=10**6),
)
SUBJECT = LimitSubject("k", "t", "u", "192.0.2.1", "m")
TOKENS = 500


@dataclass(frozen=True, slots=True)
class Figures:
    """clients: at a time; cpu, server_cpu: us a request; p50: ms; rate: requests a second; reads: the server's, of what
    it was sent, a request"""

    clients: int
    rate: float
    cpu: float
    server_cpu: float
    p50: float
    reads: float


async def measure(redis: Server, url: str, clients: int, seconds: float) -> Figures:
    loop, meter = asyncio.get_running_loop(), SpyMeter()
    around = StoreContext(time.monotonic, time.time() - time.monotonic(), Random(), meter, lambda event, what: None)  # noqa: TID251
    store = make_store(StoreSettings(url=url, timeout=5.0, on_outage="closed"), around)
    await store.start()
    asked = demands(rules_of("p", RULES, "closed"), SUBJECT, tokens=TOKENS)
    waited: list[float] = []
    stop = loop.time() + seconds
    reads, used, cpu = _reads(redis), _cpu(redis.pid), time.process_time()

    async def client(number: int) -> None:
        turn = 0
        while loop.time() < stop:
            turn, began = turn + 1, time.perf_counter()
            answer = store.take(asked, f"{number}-{turn}")
            found = await answer if isinstance(answer, asyncio.Future) else answer
            waited.append(time.perf_counter() - began)
            assert isinstance(found, Granted) and found.mode == "store"
            store.refund(found, _corrections(asked))

    await asyncio.gather(*(client(number) for number in range(clients)))
    cpu = time.process_time() - cpu
    count = len(waited)
    figures = Figures(
        clients, count / seconds, cpu / count * 1e6, (_cpu(redis.pid) - used) / count * 1e6,
        statistics.median(waited) * 1e3, (_reads(redis) - reads) / count,
    )  # fmt: skip
    assert meter.errors == {}
    await store.stop()
    return figures


def _corrections(asked: tuple[Demand, ...]) -> list[tuple[Demand, int]]:
    return [(demand, 300 - TOKENS) for demand in asked if demand.rule.kind == "tokens"]


def _reads(redis: Server) -> int:
    stats = dict(line.split(":", 1) for line in redis.ask("INFO", "stats").split("\r\n") if ":" in line)
    return int(stats["total_reads_processed"])


def _cpu(pid: int) -> float:
    with open(f"/proc/{pid}/stat") as file:
        words = file.read().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def rows(name: str, redis: Server, url: str, rounds: int, seconds: float) -> list[str]:
    found = []
    for clients in (1, 32, 256):
        turns = [uvloop.run(measure(redis, url, clients, seconds)) for _ in range(rounds)]
        middle = {
            word: statistics.median(getattr(turn, word) for turn in turns)
            for word in ("rate", "cpu", "server_cpu", "p50", "reads")
        }
        found.append(
            f"| {name} | {clients} | {middle['rate']:.0f} | {middle['cpu']:.1f} | {middle['p50']:.3f} "
            f"| {middle['reads']:.2f} | {middle['server_cpu']:.1f} | {1e6 / middle['server_cpu']:.0f} |"
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.store")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=3)
    words = parser.parse_args()
    lines = [
        "| Redis | clients | requests/s | our CPU a request, us | p50, ms | its reads a request "
        "| its CPU a request, us | requests/s a core of it |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    with server() as one:
        lines += rows("alone", one, one.url, words.rounds, words.seconds)
    with cluster() as nodes:
        owner = nodes.owner("{sluice:limits:v1}:")
        lines += rows("one shard of a Cluster", owner, nodes.url, words.rounds, words.seconds)
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
