"""The whole file: strict, all mistakes at once, each with its place; frozen values out."""

import dataclasses
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from policies.config.addresses import Address
from policies.config.document import PolicyError, load
from policies.config.settings import Policy, ScaleSettings, Secret
from tests.policies.policy_files import EXAMPLES, POOLS, ROUTES, SMALL, loaded, mistakes, write

NOT_AVAILABLE = "not available in this version"


def test_small_file_is_enough_and_the_rest_is_default(tmp_path: Path) -> None:
    policy = loaded(tmp_path, SMALL)
    assert policy.server.listen == Address("127.0.0.1", 8080)
    assert policy.pools["p"].endpoints[0].name == "p-0"
    assert policy.pools["p"].endpoints[0].url == "http://127.0.0.1:8000"
    assert policy.pools["p"].engine == "vllm"
    assert policy.routes[0].timeouts.connect == 2.0
    assert policy.auth.anonymous is None
    assert policy.path == str(tmp_path / "policy.yaml")


def test_all_mistakes_come_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = """\
version: 1
server:
  lissen: 127.0.0.1:8080
  max_body: 16MB
pools:
  qwen-v1:
    engine: vlm
    endpoints: [{url: "10.0.0.1:80"}]
  qwen-local:
    workers: {model: m}
routes:
- model: a
  pool: qwen-v1
- model: b
  pool: qwen-v3
- alias: c
"""
    assert mistakes(tmp_path, text) == [
        'policy.yaml:3:3 server.lissen: no key "lissen", did you mean "listen"? (known: listen, admin, admin_token, '
        "processes, max_body, max_head, header_timeout, body_timeout, write_timeout, lame_duck, drain, "
        "trusted_proxies, tls, cors)",
        'policy.yaml:4:13 server.max_body: expected a size such as 512B, 64KiB or 16MiB, found "16MB"',
        'policy.yaml:7:13 pools.qwen-v1.engine: no engine "vlm", did you mean "vllm"? (known: vllm, sglang, tgi, '
        "tensorrt_llm, triton, llama_cpp, openai, http, simulator)",
        "policy.yaml:8:23 pools.qwen-v1.endpoints[0].url: expected a URL that begins with http:// or https://, "
        'found "10.0.0.1:80"',
        'policy.yaml:15:9 routes[1].pool: no pool "qwen-v3" (known: qwen-v1, qwen-local)',
        'policy.yaml:16:3 routes[2].alias: no key "alias", did you mean "aliases"? (known: model, aliases, path, '
        "methods, match, pool, upstream_model, timeouts, retry, hedge, cache, fallback, canary, shadow)",
        "policy.yaml:16:3 routes[2].pool: is missing",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "server: {processes: no}",
            'server.processes: expected auto or a whole number such as 20, 100k or 5M, found "no"',
        ),
        ("server: {max_body: 1_000}", 'server.max_body: expected a size such as 512B, 64KiB or 16MiB, found "1_000"'),
        ("observe: {metrics: {max_series: 1e3}}", "observe.metrics.max_series: expected a whole number"),
        ("observe: {metrics: {max_series: 012}}", "observe.metrics.max_series: expected a whole number"),
        ("server: []", "server: expected a mapping (listen, admin"),
        ("server: off", "server: expected a mapping (listen, admin"),
        ("server:", "server: expected a mapping (listen, admin"),
        ("server: {listen: }", "server.listen: is empty: write HOST:PORT"),
        ("server: {listen: [a]}", "server.listen: expected HOST:PORT, [IPV6]:PORT or unix:PATH, found a list"),
        ("server: {trusted_proxies: 10.0.0.0/8}", 'server.trusted_proxies: expected a list, found "10.0.0.0/8"'),
        ("server: {tls: yes}", 'server.tls: expected a mapping (cert, key) or off, found "yes"'),
        (
            "server: {write_timeout: on}",
            'server.write_timeout: expected a duration such as 250ms, 2s, 10m or 1d, found "on"',
        ),
        (
            "server: {write_timeout: []}",
            "server.write_timeout: expected a duration such as 250ms, 2s, 10m or 1d or off, found",
        ),
        ("server: {write_timeout: 0}", "server.write_timeout: must be longer than 0"),
        (
            "server: {listen: 127.0.0.1:9901}",
            "server: listen and admin are both 127.0.0.1:9901: they need an address each",
        ),
        ("server: {listen: 0.0.0.0:9901}", "server: listen and admin are both 127.0.0.1:9901"),
        ("server: {admin_token: abc}", 'server.admin_token: expected a mapping (env, file) or off, found "abc"'),
        ("server: {admin_token: {}}", "server.admin_token: a secret is {env: NAME} or {file: PATH}"),
        ("server: {admin_token: {env: A, file: b}}", "server.admin_token: a secret is {env: NAME} or {file: PATH}"),
        ("server: {admin_token: {value: A}}", 'server.admin_token.value: no key "value" (known: env, file)'),
        ("auth: {api_keys: {}}", "auth.api_keys: api_keys is {file: PATH} or {store: true}"),
        ("auth: {anonymous: free}", 'auth.anonymous: no plan "free" (known: none)'),
        ("plans: {off: {}}", 'plans.off: "off" means that there is none'),
        ("plans: {a b: {}}", 'plans["a b"]: expected a name'),
        ("plans: {a: {scopes: [chats]}}", 'plans.a.scopes[0]: no scopes "chats", did you mean "chat"?'),
        ("plans: {a: {limits: [{requests: 5, per: key}]}}", "plans.a.limits[0].requests: expected a rate"),
        ("plans: {a: {limits: [{per: key}]}}", "plans.a.limits[0]: a limit has exactly one of"),
        ("plans: {a: {limits: [{requests: 1/day, tokens: 1/day}]}}", "plans.a.limits[0]: a limit has exactly one of"),
        (
            "plans: {a: {limits: [{concurrency: 1, burst: 1}]}}",
            "plans.a.limits[0]: burst belongs to strategy token_bucket",
        ),
        (
            "plans: {a: {limits: [{concurrency: 1, strategy: fixed_window}]}}",
            "plans.a.limits[0]: concurrency has no strategy",
        ),
        ("plans: {a: {limits: [{tokens: 1001M/day}]}}", "plans.a.limits[0]: a limit counts up to 1000M"),
        ("plans: {a: {limits: [{tokens: 1/day, burst: 1001M}]}}", "plans.a.limits[0]: a limit counts up to 1000M"),
        ("plans: {a: {limits: [{requests: 0/day, burst: 1}]}}", "plans.a.limits[0]: a rate of 0 never fills"),
        (
            "plans: {a: {limits: [{requests: 101k/day, strategy: moving_window}]}}",
            "plans.a.limits[0]: moving_window keeps every request it counts, up to 100k of them",
        ),
        (
            "plans: {a: {limits: [{tokens: 1/day, strategy: moving_window}]}}",
            "plans.a.limits[0]: strategy moving_window counts requests only",
        ),
        (
            "plans: {a: {limits: [{output_tokens: 1/day, strategy: sliding_window}]}}",
            "plans.a.limits[0]: strategy sliding_window counts requests only",
        ),
        ("version: 2", 'version: no version of this file\'s format "2" (known: 1)'),
        ("observe: {access_log: {path: }}", "observe.access_log.path: is empty"),
        (
            'observe: {access_log: {path: ""}}',
            "observe.access_log.path: expected a file's path, -, stdout or stderr, found",
        ),
        ("observe: {log: {path: off}}", "observe.log: the gateway's own log cannot be off; level: error says least"),
        ("observe: {log: {level: warn}}", 'observe.log.level: no level "warn", did you mean "warning"?'),
    ],
)
def test_mistake_outside_pools_and_routes(tmp_path: Path, text: str, message: str) -> None:
    found = mistakes(tmp_path, text + "\n" + SMALL)
    assert any(line.split(" ", 1)[1].startswith(message) for line in found), found


