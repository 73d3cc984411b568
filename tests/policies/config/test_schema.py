"""The JSON Schema carries each default that POLICY names, and knows what the loader knows."""

from pathlib import Path
from typing import Any

import pytest

from policies.config import units
from policies.config.document import load
from policies.config.nodes import Mapping, Node, Scalar, Sequence
from policies.config.schema import documentation, policy_schema, written
from policies.config.settings import Policy
from policies.config.shapes import Either, ListOf, NamesOf, OrOff, Section, Shape, keys
from policies.config.source import read
from tests.policies.policy_files import DATA, EXAMPLES, SMALL, loaded

# What POLICY excepts from "every value above is its key's default": names, URLs, secrets, plans, pools, routes, the
# members that it marks so, and the values that it corrects below. Worker args and env are the operator's words.
EXCEPTED = {
    "server.admin_token", "store.password", "auth.jwt", "auth.jwt[].name", "auth.jwt[].issuer",
    "auth.jwt[].audience", "auth.jwt[].jwks", "auth.jwt[].jwks.url", "auth.jwt[].claims",
    "auth.jwt[].claims.tenant", "auth.jwt[].claims.plan", "auth.jwt[].claims.scopes", "auth.jwt[].claims.models",
    "auth.jwt[].default", "auth.jwt[].default.plan", "plans", "plans.*.models", "plans.*.scopes",
    "plans.*.max_input_tokens", "plans.*.max_output_tokens", "plans.*.limits", "plans.*.limits[].requests",
    "plans.*.limits[].tokens", "plans.*.limits[].output_tokens", "plans.*.limits[].concurrency",
    "plans.*.limits[].burst", "plans.*.limits[].strategy", "plans.*.limits[].per", "plans.*.limits[].on_outage",
    "pools", "pools.*.endpoints", "pools.*.endpoints[].name", "pools.*.endpoints[].url",
    "pools.*.endpoints[].weight", "pools.*.endpoints[].max_in_flight", "pools.*.endpoints[].tags",
    "pools.*.endpoints[].tls", "pools.*.endpoints[].tls.ca", "pools.*.endpoints[].tls.server_name",
    "pools.*.endpoints[].headers", "pools.*.discover", "pools.*.discover.dns", "pools.*.api_key", "pools.*.workers",
    "pools.*.workers.model", "pools.*.workers.served_name", "pools.*.workers.args", "pools.*.workers.env",
    "pools.*.workers.autoscale", "routes", "routes[].model", "routes[].aliases", "routes[].path", "routes[].pool",
    "routes[].match", "routes[].match.plan", "routes[].match.prompt_tokens", "routes[].match.header",
    "routes[].match.stream", "routes[].upstream_model", "routes[].canary", "routes[].canary.pool",
    "auth.api_keys.file",
}  # fmt: skip
SECRET_MEMBERS = (".env", ".file")

# In POLICY's prose, not in its example.
ALSO = {
    "plans.*.models": None,
    "plans.*.scopes": ["chat", "completions", "embeddings", "rerank", "audio", "predict"],
    "plans.*.weight": 1,
    "plans.*.limits": [],
    "plans.*.limits[].strategy": "token_bucket",
    "plans.*.max_input_tokens": "off",
    "plans.*.max_output_tokens": "off",
    "auth.jwt": [],
    "auth.api_keys": {"file": "keys.yaml", "store": False},
    "pools.*.endpoints[].weight": 1,
    "pools.*.endpoints[].max_in_flight": "off",
    "pools.*.discover": "off",
    "pools.*.workers": "off",
    "pools.*.workers.autoscale": "off",
    "routes[].match": "off",
    "routes[].methods": ["POST"],
    "routes[].canary": "off",
    "routes[].timeouts.first_byte_plain": "off",
    "routes[].hedge": "off",
    "routes[].cache": "off",
    "routes[].fallback": [],
    "routes[].shadow": "off",
    # Of mechanisms that are off, in the comments beside them.
    "routes[].hedge.after": "2s",
    "routes[].hedge.budget": 0.05,
    "routes[].cache.mode": "deterministic",
    "routes[].cache.ttl": "10m",
    "routes[].cache.stale": "1d",
    "routes[].cache.scope": "tenant",
    "routes[].shadow.percent": 1,
    "observe.tracing.sample": 0.01,
}


def schemas(schema: dict[str, Any], path: str = "") -> dict[str, dict[str, Any]]:
    """The schema of every key, by its path."""
    found: dict[str, dict[str, Any]] = {}
    for name, member in schema.get("properties", {}).items():
        deeper = f"{path}.{name}".removeprefix(".")
        found |= {deeper: member, **schemas(member, deeper)}
    for member in schema.get("anyOf", []):
        found |= schemas(member, path)
    if isinstance(schema.get("items"), dict):
        found |= schemas(schema["items"], f"{path}[]")
    if isinstance(schema.get("additionalProperties"), dict):
        found |= schemas(schema["additionalProperties"], f"{path}.*")
    return found


