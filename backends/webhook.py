"""Tells a person: one POST of JSON to an operator's address, tried a few times, without ever holding up a request.

What is told is what happened, in names: never a body, a credential or an address. The hook's own address may hold a
secret, so no log line has it.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from backends.http_client import HttpClient, HttpError
from backends.tasks import ended
from policies import codec

TIMEOUT: Final = 5.0
"""Seconds that a hook has for its answer, each time."""
WAITS: Final = (1.0, 4.0, 16.0)
"""Seconds before it is tried again."""
MOST: Final = 16
"""Number of notifications under way at a time; further ones are dropped and logged."""


class Webhooks:
    """All that one process has to tell. `waits` has one length less than there are tries; `say` is told what became of
    each: `webhook_told`, `webhook_failed` or `webhook_dropped`, with the route and why."""

    def __init__(
        self, *, agent: str, say: Callable[[str, Mapping[str, object]], None], timeout: float = TIMEOUT,
        waits: Sequence[float] = WAITS, most: int = MOST,
    ) -> None:  # fmt: skip
        self._say = say
        self._agent = agent
        self._timeout = timeout
        self._waits = tuple(waits)
        self._most = most
        self._http: HttpClient | None = None
        self._telling: set[asyncio.Task[None]] = set()

    def notify(self, url: str, token: str | None, route: str, what: Mapping[str, Any]) -> bool:
        """POST `what` in the background. False where too many are on their way already."""
        if len(self._telling) >= self._most:
            self._say("webhook_dropped", {"route": route, "waiting": len(self._telling)})
            return False
        headers = {"content-type": "application/json", "user-agent": self._agent}
        if token is not None:
            headers["authorization"] = f"Bearer {token}"
        task = asyncio.get_running_loop().create_task(
            self._deliver(url, headers, route, codec.encode(what)), name="webhook"
        )
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)
        return True

    async def stop(self, grace: float = 2.0) -> None:
        """Let what is on its way arrive, for so many seconds; then it is given up."""
        telling = set(self._telling)
        if telling:
            _, late = await asyncio.wait(telling, timeout=grace)
            await ended(*late)
        http, self._http = self._http, None
        if http is not None:
            await http.close()

    async def _deliver(self, url: str, headers: Mapping[str, str], route: str, body: bytes) -> None:
        tries, why = 0, ""
        for wait in (0.0, *self._waits):
            await asyncio.sleep(wait)
            tries += 1
            why = await self._post(url, headers, body)
            if not why:
                self._say("webhook_told", {"route": route, "tries": tries})
                return
            if why in _HOPELESS:
                break
        self._say("webhook_failed", {"route": route, "tries": tries, "reason": why})

    async def _post(self, url: str, headers: Mapping[str, str], body: bytes) -> str:
        """Post once; return the fault, empty where the receiver has accepted."""
        if self._http is None:
            self._http = HttpClient()
        try:
            status = await self._http.post_status(url, self._timeout, body, headers)
        except HttpError as error:
            # httpx's texts name the address.
            return "no answer in time" if isinstance(error.__cause__, TimeoutError) else "no answer"
        return "" if 200 <= status < 300 else f"status {status}"


# What another try would not change.
_HOPELESS: Final = frozenset(f"status {status}" for status in range(300, 500) if status not in (408, 425, 429))
