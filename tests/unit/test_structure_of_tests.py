"""Rooms of tests share code through tests/support only."""

import ast
import gc
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parents[1]


def _imports(file: Path) -> Iterator[str]:
    """The dotted names that a module of tests imports from tests, wherever it imports them."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "tests")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "tests":
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _violations(file: Path) -> Iterator[str]:
    room = file.relative_to(TESTS).parts[0]
    allowed = {room, "support"} if (TESTS / room).is_dir() else {"support"}
    for name in _imports(file):
        parts = name.split(".")[1:]
        if parts[0] not in allowed or any(part.startswith("test_") or part == "conftest" for part in parts):
            yield f"{file.relative_to(TESTS)} imports {name}"


def test_a_module_imports_its_own_room_and_support_and_no_test_module() -> None:
    # Python 3.11 fails if the collector runs a finalizer during a parse that parses, too (CPython's gh-106905).
    gc.disable()
    try:
        violations = [violation for file in TESTS.rglob("*.py") for violation in _violations(file)]
    finally:
        gc.enable()
    assert violations == []


def test_imports_inside_functions_count() -> None:
    assert "tests.support.services" in set(_imports(TESTS / "mutants" / "forks.py"))