def values(shape: Shape, node: Node, path: str = "") -> dict[str, tuple[Shape, Node]]:
    """Every key that a file sets, by its path, with what it takes."""
    if isinstance(shape, OrOff | Either):
        return values(shape.other, node, path)
    found: dict[str, tuple[Shape, Node]] = {}
    if isinstance(shape, Section) and isinstance(node, Mapping):
        for key in keys(shape.cls):
            if key.name in node.entries:
                deeper = f"{path}.{key.name}".removeprefix(".")
                found |= {deeper: (key.shape, node.entries[key.name])}
                found |= values(key.shape, node.entries[key.name], deeper)
    elif isinstance(shape, ListOf) and isinstance(node, Sequence):
        for item in node.items:
            found |= values(shape.item, item, f"{path}[]")
    elif isinstance(shape, NamesOf) and isinstance(node, Mapping):
        for item in node.entries.values():
            found |= values(shape.item, item, f"{path}.*")
    return found


def as_written(shape: Shape, node: Node) -> Any:
    """The default that a node of the example stands for, in the schema's words."""
    if isinstance(node, Scalar) and node.text == "off":
        return "off" if not isinstance(shape, OrOff) or shape.value is None else []
    if isinstance(shape, OrOff | Either) and not (isinstance(shape, Either) and isinstance(node, Scalar)):
        return as_written(shape.other, node)
    if isinstance(shape, Section) and isinstance(node, Mapping):
        own = {key.name: key.shape for key in keys(shape.cls)}
        return {name: as_written(own[name], member) for name, member in node.entries.items()}
    if isinstance(shape, ListOf) and isinstance(node, Sequence):
        return [as_written(shape.item, member) for member in node.items]
    assert isinstance(node, Scalar)
    kind = shape.kind if isinstance(shape, Either) else shape
    return written(kind, kind.read(node.text))  # type: ignore[union-attr]


EXAMPLE = values(Section(Policy), read(DATA / "policy_example.yaml"))
SCHEMAS = schemas(policy_schema())
NAMED = sorted(path for path in EXAMPLE if path not in EXCEPTED and not path.endswith(SECRET_MEMBERS))


@pytest.mark.parametrize("path", NAMED)
def test_every_value_of_policys_example_is_its_keys_default(path: str) -> None:
    shape, node = EXAMPLE[path]
    assert_within(as_written(shape, node), SCHEMAS[path]["default"], path)


def assert_within(expected: Any, default: Any, path: str) -> None:
    """What the example shows of a default is so; it need not show every member."""
    if not isinstance(expected, dict):
        assert default == expected, path
        return
    for name, member in expected.items():
        if f"{path}.{name}" not in EXCEPTED:
            assert_within(member, default[name], f"{path}.{name}")


def test_exceptions_are_keys_of_the_example() -> None:
    assert set(EXAMPLE) >= EXCEPTED


@pytest.mark.parametrize("path", sorted(ALSO))
def test_defaults_in_policys_prose(path: str) -> None:
    assert SCHEMAS[path].get("default") == ALSO[path]


def test_every_key_has_a_line_of_help_and_no_line_is_of_another() -> None:
    seen: set[type[Any]] = set()
    todo: list[Shape] = [Section(Policy)]
    while todo:
        shape = todo.pop()
        if isinstance(shape, Section):
            if shape.cls not in seen:
                seen.add(shape.cls)
                own = list(keys(shape.cls))
                summary, lines = documentation(shape.cls)
                assert summary and list(lines) == [key.name for key in own], shape.cls
                assert all(lines.values())
                todo += [key.shape for key in own]
        elif isinstance(shape, ListOf | NamesOf):
            todo.append(shape.item)
        elif isinstance(shape, OrOff | Either):
            todo.append(shape.other)
    assert len(seen) > 40


def test_what_is_not_built_says_so() -> None:
    assert "not available in this version" in SCHEMAS["routes[].canary"]["description"]
    assert "not available in this version" not in SCHEMAS["server.listen"]["description"]


def test_unknown_keys_are_refused_by_the_schema_too() -> None:
    for path, schema in SCHEMAS.items():
        if "properties" in schema:
            assert schema["additionalProperties"] is False, path
    assert policy_schema()["required"] == ["pools", "routes"]


def test_a_default_written_out_is_the_default(tmp_path: Path) -> None:
    """The top-level defaults of the schema, put into a file, change nothing."""
    plain = loaded(tmp_path, SMALL)
    lines = [f"{name}: {flow(SCHEMAS[name]['default'])}" for name in ("version", "server", "store", "plans", "observe")]
    assert loaded(tmp_path, "\n".join(lines) + "\n" + SMALL) == plain


def flow(value: Any) -> str:
    """A value of the schema as YAML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {flow(member)}" for name, member in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(flow, value)) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value).lower()


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_examples_fit_the_schema(path: Path) -> None:
    if path.name.endswith("-keys.yaml"):
        return
    load(path, secrets=False)
    for key in values(Section(Policy), read(path)):
        assert key in SCHEMAS


def test_numbers_are_tidy() -> None:
    assert units.NUMBER.write(1.0) == 1
    assert units.NUMBER.write(0.5) == 0.5