@pytest.mark.parametrize(
    ("pool", "message"),
    [
        ("{}", "pools.p: a pool needs endpoints, discover or workers"),
        ("{endpoints: [], workers: off}", "pools.p: a pool needs endpoints, discover or workers"),
        ("{endpoints: [{}]}", "pools.p.endpoints[0].url: is missing"),
        ("{endpoints: [{url: 'http://a', weight: 0}]}", "pools.p.endpoints[0].weight: must be more than 0"),
        ("{endpoints: [{url: 'http://a', tls: {}}]}", "pools.p.endpoints[0]: tls belongs to an https:// url"),
        ("{endpoints: [{url: 'http://a', headers: {host: x}}]}", "pools.p.endpoints[0].headers.host: host is set by"),
        ("{endpoints: [{url: 'http://a', name: a/b}]}", "pools.p.endpoints[0].name: expected a name"),
        ("{workers: {}}", "pools.p: workers need a model"),
        ("{engine: sglang, workers: {model: m}}", "pools.p: workers of engine sglang need their command line"),
        ("{engine: tgi, workers: {command: [x, '{model}']}}", "pools.p: workers need a model"),
        ("{workers: {model: m, command: []}}", "pools.p.workers: command is empty"),
        (
            "{workers: {model: m, command: ['{prot}']}}",
            'pools.p.workers: command: no placeholder "{prot}", did you mean "{port}"?',
        ),
        ("{workers: {model: m, count: 0}}", "pools.p.workers.count: must be at least 1"),
        ("{workers: {model: m, count: many}}", "pools.p.workers.count: expected a whole number"),
        ("{workers: {model: m, count: [1]}}", "pools.p.workers.count: expected a mapping (min, max) or a whole number"),
        ("{workers: {model: m, count: {min: 3, max: 2}}}", "pools.p.workers.count: min 3 is more than max 2"),
        ("{workers: {model: m, gpus: all}}", 'pools.p.workers.gpus: no gpus "all" (known: auto, none)'),
        ("{workers: {model: m, args: {a: [b]}}}", "pools.p.workers.args.a: expected text, found a list"),
        ("{workers: {model: m, env: {A-B: c}}}", "pools.p.workers.env.A-B: expected an environment variable's name"),
        ("{workers: {model: m, start_timeout: 0}}", "pools.p.workers.start_timeout: must be longer than 0"),
        ("{endpoints: [{url: 'http://a'}], keep_alive: -1s}", "pools.p.keep_alive: expected a duration"),
        (
            "{endpoints: [{url: 'http://a'}], balance: fastet}",
            'pools.p.balance: no balance "fastet", did you mean "fastest"?',
        ),
        (
            "{endpoints: [{url: 'http://a'}], discover: {}}",
            "pools.p.discover: discover is {dns: NAME, port: PORT} or {file: PATH}",
        ),
    ],
)
def test_mistake_in_a_pool(tmp_path: Path, pool: str, message: str) -> None:
    found = mistakes(tmp_path, f"pools:\n  p: {pool}\n{ROUTES}")
    assert any(line.split(" ", 1)[1].startswith(message) for line in found), found


