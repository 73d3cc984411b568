"""A policy file as a tree whose leaves are the source text of scalars, each with its place in the file."""

from collections.abc import Iterator
from dataclasses import dataclass

from policies.config.mistakes import Mark, joined, quoted

OFF = ("off", "false")


@dataclass(frozen=True, slots=True)
class Scalar:
    """A leaf: what stood in the file, never converted (`012` stays `012`)."""

    text: str
    quoted: bool
    mark: Mark

    @property
    def empty(self) -> bool:
        """Return whether the value is missing in the text (`key:` alone); `""` is a value."""
        return not self.text and not self.quoted

    def __str__(self) -> str:
        return "nothing" if self.empty else quoted(self.text)


@dataclass(frozen=True, slots=True)
class Sequence:
    items: "tuple[Node, ...]"
    mark: Mark

    def __str__(self) -> str:
        return "a list"


@dataclass(frozen=True, slots=True)
class Mapping:
    """Entries in the file's order; `key_marks` says where each key stands."""

    entries: "dict[str, Node]"
    key_marks: dict[str, Mark]
    mark: Mark

    def __str__(self) -> str:
        return "a mapping"


Node = Scalar | Sequence | Mapping


@dataclass(frozen=True, slots=True)
class NodePlace:
    """Place of a node: its dotted path, its own mark, and the mark of its key (its own again in a list)."""

    path: str
    mark: Mark
    key_mark: Mark


def locate(root: Mapping, steps: "tuple[str | int, ...]") -> NodePlace:
    """The place that `steps` lead to; where they leave the tree, the last mark on the way."""
    node: Node | None = root
    path, mark, key_mark = "", root.mark, root.mark
    for step in steps:
        key_known = isinstance(node, Mapping) and step in node.entries
        if isinstance(step, str) and step == "[key]" and not key_known:
            # How pydantic says that the key itself is wrong.
            continue
        path = joined(path, step)
        if isinstance(node, Mapping) and isinstance(step, str):
            key_mark = node.key_marks.get(step, mark)
            node = node.entries.get(step)
        elif isinstance(node, Sequence) and isinstance(step, int):
            node = node.items[step]
            key_mark = node.mark
        else:
            node = None
        mark = node.mark if node is not None else mark
    return NodePlace(path, mark, key_mark)


def is_off(node: Node | None) -> bool:
    return isinstance(node, Scalar) and node.text in OFF


@dataclass(frozen=True, slots=True)
class Cursor:
    """A node with its dotted path, for reading a tree whose shape is not proven: a wrong shape reads as absent."""

    node: Node
    path: str = ""

    @property
    def text(self) -> str | None:
        return self.node.text if isinstance(self.node, Scalar) and not self.node.empty else None

    def get(self, *keys: str) -> "Cursor | None":
        """The value below `keys`, or None where there is none."""
        here = self
        for key in keys:
            if not isinstance(here.node, Mapping) or key not in here.node.entries:
                return None
            here = Cursor(here.node.entries[key], joined(here.path, key))
        return here

    def named(self, *keys: str) -> "Iterator[tuple[str, Cursor]]":
        """Key and value of each entry of the mapping below `keys`."""
        found = self.get(*keys)
        if found is not None and isinstance(found.node, Mapping):
            for key, node in found.node.entries.items():
                yield key, Cursor(node, joined(found.path, key))

    def listed(self, *keys: str) -> "Iterator[Cursor]":
        """Each item of the list below `keys`."""
        found = self.get(*keys)
        if found is not None and isinstance(found.node, Sequence):
            for index, node in enumerate(found.node.items):
                yield Cursor(node, joined(found.path, index))
