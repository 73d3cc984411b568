"""The policy file's JSON Schema as a table for people: one row a key."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from policies.config.available import partly_built

Schema = dict[str, Any]

NOT_AVAILABLE = " (not available in this version, save off or the default)"
# A secret is told of as one value; what it may be stands above the table.
SECRET = {"env", "file"}


@dataclass(frozen=True, slots=True)
class Setting:
    """One key: its path in the file, its default as Markdown, what it means, and whether this version acts on it."""

    path: str
    default: str
    meaning: str
    available: bool


def settings(schema: Schema, path: str = "") -> Iterator[Setting]:
    """Every key under a section, depth first, in the schema's order; of what is not available, not the inside."""
    for name, node in schema.get("properties", {}).items():
        yield from _setting(node, f"{path}.{name}" if path else name, name in schema.get("required", []))


def _setting(node: Schema, path: str, required: bool) -> Iterator[Setting]:
    meaning = node.get("description", "")
    available = NOT_AVAILABLE not in meaning
    # No value at all is among the accepted ones, so what comes back is their names.
    only = partly_built(path.replace("NAME", "*"), object())
    inner = list(_inner(node, path)) if available and only is None else []
    # A section that always stands has no value of its own to tell of.
    if not inner or "anyOf" in node:
        more = _words(node) if only is None else f" (in this version: {only})"
        yield Setting(path, _default(node, required, bool(inner)), meaning.replace(NOT_AVAILABLE, "") + more, available)
    for where, section in inner:
        yield from settings(section, where)


def _default(node: Schema, required: bool, has_rows: bool) -> str:
    if required:
        return "required"
    if "default" not in node:
        return "none"
    return "as below" if has_rows and isinstance(node["default"], dict) else f"`{yaml(node['default'])}`"


def _inner(node: Schema, path: str) -> Iterator[tuple[str, Schema]]:
    """The sections that a value may hold, with the path that leads there."""
    for each in node.get("anyOf", [node]):
        for where, section in (
            (path, each),
            (f"{path}[]", each.get("items", {})),
            (f"{path}.NAME", each.get("additionalProperties") or {}),
        ):
            if "properties" in section and set(section["properties"]) != SECRET:
                yield where, section


def _words(node: Schema) -> str:
    """The words that a key takes, where the schema lists them and the meaning does not name them all."""
    for each in node.get("anyOf", [node]):
        words = [str(word) for word in (each.get("enum") or each.get("items", {}).get("enum") or [])]
        if len(words) > 1 and not {"off", "auto"} & set(words):
            missing = [word for word in words if word not in node.get("description", "")]
            return f": {', '.join(words)}" if missing else ""
    return ""


def yaml(value: Any) -> str:
    """A default as it would be written in the file, on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {yaml(member)}" for name, member in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(yaml(member) for member in value) + "]"
    return str(value).lower() if isinstance(value, bool) else str(value)
