"""Names that lead somewhere, unique names, live routes."""

from pathlib import Path

import pytest

from tests.policies.policy_files import POOLS, loaded, mistakes


@pytest.mark.parametrize(
    ("pools", "message"),
    [
        (
            "a: {endpoints: [{url: 'http://h', name: x}, {url: 'http://h', name: x}]}",
            'policy.yaml:2:71 pools.a.endpoints[1].name: endpoint name "x" is taken by pools.a.endpoints[0].name',
        ),
        (
            "a: {endpoints: [{url: 'http://h'}]}\n  b: {endpoints: [{url: 'http://h', name: a-0}]}",
            'policy.yaml:3:43 pools.b.endpoints[0].name: endpoint name "a-0" is taken by pools.a.endpoints[0]',
        ),
        (
            "a: {endpoints: [{url: 'http://h', name: b-w1}]}\n  b: {engine: simulator, workers: {count: 2}}",
            'policy.yaml:3:35 pools.b.workers: endpoint name "b-w1" is taken by pools.a.endpoints[0].name',
        ),
        (
            "a: {endpoints: [{url: 'http://h', name: b-w1}]}\n  b: {engine: simulator, workers: {}}",
            'policy.yaml:3:35 pools.b.workers: endpoint name "b-w1" is taken by pools.a.endpoints[0].name',
        ),
    ],
)
def test_endpoint_names_are_unique_in_the_file(tmp_path: Path, pools: str, message: str) -> None:
    assert mistakes(tmp_path, f"pools:\n  {pools}\nroutes: [{{model: m, pool: a}}]\n") == [message]


def routes(*lines: str) -> str:
    return POOLS + "routes:\n" + "".join(f"- {{{line}, pool: p}}\n" for line in lines)


@pytest.mark.parametrize(
    ("lines", "path", "taken"),
    [
        (["model: a", "model: a"], "routes[1].model", "a"),
        (["model: a, aliases: [b]", "model: b"], "routes[1].model", "b"),
        (["model: a, aliases: [b]", "model: c, aliases: [b]"], "routes[1].aliases[0]", "b"),
        (['model: "*"', "model: a"], "routes[1].model", "a"),
        (['model: "qwen*"', 'model: "qwen2-*"'], "routes[1].model", "qwen2-*"),
        (['model: "qwen*"', 'model: "qwen?"'], "routes[1].model", "qwen?"),
        (["path: /a", "path: /a"], "routes[1].path", "/a"),
        (['path: "/a/*"', "path: /a/b"], "routes[1].path", "/a/b"),
        (["path: /a, methods: [GET, POST]", "path: /a, methods: [GET]"], "routes[1].path", "/a"),
    ],
)
def test_route_that_can_never_match_is_a_mistake(tmp_path: Path, lines: list[str], path: str, taken: str) -> None:
    (found,) = mistakes(tmp_path, routes(*lines))
    assert found.split(" ", 1)[1] == f'{path}: can never match: routes[0] takes "{taken}" first'


@pytest.mark.parametrize(
    "lines",
    [
        ["model: a", "model: b"],
        ["model: a", 'model: "*"'],
        ['model: "qwen2-*"', 'model: "qwen*"'],
        ['model: "a?c"', 'model: "a*c"'],
        ['model: "a*"', 'model: "*a"'],
        ['model: "[ab]"', 'model: "[ac]"'],
        ["path: /a, methods: [GET]", "path: /a, methods: [POST]"],
        ["path: /a, methods: [GET]", "path: /a"],
        ['path: "/a/*"', 'path: "/*"'],
        ["model: a, match: off", "model: b"],
    ],
)
def test_route_that_can_match_is_none(tmp_path: Path, lines: list[str]) -> None:
    assert len(loaded(tmp_path, routes(*lines)).routes) == 2


def test_route_with_conditions_takes_nothing_whole(tmp_path: Path) -> None:
    found = mistakes(tmp_path, routes("model: a, match: {stream: true}", "model: a"))
    assert [line.split(" ", 1)[1] for line in found] == ["routes[0].match: not available in this version"]


