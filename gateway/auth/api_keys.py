"""API keys of the policy in force, read from a file or the store, with the warnings about them."""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from errno import EINVAL
from pathlib import Path
from typing import TYPE_CHECKING

from backends.identity.keyfile import load_keys
from gateway.observe.log import fields
from policies.config.settings import Policy
from policies.identity.api_keys import KeyEntry
from policies.identity.authenticator import KeyRecord, records

if TYPE_CHECKING:
    from gateway.auth.stored_keys import StoredKeysWatcher

log = logging.getLogger("sluice.control")


@dataclass(frozen=True, slots=True)
class LoadedKeys:
    """API keys as read, with their warnings."""

    records: Mapping[bytes, KeyRecord]
    demo_key: str | None = None
    """The text of a public key, where an example has one."""
    warnings: tuple[tuple[str, Mapping[str, object]], ...] = ()
    """Warnings to log: each an event and its fields."""
    known: bool = True
    """False where the keys could not be read: an unknown key may then be a good one."""

    def warn(self) -> None:
        """Log the warnings."""
        for event, what in self.warnings:
            log.warning(event, extra=what)


def read_keys(policy: Policy, *, first: bool, stored: Sequence[KeyEntry] | None = None) -> LoadedKeys:
    """Return the keys of the keys file, or the keys `stored` that were read from the store (None: none so far). A key
    whose plan is gone is left out. Logs nothing: at the start there is no log yet, and on a reload this runs in a
    thread. Raises KeyFileError."""
    place = policy.auth.api_keys
    if place is None:
        return LoadedKeys({})
    if place.file is None:
        return LoadedKeys({}, known=False) if stored is None else _keys(stored, policy)
    path = Path(place.file)
    if first and policy.auth.anonymous is not None and not path.exists():
        missing = fields(file=str(path), so="only anonymous requests are served until it is there")
        return LoadedKeys({}, warnings=(("keys_file_missing", missing),))
    return _keys(load_keys(path), policy)


def _keys(entries: Sequence[KeyEntry], policy: Policy) -> LoadedKeys:
    found, problems = records(entries, policy.plans)
    demo_key = next((entry.labels["demo_key"] for entry in entries if "demo_key" in entry.labels), None)
    return LoadedKeys(found, demo_key, tuple(("key_left_out", fields(problem=problem)) for problem in problems[:20]))


class StoreKeySource:
    """API keys in the store, of the policy in force. `taken` is called when the keys have changed, `failed` with the
    kind of each error of the store."""

    def __init__(self, taken: Callable[[], Awaitable[None]], failed: Callable[[str], None]) -> None:
        self._taken = taken
        self._failed = failed
        self._followed: StoredKeysWatcher | None = None

    @property
    def entries(self) -> Sequence[KeyEntry] | None:
        """Keys read from the store; None for none so far, and where the policy has no keys in the store."""
        return None if self._followed is None else self._followed.entries

    async def follow(self, policy: Policy) -> bool:
        """Read the keys in the store, where this policy has them there, and watch them; return whether it has. Raises
        OSError for an invalid URL."""
        await self.stop()
        if policy.auth.api_keys is None or not policy.auth.api_keys.store:
            return False
        # Loads redis-py: 65 ms and 11 MB, for who keeps keys there.
        from gateway.auth.stored_keys import StoredKeysWatcher

        try:
            self._followed = StoredKeysWatcher(policy.store, self._taken, self._failed)
        except ValueError as error:
            raise OSError(EINVAL, f"store.url: {error}") from None
        await self._followed.start()
        return True

    async def stop(self) -> None:
        """Stop watching."""
        before, self._followed = self._followed, None
        if before is not None:
            await before.stop()
