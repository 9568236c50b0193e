"""Programs of the distribution that the tests run: a browser, and Prometheus' checker of metrics and rules.

Each is found on the `PATH`, or by the variable that names its file. `make test` installs missing ones; without them tests fail.
"""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dev import packages
from dev.errors import ServiceError

Which = Callable[[str], str | None]


@dataclass(frozen=True, slots=True)
class Tool:
    """One program: its package, its names on the `PATH`, and the variable that names another file."""

    title: str
    package: str
    names: Sequence[str]
    variable: str


CHROMIUM = Tool("Chromium", "chromium", ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome"), "CHROMIUM")
PROMTOOL = Tool("promtool", "prometheus", ("promtool",), "PROMTOOL")
TOOLS = (CHROMIUM, PROMTOOL)


def find(tool: Tool, environ: Mapping[str, str] = os.environ, which: Which = shutil.which) -> Path | None:
    """The tool's file; None if it is missing. ServiceError: its variable names no program."""
    if explicit := environ.get(tool.variable):
        if which(explicit) is None:
            raise ServiceError(f"{tool.variable} is {explicit!r}, which is no program: correct or unset it")
        return Path(explicit)
    return next((Path(path) for name in tool.names if (path := which(name))), None)


def require(tool: Tool) -> Path:
    """The tool's file. ServiceError names the command that installs it."""
    path = find(tool)
    if path is None:
        raise ServiceError(f"{tool.title} is missing: `make tools` installs it, or {tool.variable} names its file")
    return path


def install_missing(log: Path, report: Callable[[str], None], tools: Sequence[Tool] = TOOLS) -> None:
    """Install the packages of missing tools. A complete machine installs nothing. ServiceError says what to do."""
    missing = [tool for tool in tools if find(tool) is None]
    if missing:
        remedy = "; ".join(f"Install {tool.title}, or name its file in {tool.variable}" for tool in missing)
        packages.install([tool.package for tool in missing], log, report, remedy)
    for tool in tools:
        report(f"{tool.title}: {require(tool)}")