@pytest.mark.parametrize(
    ("route", "message"),
    [
        ("{pool: p}", "routes[0]: a route has a model or a path, one of them"),
        ("{model: m, path: /x, pool: p}", "routes[0]: a route has a model or a path, one of them"),
        ("{path: /x, aliases: [a], pool: p}", "routes[0]: aliases and upstream_model belong to a route with a model"),
        (
            "{path: /x, upstream_model: a, pool: p}",
            "routes[0]: aliases and upstream_model belong to a route with a model",
        ),
        ("{path: /x, methods: [post], pool: p}", 'routes[0].methods[0]: no methods "post"'),
        ("{path: /x, methods: [], pool: p}", "routes[0]: methods is empty"),
        ("{model: m}", "routes[0].pool: is missing"),
        ("{model: m, pool: p, timeouts: {connect: off}}", "routes[0].timeouts.connect: expected a duration"),
        ("{model: m, pool: p, canary: {pool: q}}", 'routes[0].canary.pool: no pool "q" (known: p)'),
        ("{model: m, pool: p, canary: {pool: p}}", 'routes[0].canary.pool: is the route\'s own pool "p"'),
        (
            "{model: m, pool: p, canary: {pool: p, steps: [5, 5]}}",
            "routes[0].canary: steps are percentages, each more than",
        ),
        ("{model: m, pool: p, shadow: {pool: q}}", 'routes[0].shadow.pool: no pool "q" (known: p)'),
        ("{model: m, pool: p, fallback: [{pool: q}]}", 'routes[0].fallback[0].pool: no pool "q" (known: p)'),
        ("{model: m, pool: p, fallback: [{}]}", "routes[0].fallback[0]: a step of fallback has exactly one of"),
        ("{model: m, pool: p, match: {plan: x}}", 'routes[0].match.plan: no plan "x" (known: none)'),
        (
            "{model: m, pool: p, retry: {when: [not_sendt]}}",
            'routes[0].retry.when[0]: no outcome "not_sendt", did you mean',
        ),
    ],
)
def test_mistake_in_a_route(tmp_path: Path, route: str, message: str) -> None:
    found = mistakes(tmp_path, f"{POOLS}routes:\n- {route}\n")
    assert any(line.split(" ", 1)[1].startswith(message) for line in found), found


