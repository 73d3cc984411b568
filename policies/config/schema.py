"""JSON Schema of the policy file (draft 2020-12), made of the settings: each key with its default and a line of help.

For editors and for the docs. It says less than the loader checks: what hangs together across keys is not in it.
"""

from dataclasses import MISSING
from typing import Any

from policies.config.available import NOT_BUILT
from policies.config.kind import ScalarKind
from policies.config.mistakes import NOT_AVAILABLE
from policies.config.settings import Policy
from policies.config.shapes import Either, Key, ListOf, NamesOf, OrOff, Section, Shape, keys


def policy_schema() -> dict[str, Any]:
    """The whole schema, ready for JSON."""
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Sluice policy"}
    return head | _of(Section(Policy), "")


def _of(shape: Shape, path: str) -> dict[str, Any]:
    if isinstance(shape, ScalarKind):
        return dict(shape.schema)
    if isinstance(shape, Section):
        return _section(shape.cls, path)
    if isinstance(shape, ListOf):
        return {"type": "array", "items": _of(shape.item, f"{path}[]")}
    if isinstance(shape, NamesOf):
        return {
            "type": "object",
            "propertyNames": {"pattern": shape.name.schema.get("pattern", "^.")},
            "additionalProperties": _of(shape.item, f"{path}.*"),
        }
    if isinstance(shape, Either):
        return {"anyOf": [dict(shape.kind.schema), _of(shape.other, path)]}
    return {"anyOf": [{"enum": ["off", False]}, _of(shape.other, path)]}


def _section(cls: type[Any], path: str) -> dict[str, Any]:
    own = list(keys(cls))
    summary, lines = documentation(cls)
    schema: dict[str, Any] = {
        "type": "object",
        "description": summary,
        "properties": {key.name: _key(key, f"{path}.{key.name}".removeprefix("."), lines[key.name]) for key in own},
        "additionalProperties": False,
    }
    required = [key.name for key in own if key.required]
    return schema | ({"required": required} if required else {})


def _key(key: Key, path: str, line: str) -> dict[str, Any]:
    note = f" ({NOT_AVAILABLE}, save off or the default)" if path in NOT_BUILT else ""
    schema = {**_of(key.shape, path), "description": line + note}
    # None and "" without an `off` are "left out", which JSON has no word for.
    if key.default is MISSING or (key.default in (None, "") and not isinstance(key.shape, OrOff)):
        return schema
    return schema | {"default": written(key.shape, key.default)}


def written(shape: Shape, value: Any) -> Any:
    """A value as an operator would write it."""
    if isinstance(shape, ScalarKind):
        return shape.write(value)
    if isinstance(shape, Section):
        members = ((key, getattr(value, key.attribute)) for key in keys(shape.cls))
        return {
            key.name: written(key.shape, member)
            for key, member in members
            if member is not None or isinstance(key.shape, OrOff)
        }
    if isinstance(shape, ListOf):
        return [written(shape.item, member) for member in value]
    if isinstance(shape, NamesOf):
        return {name: written(shape.item, member) for name, member in value.items()}
    if isinstance(shape, Either):
        compound = isinstance(value, shape.other.cls if isinstance(shape.other, Section) else tuple)
        return written(shape.other if compound else shape.kind, value)
    return "off" if value is None else written(shape.other, value)


def documentation(cls: type[Any]) -> tuple[str, dict[str, str]]:
    """The first line of a settings class's docstring, and its line for each key."""
    summary, _, rest = (cls.__doc__ or "").partition("\n")
    pairs = (line.strip().partition(": ") for line in rest.splitlines() if line.strip())
    return summary, {name: text for name, _, text in pairs}
