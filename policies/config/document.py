"""The policy file -> frozen typed settings, or every mistake in it at once. The door to pydantic.

pydantic's validation engine (pydantic-core) walks the file's tree by a schema made of the settings' own type hints, so
names, types and defaults stand once, in `policies.config.settings`. pydantic's model layer is left out: its import
costs more than all of the loading. Nothing of pydantic is in what comes out.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic_core import (
    CoreSchema,
    ErrorDetails,
    InitErrorDetails,
    PydanticCustomError,
    SchemaValidator,
    ValidationError,
)
from pydantic_core import core_schema as cs

from policies.config import references
from policies.config.available import NOT_BUILT, partly_built
from policies.config.finishing import Finisher, FinishingPlace
from policies.config.kind import ScalarKind
from policies.config.mistakes import NOT_AVAILABLE, Mistake, PolicyError, unknown
from policies.config.nodes import Mapping as MappingNode
from policies.config.nodes import Node, Scalar, is_off, locate
from policies.config.nodes import Sequence as SequenceNode
from policies.config.secrets import SecretSource
from policies.config.settings import Policy, Secret
from policies.config.shapes import Either, Key, ListOf, NamesOf, Section, Shape, keys
from policies.config.source import read

__all__ = ["Mistake", "Policy", "PolicyError", "load"]

Handler = Callable[[Any], Any]


def load(path: str | Path, *, secrets: bool, environ: Mapping[str, str] = os.environ) -> Policy:
    """The settings of a policy file. With `secrets`, their values are read too, and one that cannot be is a mistake.

    Raises PolicyError with every mistake. Blocks for reading files (milliseconds); safe in a thread.
    """
    file = Path(path)
    tree = read(file)
    place = FinishingPlace(file.absolute().parent, SecretSource(environ) if secrets else None)
    mistakes = references.mistakes(str(path), tree)
    try:
        policy: Policy = SchemaValidator(_SchemaCompiler(place).section(Section(Policy), "")).validate_python(tree)
    except ValidationError as error:
        mistakes += [
            _mistake(str(path), tree, detail) for detail in error.errors(include_url=False, include_input=False)
        ]
    if mistakes:
        raise PolicyError(mistakes)
    return Finisher(place).policy(policy, str(path))


class _SchemaCompiler:
    """Shapes -> the schema by which pydantic-core walks a tree. A `path` is a pattern, as in
    `policies.config.available`."""

    def __init__(self, place: FinishingPlace) -> None:
        self._place = place

    def of(self, shape: Shape, path: str, also: str = "") -> CoreSchema:
        """The schema of any shape; `also` is what else a message should offer."""
        if isinstance(shape, ScalarKind):
            return cs.no_info_plain_validator_function(self._scalar(shape, also))
        if isinstance(shape, Section):
            return self.section(shape, path, also)
        if isinstance(shape, ListOf):
            listed = cs.tuple_variable_schema(self.of(shape.item, f"{path}[]"))
            return cs.no_info_before_validator_function(_items(also), listed)
        if isinstance(shape, NamesOf):
            name = cs.no_info_plain_validator_function(_name(shape.name))
            named = cs.dict_schema(name, self.of(shape.item, f"{path}.*"))
            return cs.no_info_before_validator_function(_entries("a mapping", also), named)
        if isinstance(shape, Either):
            scalar = self._scalar(shape.kind, also)
            other = self.of(shape.other, path, f" or {shape.kind.phrase}{also}")
            return cs.no_info_wrap_validator_function(_either(scalar), other)
        inner = self.of(shape.other, path, f" or off{also}")
        return cs.no_info_wrap_validator_function(_or_off(shape.value), inner)

    def section(self, shape: Section, path: str, also: str = "") -> CoreSchema:
        own = list(keys(shape.cls))
        members = {key.name: cs.typed_dict_field(self._member(key, path), required=key.required) for key in own}
        names = [key.name for key in own]
        typed = cs.typed_dict_schema(
            members, extra_behavior="allow", extras_schema=cs.no_info_plain_validator_function(_no_key(names))
        )
        built = cs.no_info_after_validator_function(self._builder(shape.cls, own), typed)
        return cs.no_info_before_validator_function(_entries(f"a mapping ({', '.join(names)})", also), built)

    def _member(self, key: Key, path: str) -> CoreSchema:
        path = f"{path}.{key.name}" if path else key.name
        inner = self.of(key.shape, path)
        if path in NOT_BUILT:
            return cs.no_info_wrap_validator_function(_not_built(key), inner)
        return cs.no_info_after_validator_function(_partly_built(path), inner)

    def _builder(self, cls: type[Any], own: list[Key]) -> Handler:
        attributes = {key.name: key.attribute for key in own}
        place = self._place

        def build(values: dict[str, Any]) -> Any:
            value = cls(**{attributes[name]: given for name, given in values.items()})
            if cls is Secret and place.secrets is not None:
                return replace(value, value=place.secrets.read(value.env, value.file))
            return value

        return build

    def _scalar(self, kind: ScalarKind, also: str) -> Handler:
        place = self._place

        def scalar(node: Node) -> Any:
            if not isinstance(node, Scalar):
                raise ValueError(f"expected {kind.phrase}{also}, found {node}")
            if node.empty:
                raise ValueError(f"is empty: write {kind.phrase}{also}, or leave the key out for its default")
            if kind.is_path:
                if not node.text:
                    raise ValueError(f"expected {kind.phrase}, found {node}")
                return place.path(kind, kind.read(node.text))
            return kind.read(node.text)

        return scalar


def _items(also: str) -> Handler:
    def items(node: Node) -> Any:
        if not isinstance(node, SequenceNode):
            raise ValueError(f"expected a list{also}, found {node}")
        return node.items

    return items


def _entries(phrase: str, also: str) -> Handler:
    def entries(node: Node) -> Any:
        if not isinstance(node, MappingNode):
            raise ValueError(f"expected {phrase}{also}, found {node}")
        return node.entries

    return entries


def _name(kind: ScalarKind) -> Handler:
    def name(text: str) -> Any:
        try:
            return kind.read(text)
        except ValueError as error:
            raise PydanticCustomError("at_key", "{message}", {"message": str(error)}) from None

    return name


def _either(scalar: Handler) -> Callable[[Any, Handler], Any]:
    return lambda node, handler: scalar(node) if isinstance(node, Scalar) else handler(node)


def _or_off(value: Any) -> Callable[[Any, Handler], Any]:
    return lambda node, handler: value if is_off(node) else handler(node)


def _no_key(names: list[str]) -> Handler:
    def refuse(_: Node) -> Any:
        raise PydanticCustomError("no_key", "{names}", {"names": names})

    return refuse


def _not_built(key: Key) -> Callable[[Any, Handler], Any]:
    refusal = PydanticCustomError("at_key", "{message}", {"message": NOT_AVAILABLE})
    on_by_default = bool(key.default)

    def check(node: Node, handler: Handler) -> Any:
        try:
            value = handler(node)
        except ValidationError as error:
            if on_by_default:
                raise
            # Whatever was meant, it is not the default, which is off: both are said at once.
            raise _with(error, refusal, node) from None
        if value is None or value == key.default:
            return value
        raise refusal

    return check


def _with(error: ValidationError, refusal: PydanticCustomError, node: Node) -> ValidationError:
    """The same mistakes, and the refusal of the whole."""
    lines = [_line(detail) for detail in error.errors(include_url=False, include_input=False)]
    lines.append(InitErrorDetails(type=refusal, loc=(), input=node))
    return ValidationError.from_exception_data("policy", lines)


def _line(detail: ErrorDetails) -> InitErrorDetails:
    if detail["type"] == "missing":
        return InitErrorDetails(type="missing", loc=detail["loc"], input=None)
    context = detail.get("ctx") or {}
    again = PydanticCustomError(detail["type"], "{message}", {"message": detail["msg"], **context})
    return InitErrorDetails(type=again, loc=detail["loc"], input=None)


def _partly_built(path: str) -> Handler:
    def check(value: Any) -> Any:
        names = partly_built(path, value)
        if names is not None:
            raise ValueError(f"{NOT_AVAILABLE} (available: {names})")
        return value

    return check


def _mistake(file: str, tree: MappingNode, detail: ErrorDetails) -> Mistake:
    """pydantic's finding in our words, with its place in the file."""
    place = locate(tree, detail["loc"])
    context = detail.get("ctx") or {}
    if detail["type"] == "missing":
        return Mistake(file, place.mark, place.path, "is missing")
    if detail["type"] == "no_key":
        return Mistake(file, place.key_mark, place.path, unknown("key", str(detail["loc"][-1]), context["names"]))
    if detail["type"] == "at_key":
        return Mistake(file, place.key_mark, place.path, context["message"])
    return Mistake(file, place.mark, place.path, str(context.get("error") or context.get("message") or detail["msg"]))
