"""docs/cli.md, from the commands themselves."""

import inspect
from pkgutil import resolve_name
from typing import Any

import typer

APPLICATIONS = {"posthaste": "cli.__main__:app", "posthaste-requeue": "cli.requeue:requeue"}

HEADER = """\
# The command line

For operators and developers at a terminal. `make docs` writes this page from the commands.
`posthaste COMMAND --help` prints the same.

In a checkout, `. .venv/bin/activate` puts the commands on the `PATH`. Each process of the service is one of them.
"""


def page() -> str:
    """docs/cli.md."""
    sections: dict[str, str] = {}
    for line, target in APPLICATIONS.items():
        command = _command(resolve_name(target))
        sections |= _sections(line, command, typer.Context(command, info_name=line))
    return HEADER + "".join(f"\n{text}" for _, text in sorted(sections.items()))


def _command(target: Any) -> Any:
    """The command of an application, a function or a command that imports its module when it runs."""
    if isinstance(target, typer.Typer):
        return typer.main.get_command(target)
    if inspect.isfunction(target):
        application = typer.Typer(add_completion=False)
        application.command()(target)
        return typer.main.get_command(application)
    return target.load() if hasattr(target, "load") else target


def _sections(line: str, command: Any, context: typer.Context) -> dict[str, str]:
    """The section of a command, and those of its subcommands, by command line."""
    if hasattr(command, "list_commands"):
        found: dict[str, str] = {}
        for name in command.list_commands(context):
            child = _command(command.get_command(context, name))
            if f"{line} {name}" not in APPLICATIONS:
                found |= _sections(f"{line} {name}", child, typer.Context(child, info_name=name, parent=context))
        return found
    usage = " ".join([line, *command.collect_usage_pieces(context)])
    records = [param.get_help_record(context) for param in command.get_params(context)]
    rows = [f"| `{_cell(name)}` | {_cell(text)} |\n" for name, text in filter(None, records) if name != "--help"]
    table = "\n| argument or option | meaning |\n| --- | --- |\n" + "".join(rows) if rows else ""
    return {line: f"## {line}\n\n{inspect.cleandoc(command.help or '')}\n\n    {usage}\n{table}"}


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
