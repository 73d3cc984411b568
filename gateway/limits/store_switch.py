"""Switch between stores of limits when a reload changes the policy key `store`.

The new store is in use as soon as it is connected, or known to be away. The old one runs on for the lifetime of a
lease, so that requests under way give back their amounts there; a request that takes longer leaves its reservation
there.
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
    """Store of limits that prepares for its rules before the first request."""

    def ready(self, rules: "list[LimitRule]", /) -> None: ...


class StoreListener:
    """Forwards the metrics and events of a store to the process, as long as the store is in use."""

    def __init__(self, meter: StoreMeter, log_event: Callable[[str, Mapping[str, object]], None]) -> None:
        self.active = True
        self.store_seconds = meter.store_seconds
        self._meter = meter
        self._log_event = log_event
        self._state = "store"

    def store_error(self, kind: str) -> None:
        if self.active:
            self._meter.store_error(kind)

    def limit_mode(self, state: str) -> None:
        self._state = state
        self.report_mode()

    def report_mode(self) -> None:
        """Report the mode of this store again: another store may have reported its own meanwhile."""
        if self.active:
            self._meter.limit_mode(self._state)

    def log_event(self, event: str, what: Mapping[str, object]) -> None:
        if self.active:
            self._log_event(event, what)


@dataclass(frozen=True, slots=True, eq=False)
class _OpenStore:
    settings: StoreSettings
    store: PreparedLimitStore
    listener: StoreListener


class LimitStoreSwitch:
    """The store of limits of one process; there is none before the first limit."""

    def __init__(
        self,
        settings: Callable[[], StoreSettings],
        opens: Callable[[StoreSettings, StoreListener], PreparedLimitStore],
        listener: Callable[[], StoreListener],
        patience: float = LEASE_LIFETIME,
    ) -> None:
        """
        settings: store settings of the policy in force
        opens: makes a store of them; it connects in `start`
        listener: makes the listener of one store
        patience: seconds for which an old store runs on
        """
        self._settings = settings
        self._opens = opens
        self._listener = listener
        self._patience = patience
        self._in_use: _OpenStore | None = None
        self._newest: _OpenStore | None = None
        self._windows: LimitRule | None = None
        self._starting: asyncio.Task[None] | None = None
        self._leaving: set[asyncio.Task[None]] = set()

    @property
    def current(self) -> PreparedLimitStore | None:
        return None if self._in_use is None else self._in_use.store

    def follow(self, rules: list[LimitRule]) -> None:
        """Adopt the rules of a new table: prepare the store that the policy names."""
        if not rules:
            return
        settings = self._settings()
        if self._newest is None or settings != self._newest.settings:
            listener = self._listener()
            self._newest = _OpenStore(settings, self._opens(settings, listener), listener)
            if self._in_use is None:
                self._in_use = self._newest
            start = self._start(self._newest, self._starting)
            self._starting = asyncio.get_running_loop().create_task(start, name="store of limits")
        # A request under the policy before may still need the store's windows.
        self._windows = next((rule for rule in rules if rule.strategy in WINDOWS), self._windows)
        for one in {self._in_use, self._newest}:
            assert one is not None
            one.store.ready(rules if self._windows is None else [*rules, self._windows])

    async def started(self) -> None:
        """Wait until the store is connected, or known to be away, for a second at most: the first requests would else
        wait for its connection, be late, and be counted in a bucket of this process."""
        if self._starting is not None:
            await asyncio.wait({self._starting}, timeout=1.0)

    async def stop(self) -> None:
        """Stop the stores; pending refunds have a moment at most."""
        await self.started()
        # Old stores have waited long enough, and a start that is not done by now will not be.
        await ended(*self._leaving, self._starting)
        for one in {self._in_use, self._newest} - {None}:
            assert one is not None
            await one.store.stop()

    async def _start(self, new: _OpenStore, before: "asyncio.Task[None] | None") -> None:
        """Start a store and put it in use once it is connected, or known to be away."""
        if before is not None:
            await before
        await new.store.start()
        old = self._in_use
        if old is None or old is new:
            return
        self._in_use, old.listener.active = new, False
        new.listener.report_mode()
        log.info("store_changed", extra=fields(prefix=new.settings.prefix))
        task = asyncio.get_running_loop().create_task(self._leave(old), name="store of limits that was")
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def _leave(self, old: _OpenStore) -> None:
        try:
            await asyncio.sleep(self._patience)
        finally:
            await old.store.stop()
