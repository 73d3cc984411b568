"""The keys of issuers, fetched in the background: what verifies tokens is here before a token comes.

Each issuer has a task that fetches every `refresh`, and at once when a token names a key that nobody has (at most once
a `COOLDOWN`, whoever asks and however often). While an issuer cannot be reached the last keys serve for `stale`, then
none are known. Whatever changes is told by `changed`, upon which the control side hands the data plane a new table.
Issuers whose keys are in a file are nothing to this module: the control side reads files.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from backends.http_client import HttpClient, HttpError
from policies.config.settings import JwtSettings
from policies.identity.issuers import VerifyingKey

if TYPE_CHECKING:
    from policies.identity.jwks import JwkSet

log = logging.getLogger("sluice.identity")

COOLDOWN: Final = 10.0
"""Seconds between two fetches that tokens ask for, and between two tries while the issuer fails."""
PATIENCE: Final = 1.0
"""Seconds that a request waits for a fetch, from the fetch's beginning on."""
TIMEOUT: Final = 5.0
"""Seconds that a fetch may take."""
_FIRST_PAUSE: Final = 1.0
# Gateways that were started together should not fetch together; earlier, for `refresh` is a promise.
_JITTER: Final = 0.1

Answer = Literal["newest", "unknown"]
"""State of an issuer's keys: `newest`, as published; `unknown`, the issuer cannot be reached."""
Event = Literal["issuer_keys", "issuer_lost", "issuer_back", "issuer_forgotten"]


@dataclass(frozen=True, slots=True)
class KeySourceContext:
    """Dependencies that all issuers share. `clock` is monotonic, in seconds; `changed` is called when keys are other
    ones."""

    http: HttpClient
    clock: Callable[[], float]
    rng: random.Random
    changed: Callable[[], None]
    say: Callable[[Event, Mapping[str, object]], None]
    """Told of every change of what is known of an issuer, once."""
    cooldown: float
    timeout: float


@dataclass(frozen=True, slots=True)
class _Fetch:
    """One that is under way."""

    began: float
    done: asyncio.Future[None]


class KeySource:
    """The keys of one issuer. `keys` is None while they are not known."""

    def __init__(self, settings: JwtSettings, url: str, around: KeySourceContext) -> None:
        self.settings = settings
        self.keys: tuple[VerifyingKey, ...] | None = None
        self._url = url
        self._around = around
        self._fetch: _Fetch | None = None
        self._begun = asyncio.Event()
        self._wanted_at: float | None = None
        self._fetched_at: float | None = None
        self._failures = 0
        self._problems: tuple[str, ...] = ()

    async def run(self) -> None:
        """Fetch for as long as the issuer is there."""
        while True:
            fetch = self._begin()
            try:
                await self._fetch_once()
            finally:
                self._fetch = None
                self._begun.clear()
                if not fetch.done.done():
                    fetch.done.set_result(None)
            await self._rest()

    async def want(self) -> Answer:
        """A token names a key that is not known: have the keys fetched, if that was not done just now, and wait for it
        a little."""
        now = self._around.clock()
        if self._fetch is None and (self._wanted_at is None or now - self._wanted_at >= self._around.cooldown):
            self._wanted_at = now
            self._begin()
        fetch = self._fetch
        if fetch is not None and (left := fetch.began + PATIENCE - now) > 0:
            # Nothing that needs a task may stand here: a request is none (gateway/http/driver.py).
            await asyncio.wait({fetch.done}, timeout=left)
        over = fetch is None or fetch.done.done()
        return "newest" if over and self._failures == 0 and self.keys is not None else "unknown"

    def _begin(self) -> _Fetch:
        """From now on a fetch is under way; `run` does it."""
        if self._fetch is None:
            done = asyncio.get_running_loop().create_future()
            self._fetch = _Fetch(self._around.clock(), done)
            self._begun.set()
        return self._fetch

    async def _rest(self) -> None:
        """Wait until the next fetch is due or requested; drop keys that grow too old meanwhile."""
        clock = self._around.clock
        due = clock() + self._pause()
        while (left := due - clock()) > 0:
            old_in = self._old_in()
            try:
                async with asyncio.timeout(left if old_in is None else min(left, max(0.0, old_in))):
                    await self._begun.wait()
            except TimeoutError:
                self._forget_if_old()
            else:
                return

    def _pause(self) -> float:
        refresh, cooldown = self.settings.jwks.refresh, self._around.cooldown
        if self._failures == 0:
            return refresh * (1 - _JITTER * self._around.rng.random())
        growing = _FIRST_PAUSE * 2 ** min(self._failures - 1, 10) if self.keys is None else cooldown
        return min(growing, cooldown, refresh)

    async def _fetch_once(self) -> None:
        try:
            body = await self._around.http.get(self._url, self._around.timeout, most=1 << 20)
            found = await asyncio.to_thread(_read, body, self.settings)
        except (HttpError, ValueError) as error:
            self._failed(str(error))
            return
        except Exception as error:
            # A fault of ours must not end the task: it would be the last fetch.
            log.exception("fault of ours issuer=%s", self.settings.name)
            self._failed(type(error).__name__)
            return
        self._fetched(found)

    def _fetched(self, found: JwkSet) -> None:
        lost, self._failures = self._failures, 0
        self._fetched_at = self._around.clock()
        if lost:
            self._say("issuer_back", failures=lost)
        if (found.keys, found.problems) == (self.keys, self._problems):
            return
        before = {key.kid for key in self.keys or ()}
        names = [key.kid or "-" for key in found.keys]
        new = sum(key.kid not in before for key in found.keys)
        self._say("issuer_keys", keys=len(names), new=new, problems="; ".join(found.problems[:3]) or None)
        self.keys, self._problems = found.keys, found.problems
        self._around.changed()

    def _failed(self, reason: str) -> None:
        self._failures += 1
        if self._failures == 1:
            self._say("issuer_lost", reason=reason, kept=len(self.keys or ()))
        self._forget_if_old()

    def _old_in(self) -> float | None:
        """Seconds until the keys have served for too long; None where that is not to be feared."""
        if self.keys is None or self._failures == 0 or self._fetched_at is None:
            return None
        return self._fetched_at + self.settings.jwks.stale - self._around.clock()

    def _forget_if_old(self) -> None:
        old_in = self._old_in()
        if old_in is not None and old_in <= 0:
            self._say("issuer_forgotten", stale=self.settings.jwks.stale)
            self.keys, self._problems = None, ()
            self._around.changed()

    def _say(self, event: Event, **what: object) -> None:
        self._around.say(event, {"issuer": self.settings.name, **what})


