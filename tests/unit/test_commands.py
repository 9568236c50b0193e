"""The table of commands."""

import os
import re
import subprocess
import sys
from importlib.metadata import version

import pytest
from typer.core import TyperGroup

from cli.__main__ import GROUPS, LazyCommand, app


@pytest.mark.parametrize("name", app.commands)
def test_each_command_has_help_and_help_for_each_option(name: str) -> None:
    lazy = app.commands[name]
    assert isinstance(lazy, LazyCommand) and lazy.help
    command = lazy.load()
    assert command.help
    for each in command.commands.values() if isinstance(command, TyperGroup) else [command]:
        assert each.help
        assert all(getattr(option, "help", "") for option in each.params if option.param_type_name == "option")


def test_help_imports_no_commands() -> None:
    code = "import sys\nfrom cli.__main__ import app\napp(['--help'], standalone_mode=False)\n"
    code += "print(sorted({'pydantic', 'sqlalchemy', 'aiohttp', 'aio_pika'} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "[]"


def _run(*arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Run the script `posthaste`."""
    code = "import sys\nfrom cli.__main__ import main\nsys.argv[0] = 'posthaste'\nmain()"
    command, environment = [sys.executable, "-c", code, *arguments], {**os.environ, **variables}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("module", "option"), [("cli.__main__", "--version"), ("cli.requeue", "--help")])
def test_a_command_ends_without_a_collection(module: str, option: str) -> None:
    code = "import atexit, gc, sys\nsys.argv = ['posthaste', sys.argv[1]]\nfrom %s import main\n"
    code += "atexit.register(lambda: print('frozen:', gc.get_freeze_count() > 0))\nmain()"  # called after ours
    ran = subprocess.run([sys.executable, "-c", code % module, option], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "frozen: True"


def test_version() -> None:
    assert _run("--version").stdout == f"posthaste {version('posthaste')}\n"


def test_help_lists_the_commands_by_group() -> None:
    output = _run("--help", COLUMNS="100").stdout
    panels = {found[1]: found[2] for found in re.finditer(r"╭─ ([\w ]+?) ─+╮(.*?)╰", output, re.DOTALL)}
    for group, commands in GROUPS.items():
        assert re.findall(r"^│ (\S+) ", panels[group], re.MULTILINE) == list(commands)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (["posthaste", "d"], ["doctor", "dead-letters"]),
        (["posthaste", "dead-letters", ""], ["list", "show", "requeue", "discard", "export"]),
        (["posthaste", "dead-letters", "list", "--k"], ["--kind"]),
        (["posthaste", "send", "--priority", "h"], ["high"]),
    ],
)
def test_bash_completes_commands_and_options(line: list[str], expected: list[str]) -> None:
    words = {"COMP_WORDS": " ".join(line), "COMP_CWORD": str(len(line) - 1)}
    assert _run(_POSTHASTE_COMPLETE="complete_bash", **words).stdout.split() == expected


def test_the_completion_script_calls_the_command() -> None:
    script = _run("--show-completion", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1", SHELL="/bin/bash")
    assert script.returncode == 2  # without detection, the shell must be named
    named = _run("--show-completion", "bash", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert "_POSTHASTE_COMPLETE=complete_bash" in named.stdout and "complete -o default" in named.stdout


# These run, change something, or print one value: a line of text says all of it.
NO_DATA = {
    "up", "api", "consume", "relay", "sandbox", "rebuild", "migrate", "rabbitmq-user", "purge", "erase",
    "callbacks secret", "callbacks listen", "dead-letters discard", "dead-letters export", "providers pause",
    "providers resume", "providers move", "clients create", "clients revoke", "keys revoke", "posts seed", "posts truncate",
    "reports unschedule",
}  # fmt: skip


def test_each_command_that_prints_data_has_json() -> None:
    without = set()
    for name, lazy in app.commands.items():
        assert isinstance(lazy, LazyCommand)
        command = lazy.load()
        parts = {f"{name} {each}": part for each, part in command.commands.items()} if isinstance(command, TyperGroup) else {}
        for line, part in (parts or {name: command}).items():
            if not any("--json" in option.opts for option in part.params):
                without.add(line)
    assert without == NO_DATA
