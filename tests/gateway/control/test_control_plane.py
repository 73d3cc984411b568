"""The control side: files that change, break and vanish (fault 61), and what a reload leaves alone."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from backends.identity.keyfile import change_keys
from gateway.control.policy_loader import StartError
from policies.identity.api_keys import KeyEntry, digest, new_key
from policies.identity.keyring import revoked
from tests.fakes.backend import Backend
from tests.fakes.client import Client
from tests.flow.harness import Footprint, Running, eventually, gateway_with, merged
from tests.sizes import size

# A changed file has to be in force, or refused, within this time (CASES).
SOON = 2.0


def document(gw: Running) -> dict[str, Any]:
    """The policy that the harness wrote."""
    found: dict[str, Any] = json.loads((gw.folder / "policy.yaml").read_text())
    return found


def rewritten(gw: Running, **over: Any) -> str:
    """That policy with something laid over it."""
    return json.dumps(merged(document(gw), over))


def replaced(path: Path, text: str) -> None:
    """An atomic change: a new file, renamed into place."""
    other = path.with_name("policy.new")
    other.write_text(text)
    other.replace(path)


def generation(gw: Running) -> int:
    return int(gw.total("policy_generation"))


def failures(gw: Running) -> int:
    return int(gw.total("policy_reload_failures_total"))


def routes(*models: str) -> list[dict[str, Any]]:
    return [{"model": model, "pool": "pool"} for model in models]


async def in_force(gw: Running, number: int) -> None:
    """Wait until the policy of this generation is in force."""
    await eventually(lambda: generation(gw) >= number, "the change was never seen", timeout=SOON)
    assert generation(gw) == number


async def refused(gw: Running, number: int = 1) -> None:
    """Wait until so many reloads have failed; what was in force still is."""
    await eventually(lambda: failures(gw) >= number, "nobody looked at the file", timeout=SOON)
    assert (failures(gw), generation(gw)) == (number, 1)
    assert await gw.chat() == "hello"


async def told(gw: Running, *words: str) -> None:
    """Wait until a line of the log has all these words."""

    def found() -> bool:
        return any(all(word in line for word in words) for line in gw.log_text().splitlines())

    await eventually(found, lambda: f"no line with {words} in:\n{gw.log_text()}")


@pytest.fixture
def hello(backend: Backend) -> Backend:
    return backend.streams("hello")


# -- files that are no policy


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def deleted(path: Path) -> None:
    path.unlink()


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def written(text: str | bytes) -> Callable[[Path], None]:
    data = text.encode() if isinstance(text, str) else text
    return lambda path: (path.write_bytes(data), None)[1]


def with_key(name: str, value: Any) -> Callable[[Path], None]:
    return lambda path: (path.write_text(json.dumps({**json.loads(path.read_text()), name: value})), None)[1]


def with_a_key_twice(path: Path) -> None:
    path.write_text(path.read_text().replace('"version": 1,', '"version": 1, "version": 1,', 1))


BILLION = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)

BREAKS: dict[str, Callable[[Path], None]] = {
    "broken YAML": written("version: 1\npools: [\n"),
    "truncated": truncated,
    "empty": written(""),
    "a key twice": with_a_key_twice,
    "an unknown key": with_key("servers", {}),
    "an unknown pool": with_key("routes", [{"model": "m", "pool": "nowhere"}]),
    "no route": with_key("routes", None),
    "an alias bomb": written(BILLION),
    "a deep one": written("[" * 100_000 + "]" * 100_000),
    "a list that holds itself": written("version: 1\npools: &p {a: *p}\nroutes: []\n"),
    "binary": written(bytes(range(256)) * 10),
    "UTF-16": written('{"version": 1}'.encode("utf-16")),
    "a missing secret": with_key("pools", {"pool": {"engine": "vllm", "api_key": {"env": "NOT_SET_ANYWHERE"}}}),
    "deleted": deleted,
    "a folder": a_folder,
}


@pytest.mark.parametrize("breaks", BREAKS.values(), ids=BREAKS)
async def test_a_bad_policy_file_keeps_the_last_good_one_and_says_so(
    hello: Backend, breaks: Callable[[Path], None]
) -> None:
    async with gateway_with(hello) as gw:
        path = gw.folder / "policy.yaml"
        good = path.read_text()
        breaks(path)
        await gw.gateway.reload()
        assert failures(gw) > 0
        assert generation(gw) == 1
        assert await gw.chat() == "hello"
        await told(gw, "ERROR", "policy_refused", "policy.yaml", "kept=1")
        # And the way back is open.
        if path.is_dir():
            path.rmdir()
        replaced(path, good)
        await gw.gateway.reload()
        assert generation(gw) == 2
        assert await gw.chat() == "hello"


async def test_files_are_watched_and_each_bad_state_of_one_is_told_once(hello: Backend) -> None:
    async with gateway_with(hello) as gw:
        path = gw.folder / "policy.yaml"
        good = path.read_text()
        for number, breaks in enumerate((truncated, written("version: ["), deleted), 1):
            breaks(path)
            await refused(gw, number)
        await asyncio.sleep(1.2)
        assert failures(gw) == 3, "not once every time that it is looked at"
        replaced(path, good)
        await in_force(gw, 2)
        assert await gw.chat() == "hello"


@contextlib.contextmanager
def without_rights() -> Iterator[None]:
    """Not root for a while: root reads a file of mode 000 all the same."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


