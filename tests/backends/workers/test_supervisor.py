"""Workers as real processes: they are started, watched, restarted and ended."""

import asyncio
import os
import signal

import pytest

from policies.config.settings import PoolSettings, WorkerSettings
from policies.config.settings.workers import RestartSettings, StopSettings
from tests.backends.workers.conftest import alive, become, gone, house, pool
from tests.pace import Watch


async def test_workers_are_started_side_by_side_and_told_of_when_ready() -> None:
    watch = Watch()
    async with house(p=pool("late", count=2)) as run:
        views = await run.ready(2)
        assert watch.calm < 3.0
        assert [view.name for view in views] == ["p-w0", "p-w1"]
        assert len({view.url for view in views}) == 2
        assert all(view.started_in is not None and view.started_in >= 0.4 for view in views)
        assert run.kinds() == ["starting", "ready"]


async def test_each_worker_leads_a_session_of_its_own() -> None:
    async with house(p=pool()) as run:
        [view] = await run.ready()
        assert view.pid is not None
        assert os.getpgid(view.pid) == os.getsid(view.pid) == view.pid


async def test_a_death_is_noticed_at_once_and_the_worker_comes_back() -> None:
    async with house(p=pool()) as run:
        [view] = await run.ready()
        assert view.pid is not None
        watch = Watch()
        os.kill(view.pid, signal.SIGKILL)
        await run.until(lambda: not run.now("ready"))
        # 10 ms on an idle machine; on a busy one, the process that dies waits for a processor as well.
        assert watch.calm < 0.5
        assert run.events[-1].reason == "killed by SIGKILL"
        [again] = await run.ready()
        assert again.pid != view.pid
        assert (again.starts, again.restarts) == (2, 1)


@pytest.mark.parametrize(("habit", "reason"), [("zero", "exit code 0"), ("crash", "exit code 1: no such model")])
async def test_an_exit_at_start_backs_off_with_its_reason(habit: str, reason: str) -> None:
    async with house(p=pool(habit)) as run:
        await run.until(lambda: run.kinds().count("died") >= 3)
        [view] = run.supervisor.workers()
        assert view.reason == reason
        assert view.restarts >= 2


async def test_a_command_that_is_not_there_is_a_reason_not_a_crash() -> None:
    async with house(p=pool(command=("no-such-engine", "{port}"))) as run:
        await run.until(lambda: run.kinds().count("died") >= 2)
        assert run.now("backing_off")[0].reason == "no-such-engine: no such program"


async def test_a_slow_start_is_ended_at_its_timeout() -> None:
    async with house(p=pool("fork", "silent", start_timeout=1.5)) as run:
        await run.until(lambda: "died" in run.kinds())
        assert run.supervisor.workers()[0].reason == "not healthy within 1.5 s"
        await run.until(lambda: run.kinds().count("starting") == 2)
        assert not alive(run.helpers()[0])


async def test_an_engine_that_says_503_is_not_ready() -> None:
    async with house(p=pool("unwell", start_timeout=0.4)) as run:
        await run.until(lambda: "died" in run.kinds())
        assert "ready" not in run.kinds()


async def test_a_stranger_on_the_port_is_not_taken_for_the_worker() -> None:
    async with house(p=pool("stranger")) as run:
        await run.until(lambda: "died" in run.kinds())
        assert "belongs to a process outside the worker's group" in run.events[-1].reason


async def test_an_engine_that_needs_its_port_for_itself_gets_it_at_the_second_start() -> None:
    async with house(p=pool("exclusive")) as run:
        [view] = await run.ready()
        assert view.restarts == 1


async def test_helpers_of_a_dead_worker_are_ended_with_it() -> None:
    async with house(p=pool("fork")) as run:
        [view] = await run.ready()
        assert view.pid is not None
        await run.until(run.helpers)
        os.kill(view.pid, signal.SIGKILL)
        await run.until(lambda: run.kinds().count("starting") == 2)
        assert not alive(run.helpers()[0])


async def test_shared_memory_of_a_killed_worker_is_cleaned_up() -> None:
    async with house(p=pool("shared")) as run:
        [view] = await run.ready()
        await run.until(run.segments)
        [segment] = run.segments()
        assert segment.exists()
        os.kill(view.pid or 0, signal.SIGKILL)
        await run.until(lambda: len(run.segments()) == 2)
        assert not segment.exists()
        await run.ready()
        await run.supervisor.stop(hurry=True)
        assert not run.segments()[-1].exists()


async def test_a_stop_asks_first_and_kills_who_does_not_listen() -> None:
    async with house(p=pool(), q=pool("ignore_term", "fork")) as run:
        views = await run.ready(2)
        await run.until(run.helpers)
        watch = Watch()
        await run.supervisor.stop(hurry=False)
        assert 0.3 <= watch.seconds and watch.calm < 3.0
        assert not any(alive(pid) for pid in [*run.helpers(), *(view.pid or 0 for view in views)])
        assert run.supervisor.workers() == []
        assert run.kinds("q-w0")[-2:] == ["stopping", "stopped"]


