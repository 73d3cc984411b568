"""The door to ruamel.yaml: one YAML 1.2 file in, a tree of nodes with places out, and nothing else that YAML can do.

Anchors, aliases, tags, merge keys, `%` directives, duplicate keys, several documents, files over 1 MiB and nesting over
32 are refused: each of them lets a file mean something else than what a reader sees, or cost more than it is long.
"""

from collections.abc import Generator
from pathlib import Path
from typing import Any, NoReturn

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)
from ruamel.yaml.parser import Parser
from ruamel.yaml.reader import ReaderError

from policies.config.mistakes import Mark, Mistake, PolicyError, joined
from policies.config.nodes import Mapping, Node, Scalar, Sequence

MAX_BYTES = 1 << 20
MAX_DEPTH = 32

_START = Mark(1, 1)


def read(path: Path) -> Mapping:
    """The tree of the file's one document. Raises PolicyError when the file cannot be read or is not plain YAML."""
    text = _text(path)
    _refuse_directives(str(path), text)
    return _NodeComposer(str(path), text).document()


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        _fail(str(path), _START, f"cannot be read: {reason}")
    if len(data) > MAX_BYTES:
        _fail(str(path), _START, "is larger than 1 MiB")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        mark = Mark(before.count(b"\n") + 1, error.start - before.rfind(b"\n"))
        _fail(str(path), mark, "is not UTF-8")


def _refuse_directives(file: str, text: str) -> None:
    # ruamel drops directives that it does not know without an event, so their only place, the top, is looked at here.
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("%"):
            _fail(file, Mark(number, 1), "% directives are not read")
        if line.strip() and not line.lstrip().startswith("#"):
            return


def _fail(file: str, mark: Mark, message: str, path: str = "") -> NoReturn:
    raise PolicyError([Mistake(file, mark, path, message)])


class _NodeComposer:
    """Builds the tree from ruamel's events, by recursion that `MAX_DEPTH` bounds."""

    def __init__(self, file: str, text: str) -> None:
        self._file = file
        self._mark = _START
        self._text = text
        self._events = self._parse(text)

    def document(self) -> Mapping:
        try:
            return self._document()
        finally:
            # The events hold this, and this holds them.
            self._events.close()

    def _document(self) -> Mapping:
        self._next()
        first = self._next()
        if isinstance(first, StreamEndEvent):
            _fail(self._file, _START, "is empty")
        root = self._node(self._next(), "", 1)
        self._next()
        after = self._next()
        if not isinstance(after, StreamEndEvent):
            _fail(self._file, self._mark, "holds more than one document")
        if not isinstance(root, Mapping):
            _fail(self._file, root.mark, f"expected a mapping (`key: value` lines), found {root}")
        return root

    def _parse(self, text: str) -> Generator[Any, None, None]:
        """ruamel's events; whatever it raises, on whatever input, ends here as a mistake with a place."""
        parser = YAML(typ="safe", pure=True)
        try:
            yield from parser.parse(text)
        except ReaderError as error:
            # Positions are those of a text that was decoded whole, save that a byte order mark was taken off.
            before = text[: error.position]
            mark = Mark(before.count("\n") + 1, len(before) - before.rfind("\n"))
            _fail(self._file, mark, f"is not YAML: a control character ({ord(text[error.position]):#04x})")
        except MarkedYAMLError as error:
            found = error.problem_mark or error.context_mark
            mark = self._mark if found is None else Mark(found.line + 1, found.column + 1)
            reason = ", ".join(part for part in (error.context, error.problem) if part)
            _fail(self._file, mark, f"is not YAML: {reason}")
        except YAMLError as error:
            _fail(self._file, self._mark, f"is not YAML: {error}")
        except (
            ArithmeticError,
            AssertionError,
            AttributeError,
            LookupError,
            TypeError,
            ValueError,
            RecursionError,
        ) as error:
            # Slips of the parser on broken text; the place is that of the last event before it.
            _fail(self._file, self._mark, f"is not YAML ({type(error).__name__})")
        finally:
            # Its parts and it hold each other, and the text: 7 KB a reload that only the garbage collector would find.
            for part in (*vars(parser).values(), parser):
                if isinstance(part, (YAML, Parser)):
                    vars(part).clear()

    def _next(self) -> Any:
        event = next(self._events)
        self._mark = Mark(event.start_mark.line + 1, event.start_mark.column + 1)
        return event

    def _node(self, event: Any, path: str, depth: int) -> Node:
        mark = self._mark
        if isinstance(event, AliasEvent):
            _fail(self._file, mark, "aliases (*name) are not read", path)
        if event.anchor is not None:
            _fail(self._file, mark, "anchors (&name) are not read", path)
        if event.tag is not None:
            _fail(self._file, mark, "tags (!name) are not read", path)
        if isinstance(event, ScalarEvent):
            return Scalar(event.value, event.style is not None, mark)
        if depth > MAX_DEPTH:
            _fail(self._file, mark, f"is nested deeper than {MAX_DEPTH}")
        if isinstance(event, SequenceStartEvent):
            return self._sequence(mark, path, depth)
        assert isinstance(event, MappingStartEvent)
        return self._mapping(mark, path, depth)

    def _sequence(self, mark: Mark, path: str, depth: int) -> Sequence:
        items: list[Node] = []
        while not isinstance(event := self._next(), SequenceEndEvent):
            items.append(self._node(event, joined(path, len(items)), depth + 1))
        return Sequence(tuple(items), mark)

    def _mapping(self, mark: Mark, path: str, depth: int) -> Mapping:
        entries: dict[str, Node] = {}
        marks: dict[str, Mark] = {}
        while not isinstance(event := self._next(), MappingEndEvent):
            key_mark = self._mark
            key = self._key(event, path, depth)
            if key in entries:
                _fail(self._file, key_mark, f"duplicate key, first in line {marks[key].line}", joined(path, key))
            value = self._node(self._next(), joined(path, key), depth + 1)
            # The event of a value that was left out stands where the next thing begins; its key is where to look.
            entries[key] = Scalar("", False, key_mark) if isinstance(value, Scalar) and value.empty else value
            marks[key] = key_mark
        return Mapping(entries, marks, mark)

    def _key(self, event: Any, path: str, depth: int) -> str:
        mark = self._mark
        key = self._node(event, path, depth + 1)
        if not isinstance(key, Scalar):
            _fail(self._file, mark, f"a key must be a word, not {key}", path)
        if key.empty:
            _fail(self._file, mark, "a key is missing", path)
        if key.text == "<<" and not key.quoted:
            _fail(self._file, mark, "merge keys (<<) are not read", path)
        return key.text
