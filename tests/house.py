"""Rules of the house that no library checks: `python -m tests.house` lists every breach and exits 1 if there is one.

    cycle       no module imports itself through others, imports under TYPE_CHECKING counted
    class       no class name stands for two classes of gateway, backends and policies
    docstring   a docstring opens with what the thing is or does, never with a bare clause ("What waits")
    citation    a document, rule, section or fault that a source line cites is in this repository

`tests/packaging/test_house.py` feeds each rule a tree that breaks it.
"""

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parents[1]
PACKAGES: Final = ("gateway", "backends", "policies")

BARE: Final = frozenset(
    "what who whom whose whether how when where which why that those whatever whoever whichever until while once if of "
    "it its he they them their nobody somebody nothing something everybody anybody so and but or as since".split()
)
"""First words of a docstring that leave its subject unnamed."""

_DOCUMENTS: Final = re.compile(r"\b(FAULTS|CASES|TRAPS|POLICY|ENGINES|STYLE)(?:\.md| row| section| rule|: `|'s `)")
_RULES: Final = re.compile(r"(?<!\w)(DESIGN )?rules? (\d+(?:(?:, | and |, and )\d+)*)")
_SECTIONS: Final = re.compile(r"\bDESIGN,? section \"?([^\"`).;,\n]+)")
_FAULTS: Final = re.compile(r"\b[Ff]aults? (\d+)(?:(?:, | and | to )(\d+))*")
_ISSUES: Final = re.compile(r"\b[Pp]oints? \d+ of (?:the )?issue|\bissue \d+(?:'s|,) point|\bof issue \d+")
_PATHS: Final = re.compile(r"`((?:gateway|backends|policies|tests|deploy|nginx)/[\w./-]+\.\w+)(?:::\w+)?`")
_MODULES: Final = re.compile(r"`((?:gateway|backends|policies|tests)(?:\.[a-z_0-9]+)+)(?:\.[A-Z]\w*(?:\.\w+)?)?`")


class Breach(NamedTuple):
    """One broken rule of the house at one place of the tree."""

    rule: str
    place: str
    text: str

    def __str__(self) -> str:
        return f"{self.place}: {self.rule}: {self.text}"


class Source(NamedTuple):
    """One Python file: its dotted module name, its path relative to the root, its text and its syntax tree."""

    module: str
    path: str
    text: str
    tree: ast.Module


def sources(root: Path, folders: tuple[str, ...] = PACKAGES) -> list[Source]:
    """Every Python file below `folders`, in the order of their paths."""
    found = []
    for folder in folders:
        for file in sorted((root / folder).rglob("*.py")):
            path = file.relative_to(root)
            parts = path.with_suffix("").parts
            module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            text = file.read_text("utf-8")
            found.append(Source(module, str(path), text, ast.parse(text)))
    return found


def imports(files: list[Source]) -> dict[str, set[str]]:
    """Module -> the modules of the tree that it imports, wherever the import stands."""
    known = {file.module for file in files}
    graph: dict[str, set[str]] = {}
    for file in files:
        found = set()
        for node in ast.walk(file.tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    full = f"{node.module}.{alias.name}"
                    found.add(full if full in known else node.module)
            elif isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
        graph[file.module] = (found & known) - {file.module}
    return graph


def cycles(files: list[Source]) -> Iterator[Breach]:
    """Import cycles: each a set of modules that reach each other (Tarjan 1972)."""
    graph = imports(files)
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []

    def visit(module: str) -> Iterator[list[str]]:
        index[module] = low[module] = len(index)
        stack.append(module)
        for other in sorted(graph[module]):
            if other not in index:
                yield from visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], index[other])
        if low[module] == index[module]:
            at = stack.index(module)
            found = stack[at:]
            del stack[at:]
            if len(found) > 1:
                yield sorted(found)

    for module in sorted(graph):
        if module not in index:
            for found in visit(module):
                yield Breach("cycle", found[0], f"imports itself through {', '.join(found[1:])}")


def class_names(files: list[Source]) -> Iterator[Breach]:
    """Class names that stand for more than one class."""
    places = defaultdict(list)
    for file in files:
        for node in ast.walk(file.tree):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(f"{file.path}:{node.lineno}")
    for name, found in sorted(places.items()):
        if len(found) > 1:
            yield Breach("class", found[1], f"{name} is also at {found[0]}")


