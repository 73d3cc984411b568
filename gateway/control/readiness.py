"""The first round of the workers: until it is over, a gateway that is not ready may only need more time."""

import asyncio
from collections.abc import Iterable

from backends.workers.supervisor import WorkerView


class WorkerFirstRound:
    """Of the workers that a gateway was started with."""

    def __init__(self) -> None:
        self._waited_for: set[str] | None = None
        self.settled = asyncio.Event()
        """Set once every worker was ready or failed once: from then on, waiting longer means waiting for a repair."""

    def begin(self, views: Iterable[WorkerView]) -> None:
        """These were started."""
        listed = list(views)
        self._waited_for = {view.name for view in listed}
        self.see(listed)

    def see(self, views: Iterable[WorkerView]) -> None:
        """The workers as they are now."""
        if self._waited_for is not None:
            self._waited_for -= {view.name for view in views if view.state == "ready" or view.reason}
            if not self._waited_for:
                self.settled.set()
