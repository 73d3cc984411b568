"""What is measured, and what it stands on: `sluice serve`, and the simulators behind it."""

from __future__ import annotations

import contextlib
import json
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from backends.identity.keyfile import change_keys
from policies.identity.api_keys import KeyEntry, digest, new_key
from tests.bench.children import Child, Cores, child
from tests.bench.load import PROMPT

FIRST_BYTE_MS: Final = 20
GAP_MS: Final = 20
TOKENS: Final = 96
STREAM_SECONDS: Final = (FIRST_BYTE_MS + GAP_MS * (TOKENS - 1)) / 1000
"""How long one stream lasts."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """Two simulators, one a kind of load; the served model is named as the kind is."""

    addresses: dict[str, str]


@contextlib.contextmanager
def upstream(folder: Path, cores: Cores) -> Iterator[Upstream]:
    """`json` answers at once, `stream` yields 50 events a second; equal requests have equal answers, byte for byte."""
    pace = ["--first-byte", f"{FIRST_BYTE_MS}ms", "--gap", f"{GAP_MS}ms", "--tokens", str(TOKENS)]
    with (
        _simulator("json", ["--first-byte", "0", "--gap", "0"], folder, cores) as plain,
        _simulator("stream", pace, folder, cores) as stream,
    ):
        _at_once(plain.address)
        yield Upstream({"json": plain.address, "stream": stream.address})


@contextlib.contextmanager
def gateway(before: Upstream, folder: Path, cores: Cores) -> Iterator[tuple[Child, str]]:
    """The gateway and a client's key: keys are checked, metrics on, access log to a file, no limits."""
    key = new_key()
    entry = KeyEntry(id="bench", sha256=digest(key), tenant="bench", plan="bench", created=1_763_650_057.0)
    (folder / "keys.yaml").unlink(missing_ok=True)
    change_keys(folder / "keys.yaml", lambda _: [entry])
    policy = folder / "policy.yaml"
    policy.write_text(json.dumps(_policy(before)))
    command = [str(Path(sys.executable).with_name("sluice")), "serve", str(policy)]
    with child(command, r"^ready on (\S+)$", log=folder / "gateway.log", cores=cores.measured) as running:
        yield running, key


def _policy(before: Upstream) -> dict[str, object]:
    pools = {kind: {"engine": "simulator", "endpoints": [{"url": f"http://{address}"}]}
             for kind, address in before.addresses.items()}  # fmt: skip
    return {
        "version": 1,
        "server": {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0"},
        "auth": {"api_keys": {"file": "keys.yaml"}},
        "plans": {"bench": {}},
        "pools": pools,
        "routes": [{"model": kind, "pool": kind} for kind in pools],
        "observe": {"access_log": {"path": "access.log"}},
    }


@contextlib.contextmanager
def _simulator(model: str, flags: list[str], folder: Path, cores: Cores) -> Iterator[Child]:
    command = [sys.executable, "-m", "backends.simulator", "--port", "0", "--model", model, "--fixed-ids", *flags]
    log = folder / f"simulator-{model}.log"
    with child(command, r"ready on http://(\S+)$", log=log, cores=cores.rest) as running:
        yield running


def _at_once(address: str) -> None:
    """Have the simulator answer with what it has said once, as soon as it is asked.

    By itself it answers on the ticks of a clock of 1 ms. A client that asks again as soon as it has its answer falls
    into step with those ticks, and half a millisecond of a gateway would not show.
    """
    asked = {"model": "json", "messages": [{"role": "user", "content": PROMPT}]}
    body = _post(f"http://{address}/v1/chat/completions", asked)
    fault = {"kind": "status", "code": 200, "body": body.decode(), "match": "/v1/chat/completions"}
    _post(f"http://{address}/simulator/faults", [fault])


def _post(url: str, value: object) -> bytes:
    headers = {"content-type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url, json.dumps(value).encode(), headers), timeout=10) as answer:
        body: bytes = answer.read()
    return body
