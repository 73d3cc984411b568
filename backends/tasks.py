"""The end of tasks that go on in the background."""

import asyncio
from typing import Any


async def ended(*tasks: "asyncio.Task[Any] | None") -> None:
    """Cancel them, and return once all are over; None stands for none. What one has failed with is not raised: who
    started a task looks at that itself."""
    there = [task for task in tasks if task is not None]
    for task in there:
        task.cancel()
    await asyncio.gather(*there, return_exceptions=True)
