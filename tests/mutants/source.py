"""The SQL in our modules' source: where it is, its mutants, and the part of it that an executed statement shows."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.mutants.sql import mutants

_SQL = re.compile(r"\b(SELECT|UPDATE|INSERT|DELETE|WHERE|AND)\b|= ANY\(|(=|>=|<) :\w+")
_QUOTED = re.compile(r"""([frb]*(?:\"{3}|\"))(.*?)(\"{3}|\")""", re.DOTALL)
_PARAMETER = re.compile(r"%\((\w+)\)s")


@dataclass(frozen=True, slots=True)
class Planted:
    """A mutant of a module: its whole source, and `pieces` of the unchanged text by which its statement is known."""

    path: Path
    line: int
    change: str
    source: str
    pieces: tuple[str, ...]

    @property
    def module(self) -> str:
        return ".".join(self.path.with_suffix("").parts)

    def covered_by(self, executed: str) -> bool:
        return all(piece in executed for piece in self.pieces)


def planted(path: Path) -> Iterator[Planted]:
    """Every mutant of every piece of SQL in a module."""
    source = path.read_text()
    starts = [0]
    for text_line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(text_line))
    for node in _literals(ast.parse(source)):
        assert node.end_lineno is not None and node.end_col_offset is not None
        start, end = starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset
        opening, text, closing = _QUOTED.fullmatch(source[start:end]).groups()  # type: ignore[union-attr]
        start, end = start + len(opening), end - len(closing)
        for mutant in mutants(text):
            line = source.count("\n", 0, start + mutant.offset) + 1
            yield Planted(path, line, mutant.change, source[:start] + mutant.text + source[end:], _pieces(text))


def _literals(tree: ast.Module) -> Iterator[ast.expr]:
    """The string literals that hold SQL. Docstrings and the pieces of an f-string are not literals of their own."""
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)} - {
        id(node) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)
    }
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    docstrings = {id(node.body[0].value) for node in ast.walk(tree) if isinstance(node, documented) and _documented(node)}  # type: ignore[attr-defined]
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.JoinedStr | ast.Constant)
            and id(node) not in inside | docstrings
            and _SQL.search(ast.unparse(node))
        ):
            yield node


def _documented(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return bool(node.body) and isinstance(node.body[0], ast.Expr) and isinstance(node.body[0].value, ast.Constant)


def normal(statement: str) -> str:
    """A statement as our source writes it: with named parameters, and one space for each run of white space."""
    return " ".join(_PARAMETER.sub(r":\1", statement).replace("%%", "%").replace("\\:", ":").split())


def _pieces(literal: str) -> tuple[str, ...]:
    text = literal.replace("\\\\:", ":")
    return tuple(piece for hole in re.split(r"\{[^{}]*\}", text) if len(piece := " ".join(hole.split())) > 3)