@pytest.mark.parametrize(
    ("jwt", "message"),
    [
        ("algorithms: [none]", 'auth.jwt[0].algorithms[0]: no algorithms "none"'),
        ("algorithms: [HS256, RS256]", "auth.jwt[0]: HS256 cannot stand beside an algorithm with public keys"),
        ("algorithms: []", "auth.jwt[0]: algorithms is empty"),
        (
            "claims: {tenant: t}",
            "auth.jwt[0]: a token gets its plan from claims.plan or default.plan: neither is there",
        ),
        ("default: {plan: x}", 'auth.jwt[0].default.plan: no plan "x" (known: none)'),
        ("jwks: {refresh: 1m}", "auth.jwt[0].jwks: jwks is {url: URL} or {file: PATH}"),
        ("jwks: {url: 'https://i/k', file: k}", "auth.jwt[0].jwks: jwks is {url: URL} or {file: PATH}"),
        (
            "jwks: {url: 'https://i/k'}, algorithms: [HS256]",
            "auth.jwt[0]: HS256 needs its shared key in a file of its own: jwks: {file: PATH}",
        ),
        ("shared_tenants: maybe", 'auth.jwt[0].shared_tenants: expected true or false, found "maybe"'),
    ],
)
def test_mistake_in_an_issuer(tmp_path: Path, jwt: str, message: str) -> None:
    keys = jwt.split(":")[0]
    given = {
        "name": "n",
        "issuer": "https://i",
        "audience": "a",
        "jwks": "{file: j}",
        "claims": "{plan: p}",
    }
    given.pop(keys, None)
    text = "auth: {jwt: [{" + ", ".join([*(f"{key}: {value}" for key, value in given.items()), jwt]) + "}]}"
    found = [line.split(" ", 1)[1] for line in mistakes(tmp_path, f"{text}\n{SMALL}")]
    assert any(line.startswith(message) for line in found), found


def test_pools_and_routes_are_asked_for(tmp_path: Path) -> None:
    assert mistakes(tmp_path, "version: 1\n") == [
        "policy.yaml:1:1 pools: is missing",
        "policy.yaml:1:1 routes: is missing",
    ]


