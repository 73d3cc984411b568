"""Mutants of a module: its source with one small change each, made on the syntax tree."""

import ast
import copy
from collections.abc import Iterator
from typing import NamedTuple

_COMPARE: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
}  # fmt: skip


class Mutant(NamedTuple):
    """One changed source: line, description of the change, and the whole text."""

    line: int
    change: str
    source: str


def mutants(source: str) -> Iterator[Mutant]:
    """Yield every mutant of a module, in the order of its lines. Type hints and docstrings stay as they are."""
    tree = ast.parse(source)
    for place, node in enumerate(ast.walk(tree)):
        for number, change in enumerate(_changes(node)):
            other = copy.deepcopy(tree)
            target = next(each for index, each in enumerate(ast.walk(other)) if index == place)
            _apply(target, number)
            ast.fix_missing_locations(other)
            yield Mutant(getattr(node, "lineno", 0), change, ast.unparse(other))


def _changes(node: ast.AST) -> list[str]:
    """Return the descriptions of the changes of one node; `_apply` makes them by number."""
    if isinstance(node, ast.Compare):
        new = _COMPARE.get(type(node.ops[0]))
        return [f"{type(node.ops[0]).__name__} -> {new.__name__}: {ast.unparse(node)}"] if new else []
    if isinstance(node, ast.BoolOp):
        return [f"and <-> or: {ast.unparse(node)}"]
    if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        return [f"{type(node.op).__name__} -> {_ARITHMETIC[type(node.op)].__name__}: {ast.unparse(node)}"]
    if isinstance(node, ast.If | ast.IfExp | ast.While):
        return [f"negated: {ast.unparse(node.test)}"]
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool):
        return [f"{node.value} -> {node.value + 1}"]
    if isinstance(node, ast.Return) and node.value is not None and not isinstance(node.value, ast.Constant):
        return [f"returns None: {ast.unparse(node.value)}"]
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        return [f"call removed: {ast.unparse(node.value)}"]
    if isinstance(node, ast.AugAssign):
        return [f"removed: {ast.unparse(node)}"]
    return []


def _apply(node: ast.AST, number: int) -> None:
    """Make one change of `_changes` in place."""
    assert number == 0, "one change a node"
    if isinstance(node, ast.Compare):
        node.ops[0] = _COMPARE[type(node.ops[0])]()
    elif isinstance(node, ast.BoolOp):
        node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
    elif isinstance(node, ast.BinOp):
        node.op = _ARITHMETIC[type(node.op)]()
    elif isinstance(node, ast.If | ast.IfExp | ast.While):
        node.test = ast.UnaryOp(ast.Not(), node.test)
    elif isinstance(node, ast.Constant):
        assert isinstance(node.value, int | float), "a number"
        node.value = node.value + 1
    elif isinstance(node, ast.Return):
        node.value = ast.Constant(None)
    elif isinstance(node, ast.Expr):
        node.value = ast.Constant(None)
    elif isinstance(node, ast.AugAssign):
        node.op = ast.Mult()
        node.value = ast.Constant(1)
