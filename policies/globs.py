"""Names with wildcards, as plans, keys and routes write them: `*`, `?` and `[seq]`, case-sensitive, `*` crosses `/`.

The standard library's `fnmatch` rules. Its patterns are compiled once and kept by the library, and its `*` is written
with atomic groups, so that no name can make the matching slow.
"""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase


def is_glob(pattern: str) -> bool:
    """Return whether the pattern can match anything but itself."""
    return any(sign in pattern for sign in "*?[")


def matches_any(name: str, patterns: Iterable[str]) -> bool:
    """Return whether one of the patterns is the name or matches it."""
    for pattern in patterns:
        if name == pattern or fnmatchcase(name, pattern):
            return True
    return False