def test_off_and_false_end_a_mechanism_and_zero_is_a_value(tmp_path: Path) -> None:
    for word in ("off", "false", '"off"'):
        text = f"auth: {{api_keys: {word}, anonymous: {word}, jwt: {word}}}\nserver: {{write_timeout: {word}}}\n"
        policy = loaded(tmp_path, text + f"observe: {{access_log: {word}}}\n" + SMALL)
        assert policy.auth.api_keys is None
        assert policy.auth.anonymous is None
        assert policy.auth.jwt == ()
        assert policy.server.write_timeout is None
        assert policy.observe.access_log is None
    policy = loaded(tmp_path, "observe: {access_log: {path: off}}\n" + SMALL)
    assert policy.observe.access_log is None
    policy = loaded(tmp_path, SMALL.replace("endpoints:", "keep_alive: 0\n    endpoints:"))
    assert policy.pools["p"].keep_alive == 0.0


def test_words_of_old_yaml_stay_words(tmp_path: Path) -> None:
    text = """
pools:
  on:
    engine: simulator
    workers: {args: {a: no, b: 012, c: 1e3, d: 1_000, e: 2026-01-31, f: yes, g: "", h: ~, i: 0.90}, env: {X: off}}
routes:
  - {model: no, aliases: [yes, 012, null], pool: on}
"""
    policy = loaded(tmp_path, text)
    workers = policy.pools["on"].workers
    assert workers is not None
    assert list(workers.args.values()) == ["no", "012", "1e3", "1_000", "2026-01-31", "yes", "", "~", "0.90"]
    assert workers.env == {"X": "off"}
    assert policy.routes[0].model == "no"
    assert policy.routes[0].aliases == ("yes", "012", "null")


def test_workers_of_a_simulator_need_no_model_and_no_command(tmp_path: Path) -> None:
    policy = loaded(tmp_path, f"pools: {{p: {{engine: simulator, workers: {{}}}}}}\n{ROUTES}")
    workers = policy.pools["p"].workers
    assert workers is not None
    assert (workers.command, workers.count, workers.model) == (None, 2, None)
    policy = loaded(tmp_path, f"pools: {{p: {{workers: {{model: m}}}}}}\n{ROUTES}")
    workers = policy.pools["p"].workers
    assert workers is not None
    assert workers.command == ("vllm", "serve")


def test_shapes_of_count_and_gpus(tmp_path: Path) -> None:
    found = mistakes(
        tmp_path, f"pools: {{p: {{workers: {{model: m, count: {{max: 4}}, gpus: [[0], [1]]}}}}}}\n{ROUTES}"
    )
    assert found == [
        f"policy.yaml:1:40 pools.p.workers.count: {NOT_AVAILABLE} (available: a number)",
        f"policy.yaml:1:56 pools.p.workers.gpus: {NOT_AVAILABLE} (available: auto, none)",
    ]
    assert ScaleSettings(max=4).min == 1


def test_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (
        """
server: {listen: "unix:run/s.sock"}
auth: {api_keys: {file: ../keys.yaml}}
pools:
  p:
    endpoints: [{url: "https://h", tls: {ca: /etc/ca.pem}}]
    api_key: {file: secret}
observe: {access_log: {path: "-"}, log: {path: sluice.log}}
"""
        + ROUTES
    )
    folder = tmp_path / "etc"
    folder.mkdir()
    write(folder, text)
    monkeypatch.chdir(tmp_path)
    policy = load("etc/policy.yaml", secrets=False)
    assert policy.path == "etc/policy.yaml"
    assert policy.server.listen.unix == f"{folder}/run/s.sock"
    assert policy.auth.api_keys is not None
    assert policy.auth.api_keys.file == f"{folder}/../keys.yaml"
    tls, api_key = policy.pools["p"].endpoints[0].tls, policy.pools["p"].api_key
    assert tls is not None and api_key is not None
    assert (tls.ca, api_key.file) == ("/etc/ca.pem", f"{folder}/secret")
    assert policy.observe.access_log is not None
    assert (policy.observe.access_log.path, policy.observe.log.path) == ("-", f"{folder}/sluice.log")


