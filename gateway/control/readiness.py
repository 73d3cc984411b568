"""The first round of the workers: until it is over, a gateway that is not ready may only need more time."""

import asyncio
from collections.abc import Iterable

from backends.workers.supervisor import WorkerView


class WorkerFirstRound:
    """First round of the workers that the gateway was started with."""

    def __init__(self) -> None:
        self._waited_for: set[str] | None = None
        self.settled = asyncio.Event()
        """Set once every worker was ready or failed once: waiting longer means waiting for a repair."""

    def begin(self, views: Iterable[WorkerView]) -> None:
        """Begin the round with the started workers."""
        listed = list(views)
        self._waited_for = {view.name for view in listed}
        self.see(listed)

    def see(self, views: Iterable[WorkerView]) -> None:
        """Update the round with the present state of the workers."""
        if self._waited_for is not None:
            self._waited_for -= {view.name for view in views if view.state == "ready" or view.reason}
            if not self._waited_for:
                self.settled.set()
