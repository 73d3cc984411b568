"""Keys fetched in the background, from a real server: faults 78 and 79 below the gateway."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from backends.identity.jwks import Event, KeySources
from policies.config.settings import ClaimsSettings, JwksSettings, JwtSettings
from tests.fakes.backend import Backend, Connection, Request, plain
from tests.fakes.tokens import AUDIENCE, ISSUER, Signer, jwk_set
from tests.flow.harness import eventually
from tests.pace import Watch

RSA, NEW = Signer(), Signer("k2", name="new")
SET, NEW_SET = jwk_set(RSA.jwk()), jwk_set(NEW.jwk())


@dataclass
class Fetching:
    """The fetching of one issuer's keys, and what was told of it."""

    sources: KeySources
    told: list[tuple[Event, Mapping[str, object]]] = field(default_factory=list)
    changes: int = 0

    @property
    def kids(self) -> list[str | None] | None:
        keys = self.sources.keys("corp")
        return None if keys is None else [key.kid for key in keys]

    @property
    def events(self) -> list[str]:
        return [event for event, _ in self.told]

    def changed(self) -> None:
        self.changes += 1

    async def has(self, *kids: str) -> None:
        await eventually(lambda: self.kids == list(kids), lambda: f"{self.kids} instead of {kids}: {self.told}")


def corp(backend: Backend, **jwks: Any) -> JwtSettings:
    keys = JwksSettings(url=f"{backend.url}/certs", **jwks)
    return JwtSettings(name="corp", issuer=ISSUER, audience=AUDIENCE, jwks=keys, claims=ClaimsSettings(plan="tier"))


@asynccontextmanager
async def fetching(settings: JwtSettings, *, cooldown: float = 10.0, timeout: float = 5.0) -> AsyncIterator[Fetching]:
    before = asyncio.all_tasks()
    told: list[tuple[Event, Mapping[str, object]]] = []
    sources = KeySources(
        clock=time.monotonic, rng=random.Random(1), changed=lambda: made.changed(),
        say=lambda event, what: told.append((event, what)), cooldown=cooldown, timeout=timeout,
    )  # fmt: skip
    made = Fetching(sources, told)
    sources.follow([settings])
    try:
        yield made
    finally:
        await sources.stop()
    assert {task for task in asyncio.all_tasks() - before if task.get_name().startswith("keys of")} == set()


async def test_keys_are_fetched_at_once_and_every_refresh(backend: Backend) -> None:
    backend.answers(200, SET)
    async with fetching(corp(backend, refresh=0.1)) as it:
        await it.has("k1")
        assert it.changes == 1
        await backend.requested(4)
        assert it.changes == 1 and it.events == ["issuer_keys"]
        backend.answers(200, NEW_SET)
        await it.has("k2")
        assert it.changes == 2
    request = backend.requests[0]
    assert request.line == "GET /certs HTTP/1.1"
    assert request.header("authorization") is None and request.header("accept-encoding") == "identity"


async def hangs(c: Connection, request: Request) -> None:
    await c.stall()


async def drips(c: Connection, request: Request) -> None:
    await c.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
    for _ in range(1000):
        await c.send(b" ")
        await asyncio.sleep(0.05)


async def endless(c: Connection, request: Request) -> None:
    await c.send(b"HTTP/1.1 200 OK\r\n\r\n")
    for _ in range(160):
        await c.send(b" " * 65536)


ANSWERS: dict[str, tuple[str, Any]] = {
    "500": ("status 500", plain(500, SET)),
    "404": ("status 404", plain(404, SET)),
    "204": ("status 204", b"HTTP/1.1 204 No Content\r\n\r\n"),
    "a redirect": ("status 302", plain(302, SET, [("location", "http://127.0.0.1:1/certs")])),
    "a redirect to itself": ("status 307", plain(307, SET, [("location", "/certs")])),
    "HTML": ("not JSON", plain(200, b"<!doctype html><title>Sign in</title>", [("content-type", "text/html")])),
    "10 MB": ("over 1048576 bytes", endless),
    "10 MB as said": ("over 1048576 bytes", plain(200, b" " * 10_000_000)),
    "gzip": ("a content coding", plain(200, SET, [("content-encoding", "gzip")])),
    "no keys": ("no key in it suits", plain(200, jwk_set())),
    "keys for something else": ("no key in it suits", plain(200, jwk_set(RSA.jwk(use="enc")))),
    "a small key": ("no key in it suits", plain(200, jwk_set(Signer(size=1024).jwk()))),
    "a list": ("not a JWK Set", plain(200, b"[]")),
    "cut off": ("peer closed connection", plain(200, SET)[:-20]),
    "no HTTP": ("", b"SSH-2.0-OpenSSH\r\n"),
    "silence": ("no answer within 1 s", hangs),
    "a drip": ("no answer within 1 s", drips),
}


