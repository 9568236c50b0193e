"""The tools of the tests: found, named by a variable, installed if they are missing."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from dev import packages, tools
from dev.errors import ServiceError
from dev.tools import CHROMIUM, PROMTOOL, find, install_missing, require

LOG = Path("install.log")
Calls = list[Sequence[str]]


def _finds(*programs: str) -> Callable[[str], str | None]:
    return lambda name: next((program for program in programs if name in (program, Path(program).name)), None)


@pytest.fixture
def path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A `PATH` of one empty folder."""
    for tool in tools.TOOLS:
        monkeypatch.delenv(tool.variable, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def _program(folder: Path, name: str) -> Path:
    file = folder / name
    file.write_text("#!/bin/sh\n")
    file.chmod(0o755)
    return file


def test_a_tool_is_the_first_of_its_names_on_the_path() -> None:
    which = _finds("/usr/bin/google-chrome", "/usr/bin/chromium-browser")
    assert find(CHROMIUM, {}, which) == Path("/usr/bin/chromium-browser")
    assert find(PROMTOOL, {}, which) is None


def test_a_variable_takes_precedence() -> None:
    which = _finds("/usr/bin/chromium", "/opt/browser")
    assert find(CHROMIUM, {"CHROMIUM": "/opt/browser"}, which) == Path("/opt/browser")
    assert find(CHROMIUM, {"CHROMIUM": ""}, which) == Path("/usr/bin/chromium")


def test_a_variable_that_names_no_program_is_refused() -> None:
    with pytest.raises(ServiceError, match="CHROMIUM is '/opt/none', which is no program"):
        find(CHROMIUM, {"CHROMIUM": "/opt/none"}, _finds("/usr/bin/chromium"))


def test_a_missing_tool_is_a_failure_that_names_the_remedy(path: Path) -> None:
    with pytest.raises(ServiceError, match="promtool is missing: `make tools` installs it"):
        require(PROMTOOL)
    program = _program(path, "promtool")
    assert require(PROMTOOL) == program


def test_only_missing_packages_are_installed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: Calls = []

    def install(names: Sequence[str], *_: object) -> None:
        calls.append(names)
        _program(path, "promtool")

    monkeypatch.setattr(packages, "install", install)
    _program(path, "chromium")
    lines: list[str] = []
    install_missing(LOG, lines.append)
    assert calls == [["prometheus"]]
    assert lines == [f"Chromium: {path / 'chromium'}", f"promtool: {path / 'promtool'}"]
    install_missing(LOG, lines.append)
    assert calls == [["prometheus"]]


def test_a_package_without_its_program_is_a_failure(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "install", lambda *_: None)
    with pytest.raises(ServiceError, match="Chromium is missing"):
        install_missing(LOG, print)


def test_without_apt_get_the_failure_says_what_to_do(path: Path) -> None:
    assert shutil.which("apt-get") is None
    with pytest.raises(ServiceError, match=r"no apt-get.*Install Chromium, or name its file in CHROMIUM; Install promtool"):
        install_missing(LOG, print)