def test_default_keys_file_lies_beside_the_policy(tmp_path: Path) -> None:
    keys = loaded(tmp_path, SMALL).auth.api_keys
    assert keys is not None
    assert keys.file == f"{tmp_path}/keys.yaml"


def with_secret(folder: Path, secret: str) -> Path:
    return write(folder, SMALL.replace("endpoints:", f"api_key: {secret}\n    endpoints:"))


def test_secrets_are_read_only_when_asked_for(tmp_path: Path) -> None:
    path = with_secret(tmp_path, "{env: KEY}")
    assert load(path, secrets=False, environ={}).pools["p"].api_key == Secret(env="KEY")
    secret = load(path, secrets=True, environ={"KEY": "hunter2"}).pools["p"].api_key
    assert secret is not None
    assert secret.value == "hunter2"
    assert "hunter2" not in repr(secret)
    (tmp_path / "key").write_text("hunter3\n")
    secret = load(with_secret(tmp_path, "{file: key}"), secrets=True, environ={}).pools["p"].api_key
    assert secret is not None
    assert secret.value == "hunter3"


@pytest.mark.parametrize(
    ("secret", "message"),
    [
        ("{env: GONE}", "environment variable GONE is not set"),
        ("{env: EMPTY}", "environment variable EMPTY is empty"),
        ("{env: BROKEN}", "environment variable BROKEN holds control characters"),
        ("{file: gone}", "secret file {folder}/gone cannot be read: No such file or directory"),
        ("{file: empty}", "secret file {folder}/empty is empty"),
        ("{file: binary}", "secret file {folder}/binary is not UTF-8"),
        ("{file: large}", "secret file {folder}/large is larger than 64 KiB"),
    ],
)
def test_secret_that_cannot_be_had_is_a_mistake_with_its_place(tmp_path: Path, secret: str, message: str) -> None:
    write(tmp_path, "\n", "empty")
    write(tmp_path, b"\xff", "binary")
    write(tmp_path, b"x" * 65537, "large")
    environ = {"EMPTY": "", "BROKEN": "hunter2\nx"}
    with pytest.raises(PolicyError) as caught:
        load(with_secret(tmp_path, secret), secrets=True, environ=environ)
    (mistake,) = caught.value.mistakes
    assert str(mistake) == f"{tmp_path}/policy.yaml:4:14 pools.p.api_key: {message.format(folder=tmp_path)}"


def test_api_key_that_no_header_can_hold_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="api_key is sent in a header and must be ASCII"):
        load(with_secret(tmp_path, "{env: KEY}"), secrets=True, environ={"KEY": "schlüssel"})


def test_settings_are_frozen_plain_and_picklable() -> None:
    policy = load(EXAMPLES / "two-pools.yaml", secrets=False)
    assert pickle.loads(pickle.dumps(policy)) == policy
    for value in walk(policy):
        assert type(value).__module__.partition(".")[0] in {"builtins", "policies", "ipaddress"}
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            assert hasattr(type(value), "__slots__")
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(value, dataclasses.fields(value)[0].name, None)


def walk(value: Any) -> Any:
    yield value
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from walk(getattr(value, field.name))
    elif isinstance(value, dict):
        for item in value.values():
            yield from walk(item)
    elif isinstance(value, tuple):
        for item in value:
            yield from walk(item)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_examples_load(path: Path) -> None:
    if not path.name.endswith("-keys.yaml"):
        assert isinstance(load(path, secrets=False), Policy)


def test_import_is_lean() -> None:
    code = "import policies.config.document, sys; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded_modules = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30
    )
    assert not {"pydantic", "httpx", "redis", "typer", "rich", "asyncio", "msgspec", "difflib"} & set(
        loaded_modules.stdout.split()
    )
