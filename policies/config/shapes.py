"""Shapes of the settings fields, read from type hints; the loader and the JSON schema both use them.

`X | None` is "X or off"; with UNSET among the annotations it is "X, or left out". A Kind among them reads scalars.
"""

from collections.abc import Iterator
from collections.abc import Mapping as AbstractMapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from policies.config.forms import words
from policies.config.kind import ScalarKind, Unset


@dataclass(frozen=True, slots=True)
class Section:
    """A mapping with the keys of one settings class."""

    cls: type[Any]


@dataclass(frozen=True, slots=True)
class ListOf:
    item: "Shape"


@dataclass(frozen=True, slots=True)
class NamesOf:
    """A mapping from names that the operator chooses."""

    name: ScalarKind
    item: "Shape"


@dataclass(frozen=True, slots=True)
class Either:
    """A scalar of this kind, or the other shape."""

    kind: ScalarKind
    other: "Shape"


@dataclass(frozen=True, slots=True)
class OrOff:
    """`off` or `false`, which read as `value`, or the other shape."""

    other: "Shape"
    value: Any


Shape = ScalarKind | Section | ListOf | NamesOf | Either | OrOff


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a section: its name in the file, the attribute that holds it, what it takes, what it is by default."""

    name: str
    attribute: str
    shape: Shape
    required: bool
    default: Any


def keys(cls: type[Any]) -> Iterator[Key]:
    """The keys of a settings class, in their order."""
    for member in fields(cls):
        if member.metadata.get("key", True):
            default = _default(member)
            shape = shape_of(member.type, member.name)
            # A list of mechanisms is ended by `off` as one mechanism is.
            if isinstance(shape, ListOf) and isinstance(shape.item, Section) and default is not MISSING:
                shape = OrOff(shape, ())
            yield Key(member.name.rstrip("_"), member.name, shape, default is MISSING, default)


def _default(member: "Field[Any]") -> Any:
    return member.default if member.default_factory is MISSING else member.default_factory()


def shape_of(hint: Any, what: str) -> Shape:
    """The shape of a type hint; `what` names a list of words in messages."""
    hint, notes = _bare(hint)
    members = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    present = [member for member in members if member is not NoneType]
    kind = next((note for note in notes if isinstance(note, ScalarKind)), None)
    inner = _present(present, kind, what)
    if len(present) == len(members) or any(isinstance(note, Unset) for note in notes):
        return inner
    return OrOff(inner, None)


def _present(members: list[Any], kind: ScalarKind | None, what: str) -> Shape:
    """The shape of the members of a union, None apart."""
    compound = next((member for member in members if _is_compound(member)), None)
    if compound is not None:
        other = _compound(compound, what)
        return other if kind is None else Either(kind, other)
    if kind is not None:
        return kind
    (only,) = members
    if get_origin(only) is Annotated:
        return shape_of(only, what)
    assert get_origin(only) is Literal, only
    return words(what, tuple(map(str, get_args(only))), get_args(only))


def _bare(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    return (hint.__origin__, hint.__metadata__) if get_origin(hint) is Annotated else (hint, ())


def _is_compound(hint: Any) -> bool:
    # Either a settings class (told from a value such as Address by being written as a mapping) or a generic.
    return get_origin(hint) in (tuple, AbstractMapping) or (
        is_dataclass(hint) and hint.__module__.startswith("policies.config.settings.")
    )


def _compound(hint: Any, what: str) -> Section | ListOf | NamesOf:
    if get_origin(hint) is tuple:
        return ListOf(shape_of(get_args(hint)[0], what))
    if get_origin(hint) is AbstractMapping:
        name, item = get_args(hint)
        kind = shape_of(name, what)
        assert isinstance(kind, ScalarKind)
        return NamesOf(kind, shape_of(item, what))
    return Section(hint)
