"""Output of the commands: results on standard output, problems on standard error, exit codes; options of several commands."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, NoReturn

import typer
from rich.console import Console

console = Console()
problems = Console(stderr=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


def say(text: str, to: Console = console) -> None:
    """Print one line as it is, without markup, highlighting or wrapping."""
    to.print(text, highlight=False, markup=False, soft_wrap=True)


def print_json(value: object) -> None:
    print(json.dumps(value, default=str, indent=2))


def fail(message: str, code: int = 1) -> NoReturn:
    """Print the message on standard error and exit with `code`."""
    problems.print(f"posthaste: {message}", style="bold red", highlight=False, soft_wrap=True, markup=False)
    raise typer.Exit(code)


@contextmanager
def exit_on(*errors: type[Exception], hint: str = "", code: int = 1) -> Iterator[None]:
    """Turn these errors into one line on standard error and an exit code. `hint` follows the error's text."""
    try:
        yield
    except errors as error:
        fail(f"{error}{hint}", code)
