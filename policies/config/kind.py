"""Kinds of scalars of the policy file: reading from source text, writing back, and description in a schema.

A settings field names its kind, `keep_alive: Annotated[float, SECONDS]`; the loader and the schema read it from there.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final


# Compared by identity: annotations are hashed, and a schema is not hashable.
@dataclass(frozen=True, slots=True, eq=False)
class ScalarKind:
    """One kind of scalar. `read` raises ValueError with the operator's message; `write` is its inverse."""

    phrase: str
    read: Callable[[str], Any]
    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": ["string", "number", "boolean"]})
    write: Callable[[Any], Any] = lambda value: value
    # Of a file: the loader resolves it against the policy file's folder, save these words.
    is_path: bool = False
    not_paths: tuple[str, ...] = ()


class Unset:
    """Marks an optional key that has no `off`: None means that it was left out, and `off` would be its text."""


UNSET: Final = Unset()
