"""What would become of a request, and why: as the pipeline decides it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gateway.cli.explanation import ExplainError, Explanation, explain
from policies.config.settings import PlanSettings, Policy
from policies.config.settings.auth import LimitSettings
from policies.config.units import RateValue
from policies.identity.api_keys import KeyEntry, digest
from tests.policies.policy_files import loaded

TEXT = """
auth: {anonymous: free}
plans:
  free: {models: ["qwen2-*"], scopes: [chat, embeddings]}
  team: {}
pools:
  p: {endpoints: [{name: a, url: "http://127.0.0.1:8000"}]}
  q: {engine: simulator, workers: {count: 2}}
routes:
- {model: qwen2-7b, aliases: [gpt-4o-mini], pool: p, upstream_model: Qwen2, timeouts: {idle: off}, retry: off}
- {model: "qwen2-*", pool: q}
- {model: llama, pool: q}
- {path: "/predict/*", pool: p}
"""
K1 = KeyEntry("k1", digest("1"), "acme", "free", created=0.0, models=("qwen2-7*",), scopes=frozenset({"chat"}))
K2 = KeyEntry("k2", digest("2"), "acme", "team", created=0.0, revoked=1.0)
K3 = KeyEntry("k3", digest("3"), "acme", "team", created=0.0, expires=5.0)
K3_NEW = KeyEntry("k3", digest("4"), "acme", "team", created=1.0)
K4 = KeyEntry("k4", digest("5"), "acme", "gone", created=1.0)


@pytest.fixture
def policy(tmp_path: Path) -> Policy:
    return loaded(tmp_path, TEXT)


def asked(
    policy: Policy, key: str, model: str | None = None, path: str = "/v1/chat/completions", now: float = 2.0
) -> Explanation:
    return explain(policy, [K1, K2, K3, K3_NEW, K4], key=key, path=path, model=model, now=now)


def told(found: Explanation) -> dict[str, tuple[str, str]]:
    return {step.what: (step.found, step.why) for step in found.steps}


def test_it_tells_the_whole_way(policy: Policy) -> None:
    found = asked(policy, "k1", "gpt-4o-mini")
    assert found.refusal is None
    assert told(found) == {
        "key": ("k1 of tenant acme", "active"),
        "plan": ("free", "the key's"),
        "": ("models qwen2-*; scopes chat, embeddings", ""),
        "narrowed to": ("models qwen2-7*; scopes chat", "by the key itself"),
        "path": ("POST /v1/chat/completions", ""),
        "scope": ("chat", "what this path needs"),
        "route": ("routes[0] qwen2-7b", "the first with the alias gpt-4o-mini"),
        "upstream model": ("Qwen2", "the name is rewritten in the request"),
        "pool": ("p", "engine vllm, least_requests"),
        "endpoint": ("a http://127.0.0.1:8000", "listed"),
        "attempts": ("1 at most", "connect 2s, first_byte 60s, attempt 30m, total 1h"),
        "limits": ("none", "the plan has none"),
    }


@pytest.mark.parametrize(
    ("model", "route", "why"),
    [
        ("qwen2-7b", "routes[0] qwen2-7b", "the first with this name"),
        ("qwen2-1b", "routes[1] qwen2-*", "the first whose glob matches qwen2-1b"),
        ("llama", "routes[2] llama", "the first with this name"),
    ],
)
def test_it_tells_why_a_route_is_the_one(policy: Policy, model: str, route: str, why: str) -> None:
    found = asked(policy, "k3", model)
    assert found.refusal is None and told(found)["route"] == (route, why)


def test_it_tells_how_requests_wait(policy: Policy) -> None:
    pool, plan = policy.pools["p"], replace(policy.plans["free"], priority=3, weight=2.5)
    bounded = replace(pool, max_in_flight=8, endpoints=(replace(pool.endpoints[0], max_in_flight=4),))
    found = told(asked(replace(policy, pools={**policy.pools, "p": bounded}, plans={"free": plan}), "k1", "qwen2-7b"))
    assert found["at a time"] == ("8, 4 at a; 512 more wait, 30s at most", "the plan's priority 3, weight 2.5")
    bounded = replace(pool, max_in_flight="auto", queue=None)
    found = told(asked(replace(policy, pools={**policy.pools, "p": bounded}), "k1", "qwen2-7b"))
    assert found["at a time"][0] == "auto; no queue"


def test_it_tells_every_limit_and_the_bucket_that_counts(policy: Policy) -> None:
    limits = (
        LimitSettings(requests=RateValue(60, 60)),
        LimitSettings(tokens=RateValue(5, 86400), per="tenant+model", strategy="fixed_window"),
    )
    plan = PlanSettings(limits=limits, max_input_tokens=7, max_output_tokens=9)
    found = told(asked(replace(policy, plans={"team": plan}), "k3", "llama"))
    away = "while the store is away: local"
    assert found["limit team.0"] == (
        "60 requests a minute for each key", f"token_bucket, bucket team.0:rt60|k3, {away}"
    )  # fmt: skip
    assert found["limit team.1"][1] == f"fixed_window, bucket team.1:tf86400|acme|llama, {away}"
    assert (found["max_input_tokens"][0], found["max_output_tokens"][0]) == ("7", "9")


def test_a_path_route_needs_no_model(policy: Policy) -> None:
    found = told(asked(policy, "k3", path="/predict/x"))
    assert found["path"] == ("POST /predict/x", "one of the policy's path routes")
    assert found["route"] == ("routes[3] /predict/*", "its path is the first that matches")


def test_a_path_that_holds_the_model_needs_no_other_word(policy: Policy) -> None:
    assert told(asked(policy, "k3", path="/v2/models/llama/infer"))["route"][0] == "routes[2] llama"


@pytest.mark.parametrize(
    ("key", "model", "path", "refusal"),
    [
        ("k2", "llama", "/v1/chat/completions", "401 invalid_api_key: it is revoked"),
        ("k4", "llama", "/v1/chat/completions", '401 invalid_api_key: its plan "gone" is not in the policy'),
        ("k1", "qwen2-7b", "/v1/embeddings", "403 scope_not_allowed"),
        ("k1", "llama", "/v1/chat/completions", "403 model_not_allowed: "),
        ("anonymous", "nobody's", "/v1/chat/completions", "404 model_not_found: "),
        ("anonymous", "qwen2-7b", "/nowhere", "404 path_not_found"),
    ],
)
def test_it_tells_what_a_request_would_be_refused_with(
    policy: Policy, key: str, model: str, path: str, refusal: str
) -> None:
    found = asked(policy, key, model, path).refusal
    assert found is not None and found.startswith(refusal)


def test_of_a_rotated_key_the_secret_that_is_good_counts(policy: Policy) -> None:
    assert asked(policy, "k3", "llama", now=100.0).refusal is None
    only_old = explain(policy, [K3], key="k3", path="/v1/chat/completions", model="llama", now=100.0)
    assert only_old.refusal == "401 invalid_api_key: it is expired"


@pytest.mark.parametrize(
    ("key", "model", "path", "says"),
    [
        ("k9", "llama", "/v1/chat/completions", r'no key "k9" \(known: anonymous, k1, k2, k3, k4\)'),
        ("k3", None, "/v1/chat/completions", "--model"),
        ("k3", None, "/v1/models", "by the gateway itself"),
    ],
)
def test_what_cannot_be_told_is_said(policy: Policy, key: str, model: str | None, path: str, says: str) -> None:
    with pytest.raises(ExplainError, match=says):
        asked(policy, key, model, path)


def test_anonymous_off_is_401(tmp_path: Path) -> None:
    policy = loaded(tmp_path, TEXT.replace("anonymous: free", "anonymous: off"))
    assert asked(policy, "anonymous", "llama").refusal == "401 invalid_api_key: auth.anonymous is off"


def test_a_fallback_is_told_in_its_order(tmp_path: Path) -> None:
    chain = "cache: {ttl: 1m}, retry: off, fallback: [{pool: q}, {cache: stale}, {message: busy}]"
    policy = loaded(tmp_path, TEXT.replace("{model: llama, pool: q}", f"{{model: llama, pool: p, {chain}}}"))
    found = told(asked(policy, "k3", "llama"))
    assert found["cache"] == ("deterministic, fresh for 60s, kept 1d longer", "each tenant has its own answers")
    assert "hedge" not in found
    assert found["fallback"] == ("pool q, a stale answer, a message", "once the pool can't answer, in this order")
    assert found["attempts"][0] == "2 at most"


def test_a_hedge_and_a_shared_cache_are_told(tmp_path: Path) -> None:
    more = "cache: {mode: always, scope: shared, stale: 0s}, hedge: {after: 500ms}"
    policy = loaded(tmp_path, TEXT.replace("{model: llama, pool: q}", f"{{model: llama, pool: p, {more}}}"))
    found = told(asked(policy, "k3", "llama"))
    assert found["cache"] == ("always, fresh for 10m, kept 0s longer", "all tenants share its answers")
    assert found["hedge"] == (
        "after 500ms of silence", "a second attempt beside the first, at most 0.05 for each request"
    )  # fmt: skip
