"""A full pool: who waits, in which order, who is told to come back, and that everything is given back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from backends.identity.keyfile import change_keys
from backends.simulator.server import Simulator
from backends.simulator.settings import SimulatorSettings
from policies.identity.api_keys import KeyEntry, digest, new_key
from tests.fakes.backend import LAST_CHUNK, STREAM_HEAD, Backend, Connection, Request, Said, chunked, plain
from tests.fakes.client import Answer
from tests.flow.harness import Running, eventually, gateway_with
from tests.flow.test_admin_api import ask as admin
from tests.pace import Watch, slowdown
from tests.soak.leaving import leave


class Held:
    """A script that answers a request only when it is let go; `texts` are the prompts as they came."""

    def __init__(self, backend: Backend) -> None:
        self.texts: list[str] = []
        self.inside = self.most = 0
        self._turns = asyncio.Semaphore(0)
        backend.does(self._script)

    def let_go(self, count: int = 1) -> None:
        for _ in range(count):
            self._turns.release()

    async def _script(self, c: Connection, request: Request) -> None:
        self.texts.append(json.loads(request.body)["messages"][0]["content"])
        self.inside += 1
        self.most = max(self.most, self.inside)
        await self._turns.acquire()
        self.inside -= 1
        await c.send(STREAM_HEAD + b"".join(chunked(one) for one in Said(("done",)).events()) + LAST_CHUNK)


def pool(most: Any = 1, *, size: int = 100, wait: str = "30s", **more: Any) -> dict[str, Any]:
    return {"pools": {"pool": {"max_in_flight": most, "queue": {"size": size, "wait": wait}, **more}}}


def depth(gw: Running) -> float:
    return gw.total("queue_depth", pool="pool")


@contextlib.asynccontextmanager
async def asking(gw: Running, *texts: str, **options: Any) -> AsyncIterator[list[asyncio.Task[Answer]]]:
    """These requests, each sent once the one before it waits."""
    async with asyncio.TaskGroup() as group:
        tasks = []
        for text in texts:
            before = depth(gw)
            tasks.append(group.create_task(gw.send(gw.chat_request(text, **options))))
            await eventually(lambda before=before: depth(gw) == before + 1, f"{text} never waited")  # type: ignore[misc]
        yield tasks


async def filled(gw: Running, group: asyncio.TaskGroup, held: Held, count: int = 1) -> list[asyncio.Task[Answer]]:
    """Requests in all slots."""
    tasks = [group.create_task(gw.ask("first")) for _ in range(count)]
    await eventually(lambda: held.inside == count, "the slots were never taken")
    return tasks


async def test_what_is_over_the_pools_bound_waits_and_says_how_long(backend: Backend) -> None:
    held = Held(backend)
    async with gateway_with(backend, policy=pool(2)) as gw:
        async with asyncio.TaskGroup() as group:
            first = await filled(gw, group, held, 2)
            async with asking(gw, "a", "b", "c") as tasks:
                await asyncio.sleep(0.1)
                assert held.texts == ["first", "first"]
                held.let_go(5)
        assert {(one.result().status, one.result().text) for one in [*first, *tasks]} == {(200, "done")}
        assert (held.texts[2:], held.most) == (["a", "b", "c"], 2)
        assert gw.total("queue_seconds_count", pool="pool") == 3
        lines = await gw.access_lines()
        waited = [line["queued_ms"] for line in lines]
        assert waited.count(None) == 2 and all(one > 90 for one in waited if one is not None)
        # Waiting is not what we cost: of one at least, wherever the machine stood still.
        assert min(line["overhead_ms"] for line in lines if line["queued_ms"] is not None) < 90 * slowdown()


async def test_a_queue_that_is_full_is_429_with_the_time_that_it_takes(backend: Backend) -> None:
    held = Held(backend)
    async with gateway_with(backend, policy=pool(1, size=2)) as gw:
        async with asyncio.TaskGroup() as group:
            await filled(gw, group, held)
            async with asking(gw, "a", "b"):
                answer = await gw.ask("c")
                assert (answer.status, answer.error["code"]) == (429, "queue_full")
                assert answer.error["type"] == "rate_limit_error"
                assert 1 <= int(answer.header("retry-after") or 0) <= 60
                held.let_go(3)
        assert "c" not in held.texts
        assert gw.total("queue_refused_total", pool="pool", reason="full") == 1


async def test_without_a_queue_full_is_full(backend: Backend) -> None:
    held = Held(backend)
    async with gateway_with(backend, policy={"pools": {"pool": {"max_in_flight": 1, "queue": "off"}}}) as gw:
        async with asyncio.TaskGroup() as group:
            await filled(gw, group, held)
            answer = await gw.ask()
            assert (answer.status, answer.error["code"]) == (429, "queue_full")
            held.let_go()
        held.let_go()
        assert await gw.chat() == "done"


async def test_who_waited_too_long_is_504_and_nothing_was_sent(backend: Backend) -> None:
    held = Held(backend)
    async with gateway_with(backend, policy=pool(1, wait="300ms")) as gw:
        async with asyncio.TaskGroup() as group:
            await filled(gw, group, held)
            answer = await gw.ask("late")
            assert (answer.status, answer.error["code"]) == (504, "queue_timeout")
            assert answer.header("x-sluice-attempts") is None
            held.let_go()
        assert held.texts == ["first"]
        line = next(line for line in await gw.access_lines() if line["status"] == 504)
        assert 290 < line["queued_ms"] < 3000
        assert gw.total("queue_refused_total", reason="timeout") == 1


async def test_deadline_of_a_client_ends_its_wait_and_what_would_be_late_is_refused_at_once(backend: Backend) -> None:
    held = Held(backend)
    async with gateway_with(backend, policy=pool(1)) as gw:
        hurry = [("x-sluice-deadline", "700ms")]
        async with asyncio.TaskGroup() as group:
            await filled(gw, group, held)
            answer = await gw.send(gw.chat_request("late", headers=hurry))
            assert (answer.status, answer.error["code"]) == (504, "deadline_exceeded")
            await asyncio.sleep(0.3)
            held.let_go()
        # Slots are held for about a second, as is known now.
        async with asyncio.TaskGroup() as group:
            await filled(gw, group, held)
            watch = Watch()
            answer = await gw.send(gw.chat_request("late", headers=hurry))
            assert (answer.status, answer.error["code"]) == (504, "queue_timeout")
            assert watch.own < 2
            held.let_go()
        assert held.texts == ["first", "first"]
        assert gw.total("queue_refused_total", reason="late") == 1


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "plain"])
@pytest.mark.parametrize("how", ["close", "fin", "rst"])
async def test_client_that_leaves_while_it_waits_leaves_the_queue(backend: Backend, how: str, stream: bool) -> None:
    """fault 37."""
    held = Held(backend)
    async with gateway_with(backend, policy=pool(1)) as gw:
        async with asyncio.TaskGroup() as group:
            await filled(gw, group, held)
            async with await gw.connect() as client:
                await client.send(gw.chat_request("gone", stream=stream))
                await eventually(lambda: depth(gw) == 1, "it never waited")
                {"close": client.writer.close, "fin": client.half_close, "rst": client.reset}[how]()
                await eventually(lambda: depth(gw) == 0, "it waits still", timeout=2)
            held.let_go()
        assert held.texts == ["first"]
        line = next(line for line in await gw.access_lines() if line["status"] == 499)
        assert (line["client_gone"], line["attempts"]) == ("queue", 0)
        assert gw.total("client_gone_total", phase="queue") == 1


@pytest.mark.timeout(120)
async def test_of_many_clients_that_leave_while_they_wait_nothing_is_left(backend: Backend) -> None:
    """Ten thousand clients leave while they wait for a slot."""
    held = Held(backend)
    async with gateway_with(backend, policy=pool(1, size=400, wait="10m")) as gw:
        async with asyncio.TaskGroup() as group:
            await filled(gw, group, held)
            await leave(gw, waves=25, clients=400)
            held.let_go()
        held.let_go()
        assert await gw.chat() == "done"
        assert len(held.texts) == 2
        (door,) = gw.gateway.data.admission.queues.values()
        assert (door.queue.taken, door.queue.waiting, door._signals, door._ticking) == (0, 0, {}, None)


@pytest.mark.parametrize("size", [0, 5], ids=["no place", "places"])
async def test_all_paused_and_a_deadline_before_their_end_is_told_at_once(
    backend: Backend, other: Backend, size: int
) -> None:
    """fault 85."""
    backend.answers(503, b"busy", [("retry-after", "20")])
    other.answers(429, b"busy", [("retry-after", "12")])
    async with gateway_with(backend, other, policy=pool(8, size=size), route={"retry": {"retries": 1}}) as gw:
        assert (await gw.ask()).status in (503, 429)
        attempts = backend.attempts, other.attempts
        watch = Watch()
        answer = await gw.send(gw.chat_request(headers=[("x-sluice-deadline", "5s")]))
        assert watch.own < 3
        assert (answer.status, answer.error["code"]) == (503, "no_endpoint_available")
        assert 8 <= int(answer.header("retry-after") or 0) <= 12
        if size == 0:
            answer = await gw.ask()
            assert (answer.status, answer.error["code"]) == (429, "queue_full")
            assert 8 <= int(answer.header("retry-after") or 0) <= 12
        assert (backend.attempts, other.attempts) == attempts


async def test_all_paused_for_a_moment_is_waited_for(backend: Backend) -> None:
    backend.answers(503, b"busy", [("retry-after", "2")]).then.streams("back")
    async with gateway_with(backend, policy=pool(8), route={"retry": "off"}) as gw:
        assert (await gw.ask()).status == 503
        assert await gw.chat() == "back"
        lines = await gw.access_lines()
        assert 500 < lines[-1]["queued_ms"]


async def test_nobody_alive_is_503_at_once_for_all_that_wait(backend: Backend) -> None:
    held = Held(backend)
    async with gateway_with(backend, policy=pool(1)) as gw:
        async with asyncio.TaskGroup() as group:
            await filled(gw, group, held)
            async with asking(gw, "a", "b") as tasks:
                answer = await admin(
                    gw, "POST", "/api/endpoints/pool-0/breaker", b'{"state": "open"}',
                    [("content-type", "application/json")],
                )  # fmt: skip
                assert answer.status == 200
                held.let_go()
            assert [one.result().error["code"] for one in tasks] == ["no_endpoint_available"] * 2
        assert (await gw.ask()).status == 503


async def test_whoever_waits_at_drained_endpoints_is_told_at_once(backend: Backend) -> None:
    """Also while a stream that goes on there holds the only slot: nobody will take who waits for it."""
    held = Held(backend)
    async with gateway_with(backend, policy=pool(1)) as gw:
        async with asyncio.TaskGroup() as group:
            last = await filled(gw, group, held)
            async with asking(gw, "a", "b") as tasks:
                await order(gw, "drain")
            assert [one.result().error["code"] for one in tasks] == ["no_endpoint_available"] * 2
            assert (await gw.ask()).error["code"] == "no_endpoint_available"
            await order(gw, "resume")
            async with asking(gw, "c") as tasks:
                held.let_go(2)
        assert (last[0].result().status, tasks[0].result().status) == (200, 200)
        assert held.texts == ["first", "c"]


async def order(gw: Running, word: str) -> None:
    json_body = [("content-type", "application/json")]
    assert (await admin(gw, "POST", f"/api/endpoints/pool-0/{word}", b"{}", json_body)).status == 200


async def test_an_endpoints_own_bound_holds(backend: Backend, other: Backend) -> None:
    first, second = Held(backend), Held(other)
    endpoints = [{"url": backend.url, "max_in_flight": 1}, {"url": other.url, "max_in_flight": 3}]
    async with gateway_with(backend, other, policy={"pools": {"pool": {"endpoints": endpoints}}}) as gw:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(gw.ask(str(number))) for number in range(10)]
            await eventually(lambda: (first.inside, second.inside, depth(gw)) == (1, 3, 6), "not filled")
            first.let_go(5)
            second.let_go(10)
            await eventually(lambda: first.inside + second.inside == 0, "they hang", timeout=10)
            first.let_go(10)
        assert {one.result().status for one in tasks} == {200}
        assert (first.most, second.most) == (1, 3)


async def test_a_retry_keeps_its_slot(backend: Backend, other: Backend) -> None:
    held = Held(other)
    backend.answers(502, b"no")
    policy = pool(1, balance="round_robin", ejection="off", breaker="off")
    async with gateway_with(backend, other, policy=policy) as gw:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(gw.ask(str(number))) for number in range(4)]
            for number in range(1, 5):
                await eventually(lambda n=number: len(held.texts) == n, "nobody came")  # type: ignore[misc]
                await eventually(lambda n=number: depth(gw) == 4 - n, "they never waited")  # type: ignore[misc]
                await asyncio.sleep(0.05)
                assert (held.inside, depth(gw)) == (1, 4 - number)
                held.let_go()
        assert {one.result().status for one in tasks} == {200}
        assert gw.total("retries_total") >= 2


async def test_a_reload_without_a_bound_lets_everybody_in(backend: Backend) -> None:
    held = Held(backend)
    async with gateway_with(backend, policy=pool(1)) as gw:
        async with asyncio.TaskGroup() as group:
            await filled(gw, group, held)
            async with asking(gw, "a", "b"):
                path = gw.folder / "policy.yaml"
                document = json.loads(path.read_text())
                document["pools"]["pool"]["max_in_flight"] = "off"
                path.write_text(json.dumps(document))
                await gw.gateway.reload()
                await eventually(lambda: held.inside == 3, "they wait still")
                held.let_go(3)


async def test_a_bound_that_a_reload_sets_holds_from_then_on(backend: Backend) -> None:
    held = Held(backend)
    async with gateway_with(backend, policy=pool("off")) as gw:
        path = gw.folder / "policy.yaml"
        document = json.loads(path.read_text())
        document["pools"]["pool"]["max_in_flight"] = 2
        path.write_text(json.dumps(document))
        await gw.gateway.reload()
        async with asyncio.TaskGroup() as group:
            await filled(gw, group, held, 2)
            async with asking(gw, "a"):
                held.let_go(3)
        assert held.most == 2


@pytest.mark.timeout(60)
async def test_auto_finds_what_the_engine_takes() -> None:
    settings = SimulatorSettings(models=("m",), first_byte=0.02, tokens=2, gap=0.02, max_num_seqs=4)
    async with Simulator(settings, record=False) as engine:
        async with gateway_with(engine.url, policy=pool("auto", size=1000)) as gw:

            async def one() -> None:
                async with await gw.connect() as client:
                    for _ in range(10):
                        await client.send(gw.chat_request())
                        assert (await client.answer(timeout=30)).status == 200

            async with asyncio.TaskGroup() as group:
                for _ in range(40):
                    group.create_task(one())
                await asyncio.sleep(1.0)
                await eventually(lambda: depth(gw) > 0, "they never waited")
                (told,) = (await admin(gw, "GET", "/api/queue")).json["queues"]
            assert told["max_in_flight"] == "auto"
            assert 1 <= told["slots"] <= 30
            assert told["waiting"] > 0


# -- priorities and tenants


def keys(tmp_path: Path, **plans: str) -> dict[str, str]:
    """A key for each tenant, which has a plan."""
    made = {tenant: new_key() for tenant in plans}
    entries = [
        KeyEntry(id=tenant, sha256=digest(made[tenant]), tenant=tenant, plan=plan, created=1.0)
        for tenant, plan in plans.items()
    ]
    change_keys(tmp_path / "keys.yaml", lambda _: entries)
    return made


def by(key: str) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {key}")]


async def test_priority_goes_first_and_tenants_share_by_weight(backend: Backend, tmp_path: Path) -> None:
    held = Held(backend)
    made = keys(tmp_path, gold="gold", light="light", heavy="heavy")
    policy = {
        **pool(1),
        "auth": {"api_keys": {"file": str(tmp_path / "keys.yaml")}},
        "plans": {"gold": {"priority": 10}, "light": {"weight": 1}, "heavy": {"weight": 3}},
    }
    async with gateway_with(backend, policy=policy) as gw:
        async with asyncio.TaskGroup() as group:
            group.create_task(gw.send(gw.chat_request("first", headers=by(made["gold"]))))
            await eventually(lambda: held.inside == 1, "the slot was never taken")
            for tenant, count in (("light", 12), ("heavy", 12), ("gold", 3)):
                before = depth(gw)
                for _ in range(count):
                    group.create_task(gw.send(gw.chat_request(tenant, headers=by(made[tenant]))))
                await eventually(lambda b=before, c=count: depth(gw) == b + c, "they never waited")  # type: ignore[misc]
            answer = await admin(gw, "GET", "/api/queue")
            (told,) = answer.json["queues"]
            assert (told["name"], told["slots"], told["in_use"], told["waiting"]) == ("pool", 1, 1, 27)
            assert [(one["priority"], one["waiting"], one["tenants"]) for one in told["levels"]] == [
                (10, 3, {"gold": 3}), (0, 24, {"light": 12, "heavy": 12}),
            ]  # fmt: skip
            held.let_go(28)
        assert held.texts[:4] == ["first", "gold", "gold", "gold"]
        assert sorted(held.texts[4:16]) == ["heavy"] * 9 + ["light"] * 3


# -- a pool without an endpoint


@pytest.mark.timeout(60)
async def test_requests_wait_for_the_first_worker_and_for_one_that_is_started_again(tmp_path: Path) -> None:
    workers = {
        "pools": {
            "pool": {
                "engine": "simulator", "endpoints": [],
                "workers": {"model": "m", "count": 1, "restart": {"backoff": "100ms"}, "start_timeout": "20s"},
            }
        }
    }  # fmt: skip
    async with gateway_with(pools={"pool": []}, policy=workers) as gw:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(gw.ask("hi", max_tokens=3)) for _ in range(5)]
        assert {one.result().status for one in tasks} == {200}
        (worker,) = gw.gateway.control.workers()
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGKILL)
        await eventually(lambda: not gw.gateway.plane.view.pools["pool"].candidates, "nobody noticed")  # type: ignore[union-attr]
        assert (await gw.ask("hi", max_tokens=3)).status == 200
        lines = await gw.access_lines()
        assert all(line["queued_ms"] is not None for line in lines)
        assert depth(gw) == 0


# -- everything at once


async def test_the_gateways_end_tells_those_that_wait(backend: Backend) -> None:
    held = Held(backend)
    tasks: list[asyncio.Task[Answer]] = []
    async with asyncio.TaskGroup() as group:
        async with gateway_with(backend, policy=pool(1), quiet=False) as gw:
            first = group.create_task(gw.ask("first"))
            await eventually(lambda: held.inside == 1, "the slot was never taken")
            tasks += [group.create_task(gw.ask("waits")) for _ in range(3)]
            await eventually(lambda: depth(gw) == 3, "they never waited")
        held.let_go(4)
    assert [(one.result().status, one.result().error["code"]) for one in (first, *tasks)] == [
        (503, "shutting_down")
    ] * 4
    assert held.texts == ["first"]


@pytest.mark.timeout(120)
async def test_whatever_happens_to_requests_that_wait_every_slot_comes_back(
    backend: Backend, other: Backend, tmp_path: Path
) -> None:
    seed = random.SystemRandom().randrange(1 << 31)
    rng = random.Random(seed)

    async def engine(c: Connection, request: Request) -> None:
        await asyncio.sleep(rng.random() * 0.05)
        kind = rng.random()
        if kind < 0.1:
            c.fin()
        elif kind < 0.2:
            await c.send(plain(503, b"busy"))
        else:
            await c.send(STREAM_HEAD + b"".join(chunked(one) for one in Said(("done",)).events()) + LAST_CHUNK)

    backend.does(engine)
    other.does(engine)
    made = keys(tmp_path, gold="gold", light="light", heavy="heavy")
    policy = {
        **pool(3, size=5, wait="300ms", ejection="off", breaker="off"),
        "auth": {"api_keys": {"file": str(tmp_path / "keys.yaml")}},
        "plans": {"gold": {"priority": 10}, "light": {"weight": 1}, "heavy": {"weight": 3}},
    }
    statuses: set[int] = set()
    async with gateway_with(backend, other, policy=policy, endpoint={"max_in_flight": 2}) as gw:

        async def one() -> None:
            await asyncio.sleep(rng.random() * 3)
            headers = by(made[rng.choice(list(made))])
            if rng.random() < 0.3:
                headers.append(("x-sluice-deadline", f"{rng.randrange(1, 300)}ms"))
            async with await gw.connect() as client:
                await client.send(gw.chat_request("hi", headers=headers, stream=rng.random() < 0.5))
                if rng.random() < 0.3:
                    await asyncio.sleep(rng.random() * 0.2)
                    rng.choice((client.reset, client.half_close))()
                    return
                statuses.add((await client.answer()).status)

        async with asyncio.TaskGroup() as group:
            for _ in range(500):
                group.create_task(one())
            path = gw.folder / "policy.yaml"
            for bound in (1, "off", 5, "auto", 2):
                await asyncio.sleep(0.6)
                document = json.loads(path.read_text())
                document["pools"]["pool"]["max_in_flight"] = bound
                path.write_text(json.dumps(document))
                await gw.gateway.reload()
        queue = gw.gateway.data.admission.queues["pool"].queue
        await eventually(lambda: (queue.taken, queue.waiting) == (0, 0), f"seed {seed}: {queue.taken}, {queue.waiting}")
    assert statuses >= {200, 429, 504}, f"seed {seed}"
