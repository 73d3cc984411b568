"""What the control side hands over: made of a policy, the workers as they are and the keys; and it can travel."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest

from backends.control.table import EndpointSpec, Table
from backends.control.table_builder import build_table
from backends.workers.supervisor import WorkerView
from policies.config.document import load
from policies.config.settings import Policy
from policies.identity.api_keys import KeyEntry, digest, new_key
from policies.identity.authenticator import records

POLICY: dict[str, Any] = {
    "version": 1,
    "server": {"max_body": "1MiB", "trusted_proxies": ["10.0.0.0/8", "192.0.2.7"]},
    "auth": {"anonymous": "free", "api_keys": {"file": "keys.yaml"}},
    "plans": {"free": {"models": ["small-*"], "scopes": ["chat"]}, "paid": {}},
    "pools": {
        "listed": {
            "engine": "vllm",
            "api_key": {"env": "ENGINE_KEY"},
            "keep_alive": "2s",
            "endpoints": [
                {"url": "http://10.0.0.1:8000", "name": "a", "weight": 3, "headers": {"x-team": "ml"}},
                {"url": "https://engine.example/base/", "tls": {"ca": "ca.pem", "server_name": "b.internal"}},
                {"url": "http://engine.example"},
                {"url": "http://[2001:db8::1]:8000"},
            ],
        },
        "mixed": {"engine": "simulator", "endpoints": [{"url": "http://127.0.0.1:1"}], "workers": {"count": 2}},
    },
    "routes": [
        {"model": "small-1", "pool": "listed", "aliases": ["gpt-4o-mini"], "upstream_model": "Small"},
        {"path": "/predict/*", "pool": "mixed", "methods": ["POST"], "timeouts": {"connect": "1s", "total": "10m"}},
    ],
}


def view(name: str, state: str = "ready", **over: Any) -> WorkerView:
    """A worker of pool `mixed` as the supervisor tells of it."""
    known: dict[str, Any] = {"name": name, "pool": "mixed", "state": state, "url": "http://127.0.0.1:9000", "starts": 1}
    rest = {field: None for field in WorkerView.__dataclass_fields__ if field not in known}
    return WorkerView(**{**rest, **known, **over})


@pytest.fixture
def policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Policy:
    monkeypatch.setenv("ENGINE_KEY", "engine-secret")
    path = tmp_path / "policy.yaml"
    path.write_text(json.dumps(POLICY))
    return load(path, secrets=True)


def keyed(policy: Policy) -> Mapping[bytes, Any]:
    entry = KeyEntry(id="k1", sha256=digest(new_key()), tenant="acme", plan="paid", created=1.0, models=("small-1",))
    found, problems = records([entry], policy.plans)
    assert problems == []
    return found


def table(policy: Policy, *workers: WorkerView, generation: int = 1) -> Table:
    return build_table(policy, generation=generation, workers=workers, keys=keyed(policy))


def endpoints(policy: Policy, pool: str, *workers: WorkerView) -> dict[str, EndpointSpec]:
    return {spec.name: spec for spec in table(policy, *workers).pools[pool].endpoints}


# -- what it is made of


def test_a_listed_endpoint_is_a_candidate_with_all_that_the_policy_says_of_it(policy: Policy, tmp_path: Path) -> None:
    found = endpoints(policy, "listed")
    assert list(found) == ["a", "listed-1", "listed-2", "listed-3"]
    a, b = found["a"], found["listed-1"]
    assert (a.pool, a.host, a.port, a.base_path, a.tls, a.weight) == ("listed", "10.0.0.1", 8000, "", False, 3.0)
    assert (a.headers, a.api_key, a.keep_alive) == ((("x-team", "ml"),), "engine-secret", 2.0)
    assert (b.host, b.port, b.base_path, b.tls) == ("engine.example", 443, "/base", True)
    assert (b.ca, b.server_name) == (str(tmp_path / "ca.pem"), "b.internal")
    assert found["listed-2"].port == 80
    assert found["listed-3"].host == "2001:db8::1"


@pytest.mark.parametrize("state", ["starting", "backing_off", "stopping", "stopped"])
def test_a_worker_is_a_candidate_while_it_is_ready_and_known_before_and_after(policy: Policy, state: str) -> None:
    there = table(policy, view("mixed-w0"), view("mixed-w1", state)).pools["mixed"]
    assert [spec.name for spec in there.endpoints] == ["mixed-0", "mixed-w0"]
    assert there.known == ("mixed-0", "mixed-w0", "mixed-w1")


@pytest.mark.parametrize(
    ("state", "coming"),
    [("starting", True), ("backing_off", True), ("stopping", True), ("stopped", False), ("ready", False)],
)
def test_a_worker_is_coming_until_it_is_ready_or_stopped(policy: Policy, state: str, coming: bool) -> None:
    assert table(policy, view("mixed-w0"), view("mixed-w1", state)).pools["mixed"].coming is coming


def test_a_worker_that_is_ready_has_its_address_and_no_other_pools(policy: Policy) -> None:
    other = view("elsewhere-w0", pool="elsewhere")
    spec = endpoints(policy, "mixed", view("mixed-w0", url="http://127.0.0.1:9123"), other)["mixed-w0"]
    assert (spec.host, spec.port, spec.tls, spec.pool) == ("127.0.0.1", 9123, False, "mixed")
    assert "elsewhere-w0" not in endpoints(policy, "mixed", other)


def test_a_restarted_worker_is_another_endpoint_of_the_same_name(policy: Policy) -> None:
    first = endpoints(policy, "mixed", view("mixed-w0", starts=1))["mixed-w0"]
    again = endpoints(policy, "mixed", view("mixed-w0", starts=2))["mixed-w0"]
    assert first.name == again.name
    assert first != again


def test_what_stayed_the_same_is_equal_in_the_next_table(policy: Policy) -> None:
    workers = view("mixed-w0"), view("mixed-w1")
    first, second = table(policy, *workers), table(policy, *workers, generation=2)
    assert first.pools == second.pools
    assert hash(first.pools["listed"].endpoints) == hash(second.pools["listed"].endpoints)


def test_anonymous_is_the_plan_that_the_policy_names(policy: Policy) -> None:
    principal = table(policy).anonymous
    assert principal is not None
    assert (principal.key, principal.plan, principal.scopes) == ("anonymous", "free", frozenset({"chat"}))
    assert principal.may_use("small-2")
    assert not principal.may_use("large")


def test_what_holds_for_every_request_stands_in_the_table(policy: Policy) -> None:
    made = table(policy)
    assert made.max_body == 1 << 20
    assert made.trusted_proxies == ("10.0.0.0/8", "192.0.2.7/32")
    assert made.routes == policy.routes


# -- it can travel


def test_a_table_and_everything_in_it_comes_out_of_a_pickle_equal(policy: Policy) -> None:
    made = table(policy, view("mixed-w0"))
    again = pickle.loads(pickle.dumps(made))
    assert again == made
    assert again.pools["listed"].endpoints[0].api_key == "engine-secret"
    assert hash(again.pools["listed"].endpoints) == hash(made.pools["listed"].endpoints)
    assert next(iter(again.keys.values())).principal.may_use("small-1")


def test_a_table_of_ten_thousand_keys_is_small_to_send(policy: Policy) -> None:
    entries = [KeyEntry(f"k{n}", digest(f"key {n}"), tenant="acme", plan="paid", created=1.0) for n in range(10_000)]
    keys, _ = records(entries, policy.plans)
    made = build_table(policy, generation=1, workers=[], keys=keys)
    assert len(pickle.dumps(made)) < 4 << 20


def test_no_secret_is_in_a_tables_text(policy: Policy) -> None:
    text = repr(table(policy))
    assert "engine-secret" not in text
    assert not any(sha256.hex() in text or repr(sha256) in text for sha256 in keyed(policy))


def test_a_table_is_never_changed(policy: Policy) -> None:
    made = table(policy)
    with pytest.raises(FrozenInstanceError):
        made.generation = 2  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        made.pools["listed"].endpoints[0].weight = 9.0  # type: ignore[misc]