def test_route_with_match_off_takes_its_names(tmp_path: Path) -> None:
    assert "can never match" in mistakes(tmp_path, routes("model: a, match: off", "model: a"))[0]


def test_issuers_have_names_of_their_own(tmp_path: Path) -> None:
    issuer = "{name: n, issuer: 'https://i', audience: a, jwks: {file: j}, claims: {plan: p}}"
    found = mistakes(tmp_path, f"auth:\n  jwt:\n  - {issuer}\n  - {issuer}\n{routes('model: a')}")
    assert 'policy.yaml:4:12 auth.jwt[1].name: name "n" is taken by auth.jwt[0].name' in found
    said = "auth.jwt[1].audience: issuer and audience are those of auth.jwt[0]: only one could be asked"
    assert [line.split(" ", 1)[1] for line in found].count(said) == 1


@pytest.mark.parametrize(("key", "what"), [("audience", "audience: ''"), ("claims.tenant", "claims: {tenant: ''}")])
def test_an_audience_and_a_claim_have_names(tmp_path: Path, key: str, what: str) -> None:
    issuer = f"{{name: n, issuer: 'https://i', {what}, jwks: {{file: j}}, default: {{plan: p}}}}"
    found = mistakes(tmp_path, f"auth:\n  jwt:\n  - {issuer}\n{routes('model: a')}")
    assert any(line.endswith(f"auth.jwt[0].{key}: is empty") for line in found)


def test_one_issuer_may_have_an_entry_for_each_audience(tmp_path: Path) -> None:
    one = "{name: %s, issuer: 'https://i', audience: %s, jwks: {file: j}, claims: {plan: p}}"
    text = f"auth:\n  jwt:\n  - {one % ('n', 'a')}\n  - {one % ('o', 'b')}\n{routes('model: a')}"
    assert len(loaded(tmp_path, text).auth.jwt) == 2


def test_names_of_the_file_are_shown_printable(tmp_path: Path) -> None:
    found = mistakes(tmp_path, 'pools: {"\\e[31mq": {endpoints: [{url: "http://h"}]}}\nroutes: [{model: m, pool: p}]\n')
    assert all(line.isprintable() for line in found)
    assert found[-1].endswith(r'routes[0].pool: no pool "p" (known: \x1b[31mq)')


LIMITED = "plans: {free: {}, paid: {limits: [{requests: 1/day}]}}\n"
ALONE = "plans.paid.limits would be counted by each process alone"


@pytest.mark.parametrize("processes", ["2", "auto"])
@pytest.mark.parametrize("store", ["", "store: {url: 'memory://'}\n"])
def test_limits_of_several_processes_need_a_store_that_they_share(tmp_path: Path, processes: str, store: str) -> None:
    found = mistakes(tmp_path, f"server: {{processes: {processes}}}\n{store}{LIMITED}{routes('model: a')}")
    assert any(line.startswith(f"policy.yaml:1:21 server.processes: {ALONE}") for line in found), found


@pytest.mark.parametrize(
    "text",
    [
        f"server: {{processes: 1}}\n{LIMITED}",
        LIMITED,
        f"server: {{processes: 2}}\nstore: {{url: 'redis://h:1/0'}}\n{LIMITED}",
        "server: {processes: 2}\nplans: {free: {limits: []}, paid: {limits: off}}\n",
    ],
)
def test_other_limits_do_not(tmp_path: Path, text: str) -> None:
    # Another mistake, so that there is one whatever this version has.
    found = mistakes(tmp_path, f"{text}{routes('model: a', 'model: a')}")
    assert not any("by each process" in line for line in found), found


@pytest.mark.parametrize("store", ["", "store: {url: 'memory://'}\n"])
def test_keys_are_not_kept_in_memory(tmp_path: Path, store: str) -> None:
    (found,) = mistakes(
        tmp_path, f"{store}auth: {{api_keys: {{store: true}}}}\n{POOLS}routes: [{{model: m, pool: p}}]\n"
    )
    assert "auth.api_keys.store: keys need a store.url of Redis" in found
    redis = "store: {url: 'redis://h'}\nauth: {api_keys: {store: true}}\n"
    assert loaded(tmp_path, f"{redis}{POOLS}routes: [{{model: m, pool: p}}]\n").store.url == "redis://h"