async def test_an_unreadable_policy_file_keeps_the_last_good_one(hello: Backend) -> None:
    async with gateway_with(hello) as gw:
        path = gw.folder / "policy.yaml"
        gw.folder.chmod(0o755)
        path.chmod(0)
        with without_rights():
            await gw.gateway.control.reload("test")
        assert (failures(gw), generation(gw)) == (1, 1)
        await told(gw, "ERROR", "policy_refused", "policy.yaml", "Permission denied")
        path.chmod(0o600)
        await gw.gateway.control.reload("test")
        assert generation(gw) == 2


async def test_a_file_that_is_written_slowly_is_in_force_once_it_is_whole(hello: Backend) -> None:
    async with gateway_with(hello) as gw:
        text = rewritten(gw, routes=routes("m", "second"))
        with (gw.folder / "policy.yaml").open("w") as file:
            file.write(text[: len(text) // 2])
            file.flush()
            await refused(gw)
            file.write(text[len(text) // 2 :])
        await in_force(gw, 2)
        assert await gw.chat(model="second") == "hello"


async def test_a_ca_file_that_is_not_there_keeps_the_last_good_policy(hello: Backend) -> None:
    """The data plane finds it, after the policy file itself was well."""
    async with gateway_with(hello) as gw:
        good = (gw.folder / "policy.yaml").read_text()
        endpoint = {"url": "https://127.0.0.1:1", "tls": {"ca": "nowhere.pem"}}
        replaced(gw.folder / "policy.yaml", rewritten(gw, pools={"pool": {"endpoints": [endpoint]}}))
        await refused(gw)
        await told(gw, "ERROR", "policy_refused", "nowhere.pem")
        replaced(gw.folder / "policy.yaml", good)
        await in_force(gw, 2)


# -- files that change


async def test_a_file_renamed_into_place_is_in_force_within_2_s(hello: Backend) -> None:
    async with gateway_with(hello) as gw:
        replaced(gw.folder / "policy.yaml", rewritten(gw, routes=routes("m", "second")))
        await in_force(gw, 2)
        assert await gw.chat(model="second") == "hello"
        await told(gw, "INFO", "policy_loaded", "generation=2", "policy.yaml")
        assert failures(gw) == 0


async def test_a_swapped_symlink_is_seen(hello: Backend, tmp_path: Path) -> None:
    """How Kubernetes changes a mounted ConfigMap: the file's own name stays a link, what it leads to is swapped."""
    async with gateway_with(hello) as gw:
        path = gw.folder / "policy.yaml"
        for name, text in (("v1", path.read_text()), ("v2", rewritten(gw, routes=routes("m", "second")))):
            (gw.folder / name).mkdir()
            (gw.folder / name / "policy.yaml").write_text(text)
        (gw.folder / "data").symlink_to("v1")
        path.unlink()
        path.symlink_to("data/policy.yaml")
        await in_force(gw, 2)
        (gw.folder / "data.new").symlink_to("v2")
        (gw.folder / "data.new").replace(gw.folder / "data")
        await in_force(gw, 3)
        assert await gw.chat(model="second") == "hello"


async def test_a_file_that_did_not_change_is_not_read_again(hello: Backend) -> None:
    async with gateway_with(hello) as gw:
        await asyncio.sleep(1.2)
        assert (generation(gw), failures(gw)) == (1, 0)


async def test_sighup_reads_at_once_and_once(hello: Backend) -> None:
    async with gateway_with(hello) as gw:
        replaced(gw.folder / "policy.yaml", rewritten(gw, routes=routes("m", "second")))
        await gw.gateway.reload()
        assert generation(gw) == 2
        assert await gw.chat(model="second") == "hello"
        # The watcher need not read again what SIGHUP has read.
        await asyncio.sleep(1.2)
        assert generation(gw) == 2


async def test_sighup_with_a_bad_file_keeps_the_last_good_one_and_counts_it_once(hello: Backend) -> None:
    async with gateway_with(hello) as gw:
        (gw.folder / "policy.yaml").write_text("version: [")
        await gw.gateway.reload()
        assert (failures(gw), generation(gw)) == (1, 1)
        await asyncio.sleep(1.2)
        assert failures(gw) == 1


async def test_reloads_that_come_together_are_made_one_after_the_other(hello: Backend) -> None:
    async with gateway_with(hello) as gw:
        async with asyncio.TaskGroup() as group:
            for _ in range(10):
                group.create_task(gw.gateway.reload())
        assert generation(gw) == 11
        assert await gw.chat() == "hello"


@pytest.mark.parametrize(
    "server",
    [{"listen": "127.0.0.1:1"}, {"write_timeout": "1s"}, {"max_body": "1KiB"}, {"trusted_proxies": ["127.0.0.1/32"]}],
    ids=["listen", "write_timeout", "max_body", "trusted_proxies"],
)
async def test_a_change_of_the_server_is_told_to_need_a_restart_and_is_not_half_made(
    hello: Backend, server: dict[str, Any]
) -> None:
    # The harness's clients are trusted proxies by default, as all on this machine are.
    async with gateway_with(hello, policy={"server": {"trusted_proxies": ["192.0.2.0/24"]}}) as gw:
        replaced(gw.folder / "policy.yaml", rewritten(gw, server=server, routes=routes("m", "second")))
        await gw.gateway.reload()
        await told(gw, "WARNING", "restart_needed")
        # The rest of the file is in force.
        assert await gw.chat("x" * 2000, model="second", headers=[("x-request-id", "spoofed")]) == "hello"
        assert [line["request_id"] for line in await gw.access_lines()] != ["spoofed"]


async def test_a_file_without_a_change_of_the_server_says_nothing_of_a_restart(hello: Backend) -> None:
    async with gateway_with(hello) as gw:
        replaced(gw.folder / "policy.yaml", rewritten(gw, routes=routes("m", "second")))
        await in_force(gw, 2)
        assert "restart_needed" not in gw.log_text()


# -- keys


async def test_a_new_key_works_and_a_revoked_one_stops_within_2_s(hello: Backend) -> None:
    async with gateway_with(hello) as gw:
        new, file = new_key(), gw.folder / "keys.yaml"
        entry = KeyEntry(id="k2", sha256=digest(new), tenant="tiny", plan="test", created=1_763_650_057.0)
        assert (await gw.ask(headers=[("authorization", f"Bearer {new}")])).status == 401
        change_keys(file, lambda entries: [*entries, entry])
        await in_force(gw, 2)
        assert (await gw.ask(headers=[("authorization", f"Bearer {new}")])).status == 200
        change_keys(file, lambda entries: revoked(entries, "k1", now=1_763_650_058.0))
        await in_force(gw, 3)
        assert (await gw.ask()).status == 401
        assert (await gw.ask(headers=[("authorization", f"Bearer {new}")])).status == 200


@pytest.mark.parametrize("how", ["broken", "cut off", "deleted"])
async def test_a_bad_keys_file_keeps_the_last_good_keys_and_says_so(hello: Backend, how: str) -> None:
    async with gateway_with(hello) as gw:
        path = gw.folder / "keys.yaml"
        good = path.read_bytes()
        if how == "deleted":
            path.unlink()
        else:
            path.write_bytes(good[:-10] if how == "cut off" else good + b"nonsense\n")
        await refused(gw)
        await told(gw, "ERROR", "policy_refused", "keys.yaml")
        path.write_bytes(good)
        await in_force(gw, 2)
        assert await gw.chat() == "hello"


async def test_an_emptied_keys_file_is_no_mistake_and_lets_nobody_in(hello: Backend) -> None:
    async with gateway_with(hello) as gw:
        (gw.folder / "keys.yaml").write_bytes(b"")
        await in_force(gw, 2)
        assert (await gw.ask()).status == 401


async def test_a_key_whose_plan_is_gone_is_told_and_refused_while_others_serve(hello: Backend) -> None:
    async with gateway_with(hello) as gw:
        other = KeyEntry(id="k2", sha256=digest("x"), tenant="tiny", plan="gone", created=1_763_650_057.0)
        change_keys(gw.folder / "keys.yaml", lambda entries: [*entries, other])
        await in_force(gw, 2)
        await told(gw, "WARNING", "key_left_out", "k2", "gone")
        assert await gw.chat() == "hello"


async def test_another_keys_file_is_watched_from_then_on(hello: Backend) -> None:
    async with gateway_with(hello) as gw:
        other = gw.folder / "other.yaml"
        other.write_bytes((gw.folder / "keys.yaml").read_bytes())
        replaced(gw.folder / "policy.yaml", rewritten(gw, auth={"api_keys": {"file": "other.yaml"}}))
        await in_force(gw, 2)
        (gw.folder / "keys.yaml").unlink()
        change_keys(other, lambda entries: revoked(entries, "k1", now=1_763_650_058.0))
        await in_force(gw, 3)
        assert (await gw.ask()).status == 401


# -- what a reload leaves alone


async def test_a_stream_survives_a_reload_that_removes_its_pool(backend: Backend, other: Backend) -> None:
    backend.streams("one", "two", "three", hold=2)
    other.streams("other")
    async with gateway_with(backend) as gw, await gw.connect() as client:
        await client.send(gw.chat_request())
        await client.until(b"one")
        changed = document(gw)
        changed["pools"] = {"new": {"engine": "vllm", "endpoints": [{"url": other.url}]}}
        changed["routes"] = [{"model": "m", "pool": "new"}]
        replaced(gw.folder / "policy.yaml", json.dumps(changed))
        await in_force(gw, 2)
        assert await gw.chat() == "other"
        assert gw.gateway.plane.in_flight == 1, "what is under way is counted although its pool is gone"
        assert len(backend.open) == 1
        backend.release.set()
        rest = await client.until(b"\r\n0\r\n\r\n")
        assert b"three" in rest
        assert b"[DONE]" in rest
        # Its connection ends with its last exchange: nobody could use it any more.
        await backend.all_closed(timeout=1.0)
        lines = await gw.access_lines()
        assert sorted(line["pool"] for line in lines) == ["new", "pool"]
        assert gw.total("attempts_total", pool="pool", outcome="ok") == 1


async def test_a_request_that_is_read_while_the_policy_changes_is_answered_by_the_one_it_began_with(
    hello: Backend,
) -> None:
    async with gateway_with(hello) as gw, await gw.connect() as client:
        data = gw.chat_request()
        await client.send(data[:-10])
        await eventually(lambda: gw.gateway.client_requests == 1, "it never came")
        replaced(gw.folder / "policy.yaml", rewritten(gw, routes=routes("second")))
        await in_force(gw, 2)
        await client.send(data[-10:])
        assert (await client.answer()).text == "hello"
        assert (await gw.ask()).status == 404


async def test_connections_to_an_endpoint_that_stays_are_kept_over_reloads(hello: Backend) -> None:
    async with gateway_with(hello) as gw:
        for number in range(5):
            assert await gw.chat() == "hello"
            replaced(gw.folder / "policy.yaml", rewritten(gw, routes=routes("m", f"n{number}")))
            await gw.gateway.reload()
        assert len(hello.connections) == 1


async def test_many_reloads_leave_no_task_connection_or_descriptor(backend: Backend, other: Backend) -> None:
    backend.streams("hello")
    other.streams("hello")
    async with gateway_with(backend) as gw:
        texts = [
            rewritten(gw, pools={"pool": {"endpoints": [{"url": one.url}]}}, routes=routes("m", f"n{number}"))
            for number, one in enumerate([backend, other])
        ]
        path = gw.folder / "policy.yaml"
        await gw.chat()
        before = Footprint.now()
        clients: list[Client] = []
        async with contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(await gw.connect()) for _ in range(3)]
            for number in range(size(40, 200)):
                replaced(path, texts[number % 2])
                await gw.gateway.reload()
                client = clients[number % 3]
                await client.send(gw.chat_request())
                assert (await client.answer()).text == "hello"
        assert generation(gw) >= size(41, 201)
        assert failures(gw) == 0
        replaced(path, texts[0])
        await gw.gateway.reload()
        await eventually(lambda: gw.gateway.plane.active_connections == 0, "a connection is in use")
        assert gw.gateway.plane.idle_connections <= 1
        await before.restored([backend, other])


# -- events of the data plane


async def test_an_endpoint_at_which_nobody_is_found_is_told_of() -> None:
    async with gateway_with("http://127.0.0.1:1") as gw:
        assert (await gw.ask()).status == 503
        await told(gw, "WARNING", "endpoint_failed", "endpoint=pool-0", "reason=not_sent")


# -- the start


@pytest.mark.parametrize("breaks", BREAKS.values(), ids=BREAKS)
async def test_a_gateway_does_not_start_with_a_bad_policy(hello: Backend, breaks: Callable[[Path], None]) -> None:
    """The same mistakes at the start: an error of ours that names the file, and nothing left behind."""
    async with gateway_with(hello, quiet=False) as gw:
        policy = gw.folder / "start" / "policy.yaml"
        policy.parent.mkdir()
        policy.write_text((gw.folder / "policy.yaml").read_text())
        (policy.parent / "keys.yaml").write_bytes((gw.folder / "keys.yaml").read_bytes())
        breaks(policy)
        before = Footprint.now()
        with pytest.raises(StartError, match=r"policy\.yaml"):
            await type(gw.gateway)(policy).start()
        await before.restored([hello])
