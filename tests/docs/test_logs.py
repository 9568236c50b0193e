"""docs/logs.md lists every action of the code with its levels, and no other."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator

from tests.docs import ROOT

PRODUCT = ("api", "cli", "consumers", "infra", "service")
LEVELS = {"exception": "error"}  # structlog's method for an error with its traceback
PATTERNS = {"job.{applied.status}": "job.STATUS"}
OUTAGES = {f"{subject}.{state}" for subject in ("{self._subject}", "{name}") for state in ("down", "up", "failed", "waiting")}


def _logged() -> dict[str, set[str]]:
    """The levels of each action in the code. The loops' outages have a table of their own in operations.md."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for room in PRODUCT:
        for path in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Call) and node.args and (levels := _levels(node.func)):
                    for action in _actions(node.args[0]):
                        found[PATTERNS.get(action, action)] |= levels
    return {action: levels for action, levels in found.items() if action not in OUTAGES}


def _levels(function: ast.expr) -> set[str]:
    """The levels of a call that logs."""
    if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name) and function.value.id == "log":
        return {LEVELS.get(function.attr, function.attr)}
    if isinstance(function, ast.Name):
        return {"log_change": {"info", "warning"}, "_log_jobs": {"info"}}.get(function.id, set())
    return set()


def _actions(argument: ast.expr) -> Iterator[str]:
    match argument:
        case ast.Constant(value=str(action)):
            yield action
        case ast.JoinedStr():
            yield ast.unparse(argument)[2:-1]
        case ast.IfExp():
            yield from [*_actions(argument.body), *_actions(argument.orelse)]


def test_the_page_lists_every_action_with_its_levels() -> None:
    page = (ROOT / "docs/logs.md").read_text("utf-8")
    listed: dict[str, set[str]] = {}
    for actions, levels in re.findall(r"^\| (`[\w.]+`(?:, `[\w.]+`)*) \| ([a-z, ]+) \| [^|]+ \|$", page, re.MULTILINE):
        names, each = re.findall(r"`([\w.]+)`", actions), levels.split(", ")
        by_name = zip(names, each, strict=True) if len(names) == len(each) > 1 else ((name, levels) for name in names)
        listed |= {name: set(level.split(", ")) for name, level in by_name}
    logged = _logged()
    assert len(logged) > 60
    assert listed == logged
