"""Output of the commands: results on standard output, problems on standard error, exit codes; options of several commands."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated, NoReturn

import typer
from rich.console import Console

PIPE_WIDTH = 10_000  # columns of a pipe or a file: no table wraps there

console = Console(width=None if sys.stdout.isatty() else PIPE_WIDTH)
problems = Console(stderr=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


def say(text: str, to: Console = console) -> None:
    """Print one line as it is, without markup, highlighting or wrapping."""
    to.print(text, highlight=False, markup=False, soft_wrap=True)


def format_instant(instant: datetime) -> str:
    return f"{instant.astimezone(UTC):%Y-%m-%d %H:%M:%SZ}"


def confirm(question: str) -> None:
    """Ask, and end the command unless the answer is yes. Exit 2: nobody can answer."""
    if not sys.stdin.isatty():
        fail(f"{question} Without a terminal, --yes confirms", 2)
    typer.confirm(question, abort=True)


def print_json(value: object) -> None:
    print(json.dumps(value, default=str, indent=2))


def fail(message: str, code: int = 1) -> NoReturn:
    """Print the message on standard error and exit with `code`."""
    problems.print(f"posthaste: {message}", style="bold red", highlight=False, soft_wrap=True, markup=False)
    raise typer.Exit(code)


@contextmanager
def exit_on(*errors: type[Exception], subject: str = "", hint: str = "", code: int = 1) -> Iterator[None]:
    """Turn these errors into one line on standard error and an exit code. The line: `subject`, the error's text, `hint`."""
    try:
        yield
    except errors as error:
        fail(f"{subject}{error}{hint}", code)
