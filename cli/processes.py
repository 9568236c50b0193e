"""`posthaste api`, `consume` and `relay`: each replaces this process by one of the service's processes."""

import os
import sys
from typing import Annotated, NoReturn

import typer

from cli.terminal import fail
from jobs.model import Kind


def api() -> None:
    _execute("api")


def consume(
    kinds: Annotated[
        list[str] | None, typer.Argument(help="Kinds of jobs: messages, reports, callbacks. Default: all.")
    ] = None,
) -> None:
    known = [f"{kind}s" for kind in Kind]
    if unknown := set(kinds or []) - set(known):
        fail(f"unknown kind: {', '.join(sorted(unknown))}; the kinds are {', '.join(known)}", 2)
    _execute("consumers", *(kinds or known))


def relay() -> None:
    _execute("consumers", "relay")


def _execute(*module: str) -> NoReturn:
    """Replace this process: each process has its own composition root."""
    os.execv(sys.executable, [sys.executable, "-m", *module])  # noqa: S606
