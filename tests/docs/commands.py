"""docs/cli.md, from the commands themselves."""

import inspect
from pkgutil import resolve_name
from typing import Any

import typer

from cli.__main__ import GROUPS

APPLICATIONS = {"posthaste": "cli.__main__:app", "posthaste-requeue": "cli.requeue:requeue"}
GROUP_OF = {name: group for group, commands in GROUPS.items() for name in commands} | {"posthaste-requeue": "Operate"}

HEADER = """\
# The command line

For operators and developers at a terminal. `make docs` writes this page from the commands.
`posthaste COMMAND --help` prints the same.

In a checkout, `. .venv/bin/activate` puts the commands on the `PATH`. Each process of the service is one of them.
`posthaste --install-completion` completes commands and options in bash, zsh and fish. `posthaste --version` prints the version.

| exit code | meaning |
| --- | --- |
| 0 | done |
| 1 | error: a setting is wrong, a service is down, the API rejected the request, the job failed, or the operator declined |
| 2 | wrong argument or option; `purge`, `erase` or `posts truncate` without a terminal and without `--yes` |
| 3, 4 | named by the command, for example the timeout of `wait` |

Each command that prints data has `--json`. Its output is one JSON document; `dead-letters export` prints one a line.

`wait` and `report` exit with 1 if the job ended without success. Results go to standard output, problems to standard error.
"""


def page() -> str:
    """docs/cli.md."""
    sections: dict[str, str] = {}
    for line, target in APPLICATIONS.items():
        command = _command(resolve_name(target))
        sections |= _sections(line, command, typer.Context(command, info_name=line))
    parts = [HEADER]
    for group in GROUPS:
        parts.append(f"## {group}\n")
        parts += [text for line, text in sections.items() if GROUP_OF[line.removeprefix("posthaste ").split()[0]] == group]
    return "\n".join(parts)


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
    return {line: f"### {line}\n\n{inspect.cleandoc(command.help or '')}\n\n    {usage}\n{table}"}


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
