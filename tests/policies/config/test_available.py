"""What is not built is refused with its path, unless it is off or the default; nothing is ignored."""

from pathlib import Path

import pytest

from policies.config.available import NOT_BUILT
from policies.config.document import PolicyError, load
from policies.config.settings import Policy
from policies.config.settings.routes import RetrySettings, TimeoutSettings
from policies.config.shapes import Either, ListOf, NamesOf, OrOff, Section, Shape, keys
from tests.policies.policy_files import DATA, POOLS, ROUTES, loaded, mistakes

NOT_AVAILABLE = "not available in this version"

# Of POLICY's own example. Every issue that builds a mechanism takes its lines out.
TODAY = [
    "pools.qwen-v1.endpoints[1].tags",
    "pools.qwen-v1.discover",
    "pools.qwen-local.workers.autoscale",
    "routes[0].match",
    "routes[0].canary",
]


def test_policys_own_example_lacks_exactly_what_is_not_built() -> None:
    with pytest.raises(PolicyError) as caught:
        load(DATA / "policy_example.yaml", secrets=False)
    found = caught.value.mistakes
    assert [mistake.path for mistake in found if mistake.message == NOT_AVAILABLE] == TODAY
    # The example names two pools that it does not show.
    assert [(mistake.path, mistake.message) for mistake in found if mistake.message != NOT_AVAILABLE] == [
        ("routes[0].canary.pool", 'no pool "qwen-v2" (known: qwen-v1, qwen-local)'),
        ("routes[1].pool", 'no pool "classifier" (known: qwen-v1, qwen-local)'),
    ]


def paths(shape: Shape, path: str) -> list[str]:
    if isinstance(shape, Section):
        return [
            deeper
            for key in keys(shape.cls)
            for deeper in [
                f"{path}.{key.name}".removeprefix("."),
                *paths(key.shape, f"{path}.{key.name}".removeprefix(".")),
            ]
        ]
    if isinstance(shape, ListOf):
        return paths(shape.item, f"{path}[]")
    if isinstance(shape, NamesOf):
        return paths(shape.item, f"{path}.*")
    return paths(shape.other, path) if isinstance(shape, OrOff | Either) else []


def test_every_path_in_the_list_is_a_key() -> None:
    assert set(paths(Section(Policy), "")) >= NOT_BUILT


@pytest.mark.parametrize(
    "text",
    [
        "server: {processes: 1, header_timeout: 10000ms, body_timeout: off, lame_duck: 1s, drain: off}",
        "server: {tls: off, cors: false}",
        "store: {url: 'memory://', password: off, prefix: sluice, timeout: 50ms, on_outage: local}",
        "auth: {api_keys: {file: k, store: false}, jwt: []}",
        "auth: {jwt: off}",
        "plans: {a: {priority: 0, weight: 1, limits: []}, b: {limits: off, max_input_tokens: off}}",
        "observe: {access_log: {format: json, sample: 1}, log: {format: text}}",
        "observe: {metrics: {labels: [tenant, model, pool]}}",
        "observe: {tracing: off}",
    ],
)
def test_off_and_default_are_accepted(tmp_path: Path, text: str) -> None:
    assert isinstance(loaded(tmp_path, f"{text}\n{POOLS}{ROUTES}"), Policy)


def test_off_and_default_are_accepted_in_pools_and_routes(tmp_path: Path) -> None:
    pool = """
pools:
  p:
    endpoints: [{url: "http://h", max_in_flight: off, tags: {}}]
    version: 1
    discover: off
    hash_on: tenant
    queue: {wait: 30s}
    health: off
    ejection: {consecutive: 5, for: 10s}
    breaker: {when: [not_sent, no_answer, too_slow, broken_off, 500, 502, 504]}
    slow_start: 30s
    scrape: {}
    max_in_flight: off
    on_disconnect: abort
  q:
    engine: simulator
    workers: {warm_up: 1, restart: {crash_loop: {starts: 5}}, stop: {drain: 30s}, autoscale: off, gpus: none, count: 1}
routes:
- {model: m, pool: p, match: off, retry: off, hedge: off, cache: off, fallback: off, canary: off, shadow: off}
- {model: n, pool: q, retry: {retries: 3}, timeouts: {first_byte: 60s, idle: 1m, attempt: 30m, first_byte_plain: off}}
"""
    assert isinstance(loaded(tmp_path, pool), Policy)


def test_retries_and_every_timeout_can_be_set(tmp_path: Path) -> None:
    routes = """
routes:
- model: m
  pool: p
  retry: {retries: 1, backoff: 50ms, factor: 3, max: 1s, jitter: none, budget: 0.5, floor: 0, when: [no_answer, 500]}
  timeouts: {connect: 1s, first_byte: 2s, first_byte_plain: 3s, idle: 4s, attempt: 5s, total: 6s}
- {model: n, pool: p, retry: off, timeouts: {first_byte: off, idle: off, attempt: off, total: off}}
"""
    first, second = loaded(tmp_path, POOLS + routes).routes
    assert first.retry == RetrySettings(
        retries=1, backoff=0.05, factor=3.0, max=1.0, jitter="none", budget=0.5, floor=0, when=("no_answer", 500)
    )
    assert first.timeouts == TimeoutSettings(
        connect=1.0, first_byte=2.0, first_byte_plain=3.0, idle=4.0, attempt=5.0, total=6.0
    )
    assert second.retry is None
    assert second.timeouts == TimeoutSettings(first_byte=None, idle=None, attempt=None, total=None)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("server: {processes: auto}", f"server.processes: {NOT_AVAILABLE} (available: 1)"),
        ("server: {tls: {cert: a, key: b}}", f"server.tls: {NOT_AVAILABLE}"),
        ("server: {cors: {origins: ['https://a']}}", f"server.cors: {NOT_AVAILABLE}"),
        ("observe: {access_log: {format: text}}", f"observe.access_log.format: {NOT_AVAILABLE}"),
        ("observe: {tracing: {otlp: 'http://h'}}", f"observe.tracing: {NOT_AVAILABLE}"),
    ],
)
def test_what_is_not_built_is_refused_at_its_key(tmp_path: Path, text: str, path: str) -> None:
    found = mistakes(tmp_path, f"{text}\n{POOLS}{ROUTES}")
    assert [line.split(" ", 1)[1] for line in found] == [path]


@pytest.mark.parametrize(
    "balance", ["weighted_round_robin", "power_of_two", "fastest", "consistent_hash", "prefix_affinity"]
)
def test_strategies_that_are_not_built_are_refused(tmp_path: Path, balance: str) -> None:
    text = POOLS.replace("endpoints:", f"balance: {balance}\n    endpoints:") + ROUTES
    assert mistakes(tmp_path, text) == [
        f"policy.yaml:4:14 pools.p.balance: {NOT_AVAILABLE} (available: least_requests, round_robin)"
    ]


def test_mistake_inside_of_a_default_does_not_say_that_the_default_is_missing(tmp_path: Path) -> None:
    (found,) = mistakes(tmp_path, POOLS.replace("endpoints:", "queue: {siz: 512}\n    endpoints:") + ROUTES)
    assert found == 'policy.yaml:4:13 pools.p.queue.siz: no key "siz", did you mean "size"? (known: size, wait)'