@pytest.mark.parametrize("name", ANSWERS)
async def test_a_server_that_fails_leaves_the_last_keys_in_force_and_is_told_of_once(
    backend: Backend, name: str
) -> None:
    reason, bad = ANSWERS[name]
    backend.answers(200, SET)
    backend.then.raw(bad) if isinstance(bad, bytes) else backend.then.does(bad)
    async with fetching(corp(backend, refresh=0.1), timeout=1.0 if bad in (hangs, drips) else 5.0) as it:
        await it.has("k1")
        await backend.requested(4)
        assert it.kids == ["k1"]
        assert it.events == ["issuer_keys", "issuer_lost"]
        assert str(it.told[1][1]["reason"]).startswith(reason), it.told
        assert it.told[1][1]["kept"] == 1
        backend.answers(200, NEW_SET)
        await it.has("k2")
        assert it.events == ["issuer_keys", "issuer_lost", "issuer_back", "issuer_keys"]


async def test_keys_are_forgotten_after_stale_and_had_again_when_the_issuer_is_back(backend: Backend) -> None:
    backend.answers(200, SET)
    backend.then.answers(500)
    async with fetching(corp(backend, refresh=0.1, stale=1.0)) as it:
        await it.has("k1")
        fetched = Watch()
        await eventually(lambda: it.kids is None, "kept for ever")
        assert fetched.within(0.4, 6)
        assert it.changes == 2 and it.events == ["issuer_keys", "issuer_lost", "issuer_forgotten"]
        assert await it.sources.want("corp") == "unknown"
        backend.answers(200, SET)
        await it.has("k1")
        assert it.events[3:] == ["issuer_back", "issuer_keys"]


async def test_stale_of_nothing_forgets_with_the_first_failure_and_not_before(backend: Backend) -> None:
    backend.answers(200, SET)
    async with fetching(corp(backend, refresh=0.1, stale=0.0)) as it:
        await it.has("k1")
        await backend.requested(4)
        assert it.events == ["issuer_keys"]
        backend.answers(500)
        await eventually(lambda: it.kids is None, "kept")


async def test_nobody_there_at_the_start_is_asked_again(backend: Backend) -> None:
    async with Backend() as gone:
        url = gone.url
    settings = corp(backend)
    async with fetching(replace(settings, jwks=JwksSettings(url=url, refresh=0.1))) as it:
        await eventually(lambda: it.events == ["issuer_lost"], "never told")
        assert it.kids is None and it.told[0][1]["kept"] == 0


async def test_many_who_want_a_key_share_one_fetch_and_then_none_is_made_for_the_cooldown(backend: Backend) -> None:
    backend.answers(200, SET)
    async with fetching(corp(backend), cooldown=1.5) as it:
        await it.has("k1")
        for rounds in (1, 2):
            assert set(await asyncio.gather(*(it.sources.want("corp") for _ in range(500)))) == {"newest"}
            assert len(backend.requests) == 1 + rounds
            watch = Watch()
            for _ in range(500):
                assert await it.sources.want("corp") == "newest"
            assert watch.own < 1
            assert len(backend.requests) == 1 + rounds
            await asyncio.sleep(1.6)


async def test_who_wants_a_key_has_it_after_the_fetch(backend: Backend) -> None:
    backend.answers(200, SET)
    async with fetching(corp(backend)) as it:
        await it.has("k1")
        backend.answers(200, NEW_SET)
        assert await it.sources.want("corp") == "newest"
        assert it.kids == ["k2"]


async def test_a_slow_fetch_is_waited_for_one_second_and_then_by_nobody(backend: Backend) -> None:
    backend.answers(200, SET)
    async with fetching(corp(backend), timeout=4.0) as it:
        await it.has("k1")
        backend.does(hangs)
        watch = Watch()
        assert set(await asyncio.gather(*(it.sources.want("corp") for _ in range(100)))) == {"unknown"}
        assert watch.within(0.9, 2.5)
        again = Watch()
        assert await it.sources.want("corp") == "unknown"
        assert again.own < 0.8
        await eventually(lambda: it.events == ["issuer_keys", "issuer_lost"], "never told")
        # Failed, and cooling down: still nobody knows, and nobody waits.
        assert await it.sources.want("corp") == "unknown"
        assert len(backend.requests) == 2 and it.kids == ["k1"]


async def test_who_stops_waiting_stops_no_fetch(backend: Backend) -> None:
    async def late(c: Connection, request: Request) -> None:
        await asyncio.sleep(0.2)
        await c.send(plain(200, NEW_SET))

    backend.answers(200, SET)
    backend.then.does(late)
    async with fetching(corp(backend)) as it:
        await it.has("k1")
        waiting = asyncio.get_running_loop().create_task(it.sources.want("corp"), name="a request")
        await backend.requested(2)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await it.has("k2")


async def test_an_issuer_that_stays_as_it_was_keeps_its_keys_and_others_go(backend: Backend) -> None:
    backend.answers(200, SET)
    settings = corp(backend)
    async with fetching(settings) as it:
        await it.has("k1")
        it.sources.follow([settings, replace(settings, name="two")])
        assert it.kids == ["k1"]
        await backend.requested(2)
        it.sources.follow([replace(settings, audience="else")])
        assert it.kids is None and it.sources.keys("two") is None
        await it.has("k1")
        it.sources.follow([replace(settings, jwks=JwksSettings(file="f"))])
        assert it.kids is None and await it.sources.want("corp") == "newest"
