"""The store of limits that is asked now, and its change when a reload brings another one (policy key `store`).

The one before is asked no more as soon as the new one is connected, or known to be away. It goes on for as long as a
slot outlives its holder, so that what is open gives back there what it took there; a request that takes longer keeps
there what it had reserved.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from backends.control.meters import StoreMeter
from backends.store.base import LEASE_LIFETIME, LimitStore
from backends.tasks import ended
from gateway.observe.log import fields
from policies.config.settings import StoreSettings
from policies.limits import WINDOWS, LimitRule

log = logging.getLogger("sluice.store")


class PreparedLimitStore(LimitStore, Protocol):
    """A store that is told of the rules before a request asks for them."""

    def ready(self, rules: "list[LimitRule]", /) -> None: ...


class StoreListener:
    """What a store tells of itself, for as long as it is the one that is asked."""

    def __init__(self, meter: StoreMeter, say: Callable[[str, Mapping[str, object]], None]) -> None:
        self.heard = True
        self.store_seconds = meter.store_seconds
        self._meter = meter
        self._say = say
        self._state = "store"

    def store_error(self, kind: str) -> None:
        if self.heard:
            self._meter.store_error(kind)

    def limit_mode(self, state: str) -> None:
        self._state = state
        self.again()

    def again(self) -> None:
        """Who decides on limits, once more: another one may have said something else meanwhile."""
        if self.heard:
            self._meter.limit_mode(self._state)

    def say(self, event: str, what: Mapping[str, object]) -> None:
        if self.heard:
            self._say(event, what)


@dataclass(frozen=True, slots=True, eq=False)
class _OpenStore:
    settings: StoreSettings
    store: PreparedLimitStore
    voice: StoreListener


class LimitStoreSwitch:
    """The store of limits of one process; there is none before the first limit."""

    def __init__(
        self,
        settings: Callable[[], StoreSettings],
        opens: Callable[[StoreSettings, StoreListener], PreparedLimitStore],
        voice: Callable[[], StoreListener],
        patience: float = LEASE_LIFETIME,
    ) -> None:
        """
        settings: what the policy in force says
        opens: makes a store of it; nothing is connected before its `start`
        patience: seconds for which the store before goes on
        """
        self._settings = settings
        self._opens = opens
        self._voice = voice
        self._patience = patience
        self._asked: _OpenStore | None = None
        self._newest: _OpenStore | None = None
        self._windows: LimitRule | None = None
        self._starting: asyncio.Task[None] | None = None
        self._leaving: set[asyncio.Task[None]] = set()

    @property
    def current(self) -> PreparedLimitStore | None:
        return None if self._asked is None else self._asked.store

    def follow(self, rules: list[LimitRule]) -> None:
        """These are the rules now: be ready for them, in the store that the policy names."""
        if not rules:
            return
        settings = self._settings()
        if self._newest is None or settings != self._newest.settings:
            voice = self._voice()
            self._newest = _OpenStore(settings, self._opens(settings, voice), voice)
            if self._asked is None:
                self._asked = self._newest
            start = self._start(self._newest, self._starting)
            self._starting = asyncio.get_running_loop().create_task(start, name="store of limits")
        # One that came under the policy before may still ask for its windows.
        self._windows = next((rule for rule in rules if rule.strategy in WINDOWS), self._windows)
        for one in {self._asked, self._newest}:
            assert one is not None
            one.store.ready(rules if self._windows is None else [*rules, self._windows])

    async def started(self) -> None:
        """Return when the store is connected, or is known to be away, after a second at the latest: the first requests
        would else wait for its connection, be late, and be counted in a bucket of this process."""
        if self._starting is not None:
            await asyncio.wait({self._starting}, timeout=1.0)

    async def stop(self) -> None:
        """Settle what is left, for a moment at most."""
        await self.started()
        # Those that leave have waited long enough, and a change that is not through by now will not be.
        await ended(*self._leaving, self._starting)
        for one in {self._asked, self._newest} - {None}:
            assert one is not None
            await one.store.stop()

    async def _start(self, new: _OpenStore, before: "asyncio.Task[None] | None") -> None:
        """Ask it from the moment at which it is there, or is known not to be."""
        if before is not None:
            await before
        await new.store.start()
        old = self._asked
        if old is None or old is new:
            return
        self._asked, old.voice.heard = new, False
        new.voice.again()
        log.info("store_changed", extra=fields(prefix=new.settings.prefix))
        task = asyncio.get_running_loop().create_task(self._leave(old), name="store of limits that was")
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def _leave(self, old: _OpenStore) -> None:
        try:
            await asyncio.sleep(self._patience)
        finally:
            await old.store.stop()
