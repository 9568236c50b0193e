"""The table of commands."""

import subprocess
import sys

import pytest
from typer.core import TyperGroup

from cli.__main__ import COMMANDS, LazyCommand, app


@pytest.mark.parametrize("name", COMMANDS)
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
