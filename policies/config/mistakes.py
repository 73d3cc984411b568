"""Mistakes of a policy file and their places: one value for each mistake, all raised at once."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]+")
_LONGEST_QUOTE = 80

NOT_AVAILABLE = "not available in this version"


@dataclass(frozen=True, slots=True, order=True)
class Mark:
    """A place in the file; line and column count from 1, as editors do."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing to mend. `str()` is the line that an operator reads: `FILE:LINE:COL dotted.path[0].key: message`."""

    file: str
    mark: Mark
    path: str
    message: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.mark.line}:{self.mark.column}"
        return _printable(f"{where} {self.path}: {self.message}" if self.path else f"{where}: {self.message}")


class PolicyError(Exception):
    """The file cannot be used. `mistakes` holds every one that was found, in the file's order, and is never empty."""

    def __init__(self, mistakes: Iterable[Mistake]) -> None:
        unique = dict.fromkeys(mistakes)
        self.mistakes: tuple[Mistake, ...] = tuple(sorted(unique, key=lambda mistake: (mistake.mark, mistake.path)))
        super().__init__("\n".join(map(str, self.mistakes)))


def _printable(text: str) -> str:
    """One line that no terminal obeys: keys and foreign messages come from the file, whoever wrote it."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def quoted(text: str) -> str:
    """Text from the file as it may stand in a message: one line, printable, not endless."""
    shown = text if len(text) <= _LONGEST_QUOTE else text[:_LONGEST_QUOTE] + "..."
    return f'"{_printable(shown)}"'


def joined(path: str, key: str | int) -> str:
    """`path` with one more step: `routes[0]`, `pools.a`, and `pools["a.b"]` where a dot would mislead."""
    if isinstance(key, int):
        return f"{path}[{key}]"
    if not _PLAIN_KEY.fullmatch(key):
        return f"{path}[{quoted(key)}]"
    return f"{path}.{key}" if path else key


def known(names: Iterable[str], most: int | None = None) -> str:
    """The names that would have been right, in their own order, each once; no more than `most` of them."""
    found = list(dict.fromkeys(names))
    more = f" and {len(found) - most} more" if most is not None and len(found) > most else ""
    return f"(known: {', '.join(found[:most]) or 'none'}{more})"


def unknown(what: str, given: str, names: Sequence[str]) -> str:
    """A name out of a fixed list that is not in it: the nearest one, and all of them."""
    # Only a wrong file pays for the import.
    import difflib

    near = difflib.get_close_matches(given, names, n=1, cutoff=0.6)
    hint = f', did you mean "{near[0]}"?' if near else ""
    return f"no {what} {quoted(given)}{hint} {known(names)}"