def fallback(steps: str, more: str = "") -> str:
    pools = POOLS + '  q:\n    endpoints: [{url: "http://h"}]\n'
    return f"{pools}routes:\n- {{model: m, pool: p, {more}fallback: [{steps}]}}\n"


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ("{pool: z}", 'routes[0].fallback[0].pool: no pool "z" (known: p, q)'),
        ("{pool: p}", 'routes[0].fallback[0].pool: is the route\'s own pool "p"'),
        ("{pool: q}, {pool: q}", 'routes[0].fallback[1].pool: is an earlier step\'s pool "q"'),
        (
            "{message: a}, {pool: q}",
            "routes[0].fallback[1]: can never be reached: routes[0].fallback[0] always answers",
        ),
        ("{cache: stale}", "routes[0].fallback[0].cache: needs the route's cache: without it no answer is kept"),
        ("{}", "routes[0].fallback[0]: a step of fallback has exactly one of pool, cache and message"),
        (
            "{pool: q, message: a}",
            "routes[0].fallback[0]: a step of fallback has exactly one of pool, cache and message",
        ),
        (
            "{message: a, max_tokens: 5}",
            "routes[0].fallback[0]: upstream_model, max_tokens and label belong to a step with a pool",
        ),
        ('{message: " "}', "routes[0].fallback[0]: a message has text in it, and nothing that is no Unicode"),
        ('{message: "\\uD800"}', "routes[0].fallback[0]: a message has text in it, and nothing that is no Unicode"),
        (
            "{pool: q, label: cache}",
            "routes[0].fallback[0]: label cache says that no pool has answered: take another word",
        ),
        ("{pool: q, status: 503}", "routes[0].fallback[0]: status belongs to a step with a message"),
        ("{message: a, status: 302}", "routes[0].fallback[0]: a message has a status of 200 to 299, or from 400 on"),
    ],
)
def test_steps_of_a_fallback_that_lead_nowhere_are_mistakes(tmp_path: Path, steps: str, message: str) -> None:
    found = mistakes(tmp_path, fallback(steps))
    assert [line.split(" ", 1)[1] for line in found] == [message]


@pytest.mark.parametrize(
    ("steps", "more", "message"),
    [
        (
            "{cache: stale}", "cache: {stale: 0s}",
            "a stale answer as a fallback needs cache.stale: with 0s none is kept past its ttl",
        ),
        (
            "{message: a}", "hedge: {}, timeouts: {first_byte: 2s}",
            "hedge.after must be less than timeouts.first_byte, which ends an attempt that is silent",
        ),
        ("{message: a}", "hedge: {}, retry: off", "hedge needs retry.retries: a hedge is an attempt after the first"),
        (
            "{pool: q}", "hedge: {}, retry: {retries: 1}",
            "hedge needs more retry.retries than 1: each pool of fallback is left one of them, and a hedge takes one",
        ),
    ],
)  # fmt: skip
def test_what_a_route_could_never_do_is_a_mistake(tmp_path: Path, steps: str, more: str, message: str) -> None:
    (found,) = mistakes(tmp_path, fallback(steps, f"{more}, "))
    assert found.split(" ", 1)[1] == f"routes[0]: {message}"


def test_a_hedge_beside_a_fallback_pool_has_an_attempt_of_its_own(tmp_path: Path) -> None:
    (route,) = loaded(tmp_path, fallback("{pool: q}", "hedge: {}, retry: {retries: 2}, ")).routes
    assert route.hedge is not None and route.fallback


def test_a_whole_chain_is_accepted(tmp_path: Path) -> None:
    steps = (
        "{pool: q, upstream_model: x, max_tokens: 256, label: small, concurrency: off}, {cache: stale}, {message: a}"
    )
    (route,) = loaded(tmp_path, fallback(steps, "cache: {ttl: 1m}, ")).routes
    assert [(step.pool, step.cache, step.message) for step in route.fallback] == [
        ("q", None, None),
        (None, "stale", None),
        (None, None, "a"),
    ]
    assert route.fallback[0].concurrency is None and route.fallback[1].concurrency == 64