class KeySources:
    """The issuers whose keys are fetched. Follows the policy; `stop` ends it."""

    def __init__(
        self, *, clock: Callable[[], float], rng: random.Random, changed: Callable[[], None],
        say: Callable[[Event, Mapping[str, object]], None], cooldown: float = COOLDOWN, timeout: float = TIMEOUT,
    ) -> None:  # fmt: skip
        self._around = KeySourceContext(HttpClient(), clock, rng, changed, say, cooldown, timeout)
        self._running: dict[str, tuple[KeySource, asyncio.Task[None]]] = {}
        self._ending: set[asyncio.Task[None]] = set()

    def follow(self, issuers: Iterable[JwtSettings]) -> None:
        """Fetch for these from now on. One that stayed as it was keeps its keys."""
        wanted = {settings.name: settings for settings in issuers if settings.jwks.url is not None}
        for name, (source, task) in list(self._running.items()):
            if wanted.get(name) != source.settings:
                del self._running[name]
                self._ending.add(task)
                task.add_done_callback(self._ending.discard)
                task.cancel()
        for name, settings in wanted.items():
            if name not in self._running and settings.jwks.url is not None:
                source = KeySource(settings, settings.jwks.url, self._around)
                task = asyncio.get_running_loop().create_task(source.run(), name=f"keys of {name}")
                self._running[name] = source, task

    def keys(self, name: str) -> tuple[VerifyingKey, ...] | None:
        """The keys of an issuer as they are known now."""
        running = self._running.get(name)
        return running[0].keys if running is not None else None

    async def want(self, name: str) -> Answer:
        """A token names a key of this issuer that is not known. Waits for a fetch, `PATIENCE` at most; an issuer with
        a file has nothing newer."""
        running = self._running.get(name)
        return "newest" if running is None else await running[0].want()

    async def stop(self) -> None:
        """End every task."""
        self.follow(())
        if self._ending:
            await asyncio.wait(set(self._ending))
        await self._around.http.close()


def _read(body: bytes, settings: JwtSettings) -> JwkSet:
    """In a thread, where the first one loads pyjwt."""
    from policies.identity.jwks import read_jwks

    return read_jwks(body, settings)