async def test_a_hurry_ends_all_groups_within_a_second() -> None:
    slow = StopSettings(drain=60.0, kill_after=60.0)
    async with house(p=pool("ignore_term", "fork", count=2, stop=slow)) as run:
        await run.ready(2)
        stopping = asyncio.get_running_loop().create_task(run.supervisor.stop(hurry=False))
        await asyncio.sleep(0.05)
        watch = Watch()
        await run.supervisor.stop(hurry=True)
        assert watch.calm < 1.0
        await stopping
        assert not any(map(alive, run.helpers()))


async def test_a_stop_while_starting_or_backing_off_leaves_nothing() -> None:
    late = RestartSettings(backoff=60.0, max=60.0)
    async with house(p=pool("silent"), q=pool("crash", restart=late)) as run:
        await run.until(lambda: run.now("backing_off"))
        async with asyncio.timeout(15.0):
            await run.supervisor.stop(hurry=False)


async def test_a_new_policy_touches_only_the_workers_that_it_changes() -> None:
    async with house(p=pool(), q=pool(), r=pool()) as run:
        before = {view.name: view.pid for view in await run.ready(3)}
        longer = pool(stop=StopSettings(drain=1.0, kill_after=9.0))
        await run.supervisor.reconcile({"p": longer, "q": pool("late"), "s": pool()})
        names = ["p-w0", "q-w0", "s-w0"]
        await run.until(lambda: sorted(view.name for view in run.now("ready")) == names)
        after = {view.name: view.pid for view in run.now("ready")}
        assert after["p-w0"] == before["p-w0"]
        assert after["q-w0"] != before["q-w0"]
        await run.until(lambda: run.kinds("r-w0")[-2:] == ["stopping", "stopped"])
        assert not alive(before["r-w0"] or 0)


async def test_a_worker_that_is_to_go_finishes_its_requests_first() -> None:
    asked: list[str] = []
    idle = asyncio.Event()

    async def drained(name: str) -> None:
        asked.append(name)
        await idle.wait()

    async with house(p=pool(), drained=drained) as run:
        [view] = await run.ready()
        await run.supervisor.reconcile({})
        await run.until(lambda: run.now("stopping"))
        assert alive(view.pid or 0)
        idle.set()
        await run.until(lambda: not run.supervisor.workers())
        assert asked == ["p-w0"]


async def test_a_worker_that_is_wanted_again_while_it_goes_comes_back() -> None:
    async with house(p=pool()) as run:
        [view] = await run.ready()
        await run.supervisor.reconcile({})
        await run.supervisor.reconcile({"p": pool()})
        await run.until(lambda: run.now("ready") and run.now("ready")[0].pid != view.pid)


async def test_a_worker_is_never_made_to_wait_for_its_output() -> None:
    async with house(p=pool("flood")) as run:
        await run.ready()
        await run.until(lambda: any("lines left out" in text for _, text in run.lines))
        assert run.lines[0][0] == "p-w0"


async def test_no_worker_no_guard() -> None:
    async with house() as run:
        assert run.launcher.guard.pid is None


async def test_a_guard_that_is_killed_is_replaced_and_told_of_every_group() -> None:
    async with house(p=pool("session")) as run:
        [view] = await run.ready()
        await run.until(run.helpers)
        first = run.launcher.guard.pid
        assert first is not None and view.pid is not None
        os.kill(first, signal.SIGKILL)
        await run.until(lambda: run.warnings)
        await become(lambda: run.launcher.guard.pid is not None, within=3.0)
        assert run.launcher.guard.pid != first
        # It goes when we let it, and takes with it what is in its book or bears its mark.
        await run.launcher.stop()
        await gone(view.pid, *run.helpers())


async def test_deaths_leave_no_descriptor_behind() -> None:
    async def descriptors() -> int:
        # The first thread for /proc takes none, but let it start before we count.
        await asyncio.to_thread(int)
        return len(os.listdir("/proc/self/fd"))

    before = await descriptors()
    quick = RestartSettings(backoff=0.0, max=0.0)
    async with house(p=pool(restart=quick), q=pool("crash", restart=quick)) as run:
        for start in range(1, 6):
            await run.until(lambda start=start: run.kinds().count("ready") == start)  # type: ignore[misc]
            os.kill(run.now("ready")[0].pid or 0, signal.SIGKILL)
        await run.until(lambda: run.kinds("q-w0").count("died") >= 5)
        await run.supervisor.stop(hurry=True)
        assert await descriptors() == before


async def test_two_simulators_are_ready_in_a_blink() -> None:
    watch = Watch()
    async with house(p=PoolSettings(engine="simulator", workers=WorkerSettings(count=2))) as run:
        await run.ready(2)
        # 0.15 s on two idle cores.
        assert watch.calm < 2.0
