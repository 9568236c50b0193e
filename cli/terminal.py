"""What every command says to the person at the terminal, and how it fails."""

from typing import NoReturn

import typer
from rich.console import Console

console = Console()
problems = Console(stderr=True)


def fail(message: str, code: int = 1) -> NoReturn:
    """Say what is wrong on standard error and end with this exit code."""
    problems.print(f"posthaste: {message}", style="bold red", highlight=False, soft_wrap=True, markup=False)
    raise typer.Exit(code)
