"""A process that does nothing but supervise two workers; run as a script: `gateway.py asyncio|uvloop HABIT ...`."""

import asyncio
import sys

from tests.backends.workers.conftest import house, pool


async def main(habits: list[str]) -> None:
    async with house(p=pool(*habits, count=2)) as run:
        views = await run.ready(2)
        expected = 2 * sum(habit in ("fork", "session", "shared") for habit in habits)
        await run.until(lambda: len(run.helpers() + run.segments()) == expected)
        print("worker", *(view.pid for view in views))  # noqa: T201 - it is how the test learns of them
        print("helper", *run.helpers())  # noqa: T201
        print("segment", *(int(segment.name.removeprefix("psm_"), 16) for segment in run.segments()))  # noqa: T201
        print("guard", run.launcher.guard.pid)  # noqa: T201
        print("ready", flush=True)  # noqa: T201
        await asyncio.Event().wait()


if __name__ == "__main__":
    if sys.argv[1] == "uvloop":
        import uvloop

        uvloop.run(main(sys.argv[2:]))
    else:
        asyncio.run(main(sys.argv[2:]))