def docstrings(files: list[Source]) -> Iterator[Breach]:
    """Docstrings of modules, classes, functions and attributes that open with a bare clause."""
    for file in files:
        for line, text in _texts(file.tree):
            words = re.findall(r"[\w'`]+", text)
            if words and words[0].lower().removesuffix("'s") in BARE:
                opening = " ".join(text.split()[:6])
                yield Breach("docstring", f"{file.path}:{line}", f'opens with a bare clause: "{opening} ..."')


def _texts(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, text) of every docstring, an attribute's string below it included."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for before, statement in zip([None, *node.body], node.body, strict=False):
            value = statement.value if isinstance(statement, ast.Expr) else None
            if not isinstance(value, ast.Constant) or not isinstance(value.value, str):
                continue
            if before is None or isinstance(before, ast.AnnAssign | ast.Assign):
                yield statement.lineno, value.value.strip()


def citations(files: list[Source], root: Path) -> Iterator[Breach]:
    """Documents, rules, sections, faults and files that a line names and that the repository does not have."""
    design, faults = _read(root / "DESIGN.md"), _read(root / "tests/faults/README.md")
    rules = set(re.findall(r"^(\d+)\. ", design, re.MULTILINE))
    headings = {heading.strip() for heading in re.findall(r"^#+ (.+)$", design, re.MULTILINE)}
    rows = set(re.findall(r"^\| *(\d+) *\|", faults, re.MULTILINE))
    known = {file.module for file in files}
    for file in files:
        if file.path == "tests/house.py" or file.path.startswith("tests/packaging/test_house"):
            continue
        for number, line in enumerate(file.text.split("\n"), 1):
            for text in _missing(line, rules, headings, rows, known, root):
                yield Breach("citation", f"{file.path}:{number}", text)


def _missing(
    line: str, rules: set[str], headings: set[str], rows: set[str], modules: set[str], root: Path
) -> Iterator[str]:
    """What one line cites in vain."""
    for found in _DOCUMENTS.finditer(line):
        yield f"{found.group(1)} is no document of this repository"
    cited = [rule for found in _RULES.finditer(line) if found.group(1) for rule in re.findall(r"\d+", found.group(2))]
    yield from (f"DESIGN.md has no rule {rule}" for rule in cited if rule not in rules)
    for found in _SECTIONS.finditer(line):
        if found.group(1).strip() not in headings:
            yield f'DESIGN.md has no section "{found.group(1).strip()}"'
    yield from (f'"{found.group(0)}" is in no document of this repository' for found in _ISSUES.finditer(line))
    cited = [row for found in _FAULTS.finditer(line) for row in re.findall(r"\d+", found.group(0))]
    yield from (f"tests/faults/README.md has no row {row}" for row in cited if row not in rows)
    yield from _no_such_file(line, modules, root)


def _no_such_file(line: str, modules: set[str], root: Path) -> Iterator[str]:
    """Files and modules in backticks that are not there."""
    for found in _PATHS.finditer(line):
        if not (root / found.group(1)).exists():
            yield f"there is no file {found.group(1)}"
    for found in _MODULES.finditer(line):
        name = found.group(1)
        if (
            name not in modules
            and name.rpartition(".")[0] not in modules
            and not (root / name.replace(".", "/")).is_dir()
        ):
            yield f"there is no module {name}"


def _read(path: Path) -> str:
    return path.read_text("utf-8") if path.exists() else ""


def breaches(root: Path) -> list[Breach]:
    """Every breach in the tree at `root`."""
    files = sources(root)
    every = [*files, *sources(root, ("tests",))]
    return [*cycles(files), *class_names(files), *docstrings(files), *citations(every, root)]


def main() -> int:
    """Print every breach, or those of the rules and path prefixes that are named; 1 where there is one."""
    wanted = sys.argv[1:]
    found = [
        breach
        for breach in breaches(ROOT)
        if not wanted or any(breach.rule == word or breach.place.startswith(word) for word in wanted)
    ]
    for breach in found:
        sys.stdout.write(f"{breach}\n")
    sys.stdout.write(f"house: {len(found)} breaches\n" if found else "house: no breach\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
